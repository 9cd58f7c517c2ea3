//! The command line: the only place that parses text and renders errors.

mod api;
mod bind;
mod change;
mod check;
mod descriptor;
mod device;
mod devices;
#[cfg(any(test, feature = "dist"))]
pub(crate) mod dist;
mod event_monitor;
mod guest;
mod info;
mod link;
mod managed;
mod removal;
mod report;
mod run;
mod size;
mod stats;
mod suggest;
mod unbind;
mod usage;
mod vf;

use ::devices::host::{Problem, without_sudo};
use ::devices::pci::HostSbdf;
use clap::{Parser, Subcommand};
use log::LevelFilter;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Hands a real PCI device to a Linux guest.
#[derive(Parser)]
#[command(name = "ferry", version, arg_required_else_help = true)]
struct Arguments {
    /// Say more on standard error: -v what is decided, -vv what is done, -vvv everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Arguments>),
    Check(check::Arguments),
    Devices(devices::Arguments),
    Bind(bind::Arguments),
    Unbind(unbind::Arguments),
    Vf(vf::Arguments),
    Info(info::Arguments),
    Stats(stats::Arguments),
    Add(change::Add),
    Remove(change::Remove),
    Pause(guest::Pause),
    Resume(guest::Resume),
    Reboot(guest::Reboot),
    PowerButton(guest::PowerButton),
    Stop(guest::Stop),
    Wait(guest::Wait),
}

/// Ferry's own exit codes. They are even: a guest's status from the debug-exit port is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// The command line is wrong.
    Usage = 2,
    /// The host can't run this guest; it was never started.
    HostSetUp = 4,
    /// The guest crashed.
    GuestCrash = 6,
    /// The host failed while the guest ran.
    HostFailure = 8,
    /// The user or a signal stopped Ferry.
    Stopped = 10,
    /// The guest reset itself, and `--no-reboot` was given.
    GuestReset = 12,
    /// A device reported an uncorrectable error, and the guest was stopped for it.
    DeviceFailure = 14,
    /// The guest's kernel panicked, and told of it.
    GuestPanic = 16,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ends a command early: one problem or several, and the exit code.
struct Failure {
    exit: Exit,
    problems: Vec<Problem>,
}

impl Failure {
    fn usage(problem: Problem) -> Self {
        Self {
            exit: Exit::Usage,
            problems: vec![problem],
        }
    }

    fn host(problem: Problem) -> Self {
        Self::of_host(vec![problem])
    }

    /// Several of these.
    fn of_host(problems: Vec<Problem>) -> Self {
        Self {
            exit: Exit::HostSetUp,
            problems,
        }
    }

    /// Tells the user.
    fn report(self) -> ExitCode {
        for problem in self.problems {
            let problem = match at_root_shell() {
                true => problem.for_root(),
                false => problem,
            };
            eprintln!("ferry: {problem}");
        }
        self.exit.into()
    }
}

/// Whether who reads a command of Ferry's would paste it into a shell of root's: `sudo` tells by a variable that it is none.
fn at_root_shell() -> bool {
    rustix::process::geteuid().is_root() && std::env::var_os("SUDO_UID").is_none()
}

/// A text with commands as the one who reads it has to type them.
fn for_reader(text: String) -> String {
    commands_for(at_root_shell(), text)
}

fn commands_for(at_root_shell: bool, text: String) -> String {
    match at_root_shell {
        true => without_sudo(&text),
        false => text,
    }
}

/// Runs the command that the process's arguments name.
pub(crate) fn main(start: Instant) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => match usage::problem(&error) {
            Some(problem) => return Failure::usage(problem).report(),
            // Prints the help or the version.
            None => error.exit(),
        },
    };
    start_log(arguments.verbose);
    let result = match arguments.command {
        Command::Run(arguments) => run::run(*arguments, start),
        Command::Check(arguments) => check::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Bind(arguments) => bind::run(&arguments),
        Command::Unbind(arguments) => unbind::run(&arguments),
        Command::Vf(arguments) => vf::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Add(command) => command.run(),
        Command::Remove(command) => command.run(),
        Command::Pause(command) => command.run(),
        Command::Resume(command) => command.run(),
        Command::Reboot(command) => command.run(),
        Command::PowerButton(command) => command.run(),
        Command::Stop(command) => command.run(),
        Command::Wait(command) => command.run(),
    };
    result.unwrap_or_else(Failure::report)
}

/// The address of a device of the host.
fn address(text: &str) -> Result<HostSbdf, Problem> {
    text.parse().map_err(|error| {
        Problem::new(
            format!("{} is no device of this host", shown(text)),
            format!("{error}"),
            "give an address, e.g. 0000:01:00.0, as they are listed by: ferry devices --all",
        )
    })
}

/// The value of a switch; `None` if it is neither.
fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// An argument as a message shows it: one that is empty or has blanks in quotes.
fn shown(text: &str) -> String {
    if text.is_empty() || text.contains(char::is_whitespace) {
        format!("'{text}'")
    } else {
        text.to_owned()
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "ferry: {level}: {}", record.args())
        })
        .init();
}
