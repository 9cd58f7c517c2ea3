//! `cargo ci …`: the one entry for every chore of the Ferry project.

use std::process::ExitCode;

fn main() -> ExitCode {
    ci::cli::run()
}
