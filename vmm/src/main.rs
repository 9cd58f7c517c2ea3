//! `ferry`: hands a real PCI device to a Linux guest.

mod cli;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    cli::main(Instant::now())
}
