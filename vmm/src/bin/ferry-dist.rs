//! Writes what is installed beside `ferry`, shell completions and man pages, and prints the files' paths. `cargo ci dist`
//! runs it.
#![expect(
    dead_code,
    reason = "commands are described here, and carried out by the other binary"
)]

#[path = "../cli/mod.rs"]
mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(share), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: ferry-dist PREFIX/share");
        return ExitCode::from(2);
    };
    match cli::dist::write(&share) {
        Ok(files) => {
            files.iter().for_each(|file| println!("{}", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ferry-dist: {}: {error}", share.display());
            ExitCode::FAILURE
        }
    }
}
