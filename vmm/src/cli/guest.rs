//! Which running guest a command is for, and the commands that ask it one thing.

use super::api::socket_of;
use super::{Exit, Failure};
use devices::host::Problem;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vmm::api::{ClientError, ask};

/// How long an answer may take that waits for nothing but Ferry.
const SOON: Duration = Duration::from_secs(60);

/// A guest by its name or its socket
#[derive(clap::Args)]
pub(super) struct Target {
    /// The guest's name, as of ferry run --name NAME
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The guest's socket instead, as of ferry run --api-socket PATH
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Stop all vCPUs of a running guest, and its clock
#[derive(clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    target: Target,
}

/// Let a paused guest go on
#[derive(clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    target: Target,
}

/// Reset a running guest
#[derive(clap::Args)]
pub(super) struct Reboot {
    #[command(flatten)]
    target: Target,
}

/// Press a running guest's power button
#[derive(clap::Args)]
pub(super) struct PowerButton {
    #[command(flatten)]
    target: Target,
}

/// End a running guest: press its power button and wait until it is off
#[derive(clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    target: Target,
    /// End it at once, as if its plug were pulled
    #[arg(long)]
    force: bool,
    /// How long the guest may take
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    timeout: u32,
}

/// Wait for a guest's end; the exit code is that of its ferry run
#[derive(clap::Args)]
pub(super) struct Wait {
    #[command(flatten)]
    target: Target,
}

/// A running guest.
pub(super) struct Guest {
    socket: PathBuf,
}

impl Target {
    /// The guest meant.
    pub(super) fn guest(&self) -> Result<Guest, Failure> {
        Guest::of(self.name.as_deref(), self.socket.as_deref())
    }

    /// What the user calls it.
    pub(super) fn label(&self) -> String {
        let socket = self.socket.as_ref();
        let of_socket = || socket.map(|path| path.display().to_string());
        self.name.clone().or_else(of_socket).unwrap_or_default()
    }
}

impl Guest {
    /// The guest of this name or this socket.
    pub(super) fn of(name: Option<&str>, socket: Option<&Path>) -> Result<Self, Failure> {
        let problem =
            |what: &str, why: &str, remedy: &str| Failure::usage(Problem::new(what, why, remedy));
        let socket = match (name, socket) {
            (Some(name), None) => socket_of(name).map_err(Failure::usage)?,
            (None, Some(socket)) => socket.to_owned(),
            (None, None) => {
                let remedy = "give its name, as of ferry run --name NAME, or --socket PATH";
                return Err(problem("no guest is named", "there may be several", remedy));
            }
            (Some(_), Some(_)) => {
                let why = "there are a name and --socket";
                return Err(problem(
                    "two guests are named",
                    why,
                    "leave one of them out",
                ));
            }
        };
        Ok(Self { socket })
    }

    /// Asks for what takes no longer than Ferry needs for it.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.ask("GET", path, None, Some(SOON))?;
        Ok(answer.unwrap_or_default())
    }

    /// Has something done that takes no longer than Ferry needs for it.
    pub(super) fn put(&self, path: &str) -> Result<(), Failure> {
        self.ask("PUT", path, None, Some(SOON)).map(|_| ())
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        limit: Option<Duration>,
    ) -> Result<Option<Value>, Failure> {
        let asked = ask(&self.socket, method, path, body);
        asked
            .and_then(|asked| asked.answer(limit))
            .map_err(|error| self.failure(error))
    }

    /// Its exit code, when it has ended.
    fn wait(
        &self,
        then: impl FnOnce() -> Result<(), Failure>,
        limit: Option<Duration>,
    ) -> Result<ExitCode, Failure> {
        let asked = ask(&self.socket, "GET", "ferry.wait", None);
        let asked = asked.map_err(|error| self.failure(error))?;
        then()?;
        let answer = asked.answer(limit).map_err(|error| self.failure(error))?;
        let code = answer.and_then(|answer| answer["exit_code"].as_u64());
        Ok(code
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or_default()
            .into())
    }

    fn failure(&self, error: ClientError) -> Failure {
        let socket = self.socket.display();
        let problems = match error {
            ClientError::Refused { problems, .. } => problems,
            ClientError::NoGuest { source, .. } => vec![Problem::new(
                format!("no guest answers at {socket}"),
                source.to_string(),
                "start one there, or give the name or socket of one that runs: ferry run --name NAME …",
            )],
            ClientError::Late => vec![Problem::new(
                "the guest has not done so in time",
                "it does not listen, or takes longer",
                "give it more time with --timeout SECONDS, or none with --force",
            )],
            ClientError::Gone => vec![Problem::new(
                format!("the guest at {socket} is gone"),
                "its Ferry ended without an answer",
                "see how, in the output of its ferry run",
            )],
            ClientError::Strange(_) => vec![Problem::new(
                format!("{socket} is no guest's socket"),
                "what answers there is no HTTP",
                "give the path of: ferry run --api-socket PATH",
            )],
        };
        Failure {
            exit: Exit::HostSetUp,
            problems,
        }
    }
}

fn put(target: &Target, path: &str) -> Result<ExitCode, Failure> {
    target.guest()?.put(path)?;
    Ok(ExitCode::SUCCESS)
}

impl Pause {
    /// `ferry pause`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        put(&self.target, "vm.pause")
    }
}

impl Resume {
    /// `ferry resume`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        put(&self.target, "vm.resume")
    }
}

impl Reboot {
    /// `ferry reboot`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        put(&self.target, "vm.reboot")
    }
}

impl PowerButton {
    /// `ferry power-button`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        put(&self.target, "vm.power-button")
    }
}

impl Stop {
    /// `ferry stop`. What the guest's exit code is does not matter here: it has ended.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let guest = self.target.guest()?;
        if self.force {
            guest.ask("PUT", "vm.shutdown", None, None)?;
        } else {
            let limit = Duration::from_secs(self.timeout.into());
            guest.wait(|| guest.put("vm.power-button"), Some(limit))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Wait {
    /// `ferry wait`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        self.target.guest()?.wait(|| Ok(()), None)
    }
}
