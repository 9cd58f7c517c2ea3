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

/// What to do about a Ferry that does not answer what it always can.
const SILENT: &str =
    "see whether its ferry run is stopped (kill -CONT goes on with it) or very busy, and try again";
/// What to do about a guest that does not end.
const IMPATIENT: &str = "give it more time with --timeout SECONDS, or none with --force";

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
#[derive(Clone)]
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
        answer.ok_or_else(|| self.strange())
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
        self.answer(method, path, body, limit)
            .map_err(|error| self.failure(error, SILENT))
    }

    fn answer(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        limit: Option<Duration>,
    ) -> Result<Option<Value>, ClientError> {
        ask(&self.socket, method, path, body, limit)?.answer(limit)
    }

    /// Its exit code, when it has ended, which it may do because of `then`; `late` is what can be done when that takes too long.
    fn wait(
        &self,
        then: impl FnOnce() -> Result<(), ClientError>,
        limit: Option<Duration>,
        late: &str,
    ) -> Result<u8, Failure> {
        let failure = |error| self.failure(error, late);
        let asked = ask(&self.socket, "GET", "ferry.wait", None, limit).map_err(failure)?;
        let answer = match then() {
            // It may have ended by itself just before: whoever waited longer knows.
            Err(error) if may_have_ended(&error) => {
                asked.answer(limit).map_err(|_| failure(error))?
            }
            Err(error) => return Err(failure(error)),
            Ok(()) => asked.answer(limit).map_err(failure)?,
        };
        let code = answer.and_then(|answer| answer["exit_code"].as_u64());
        let code = code.and_then(|code| u8::try_from(code).ok());
        code.ok_or_else(|| self.strange())
    }

    fn strange(&self) -> Failure {
        self.failure(ClientError::Strange(self.socket.clone()), SILENT)
    }

    /// What the user is told; `late` is what can be done about a guest that takes too long.
    fn failure(&self, error: ClientError, late: &str) -> Failure {
        let socket = self.socket.display();
        let problems = match error {
            ClientError::Refused { problems, .. } => problems,
            ClientError::NoGuest { source, .. } => vec![Problem::new(
                format!("no guest answers at {socket}"),
                source.to_string(),
                "start one there, or give the name or socket of one that runs: ferry run --name NAME …",
            )],
            ClientError::Late => vec![Problem::new(
                format!("the guest at {socket} has not done so in time"),
                "it, or its Ferry, does not listen, or takes longer",
                late,
            )],
            ClientError::Gone => vec![Problem::new(
                format!("the guest at {socket} is gone"),
                "its Ferry ended without an answer",
                "see how, in the output of its ferry run",
            )],
            ClientError::Strange(_) => vec![Problem::new(
                format!("{socket} is no guest's socket"),
                "what answers there is no Ferry, or one of another version",
                "give the path of: ferry run --api-socket PATH",
            )],
        };
        Failure {
            exit: Exit::HostSetUp,
            problems,
        }
    }
}

/// Whether a guest that has just ended fails a command like this.
fn may_have_ended(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => *status == 500,
        ClientError::Gone | ClientError::NoGuest { .. } => true,
        ClientError::Late | ClientError::Strange(_) => false,
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
            let limit = Some(Duration::from_secs(self.timeout.into()));
            let press = || {
                guest
                    .answer("PUT", "vm.power-button", None, limit)
                    .map(|_| ())
            };
            guest.wait(press, limit, IMPATIENT)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Wait {
    /// `ferry wait`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let code = self.target.guest()?.wait(|| Ok(()), None, SILENT)?;
        Ok(code.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    const END: &str = "HTTP/1.1 200 \r\nContent-Length: 15\r\n\r\n{\"exit_code\":0}";
    const ENDED: &str = "HTTP/1.1 500 \r\nContent-Length: 13\r\n\r\n[\"a\",\"b\",\"c\"]";
    const PAUSED: &str = "HTTP/1.1 405 \r\nContent-Length: 13\r\n\r\n[\"a\",\"b\",\"c\"]";

    fn accept(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream
    }

    /// Stops a guest that answers the press of its button, and then whoever waits for its end.
    fn stop(press: &'static str, end: &'static str) -> Result<ExitCode, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let ferry = thread::spawn(move || {
            let mut waiting = accept(&listener);
            let mut pressing = accept(&listener);
            pressing.write_all(press.as_bytes()).unwrap();
            drop(pressing);
            // Whoever waits may be gone.
            let _ = waiting.write_all(end.as_bytes());
        });
        let stop = Stop {
            target: Target {
                name: None,
                socket: Some(socket),
            },
            force: false,
            timeout: 20,
        };
        let stopped = stop.run();
        ferry.join().unwrap();
        stopped
    }

    #[test]
    fn a_guest_that_ends_before_its_button_is_pressed_is_stopped() {
        assert!(stop("HTTP/1.1 204 \r\n\r\n", END).is_ok());
        assert!(stop(ENDED, END).is_ok());
        assert!(stop("", END).is_ok());
        // What failed first is told.
        let failure = stop(ENDED, "").unwrap_err();
        assert_eq!(failure.problems, [Problem::new("a", "b", "c")]);
        assert!(stop(PAUSED, END).is_err());
    }

    #[test]
    fn an_end_that_is_not_told_is_no_success() {
        const BUTTON: &str = "HTTP/1.1 204 \r\n\r\n";
        for end in [
            "",
            "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 \r\nContent-Length: 15\r\n\r\n{\"exit_code\":",
            "HTTP/1.1 200 \r\nContent-Length: 17\r\n\r\n{\"exit_code\":256}",
            "HTTP/1.1 204 \r\n\r\n",
            "HTTP/1.1 200 \r\n\r\nhello",
        ] {
            assert!(stop(BUTTON, end).is_err(), "{end}");
        }
    }
}
