//! A running guest as the clients of its API see it.

use crate::{MOMENT, Run, site};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Where a guest's API is served.
#[derive(Debug)]
pub struct Api {
    folder: TempDir,
}

/// What a command of `ferry` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Api {
    /// A socket that no guest has yet.
    ///
    /// # Panics
    /// When there is no place for one.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        match tempfile::Builder::new().prefix("ferry-api-").tempdir() {
            Ok(folder) => Self { folder },
            Err(error) => panic!("no temporary folder: {error}"),
        }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// The same guest, with this API.
    #[must_use]
    pub fn of(&self, run: Run) -> Run {
        run.option("--api-socket", self.socket())
    }

    /// Runs `ferry WORDS --socket …`.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    #[track_caller]
    pub fn ferry(&self, words: &[&str]) -> Told {
        told(self.command(words).output())
    }

    /// The command, to be started.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(site::ferry());
        command.args(words).arg("--socket").arg(self.socket());
        command
    }

    /// The same for a command that must succeed; gives what it wrote.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let told = self.ferry(words);
        assert_eq!(told.code, Some(0), "ferry {words:?}: {told:?}");
        told.output
    }

    /// `vm.info`.
    ///
    /// # Panics
    /// When it is no JSON.
    #[must_use]
    #[track_caller]
    pub fn info(&self) -> Value {
        parsed(&self.ok(&["info", "--json"]))
    }

    /// `ferry.stats`.
    ///
    /// # Panics
    /// When it is no JSON.
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> Value {
        parsed(&self.ok(&["stats"]))
    }

    /// A request of one's own; gives status and body.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = exchange(&self.socket(), request.as_bytes());
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        let (Some(status), Some((_, body))) = (status, answer.split_once("\r\n\r\n")) else {
            panic!("{method} {path}: {answer:?}");
        };
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends bytes to a socket and gives what comes back until the other end closes.
///
/// # Panics
/// When nobody listens, or it takes too long.
#[must_use]
#[track_caller]
pub fn exchange(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => panic!("{}: {error}", socket.display()),
    };
    // Whoever is refused early may not get to send all, and still has an answer.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let set = stream.set_read_timeout(Some(MOMENT));
    let read = set.and_then(|()| stream.read_to_end(&mut answer));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("no answer to {bytes:?}")
        }
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

/// What a finished program did.
///
/// # Panics
/// When it could not be started.
#[must_use]
#[track_caller]
pub fn told(output: std::io::Result<Output>) -> Told {
    match output {
        Ok(output) => Told {
            code: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => panic!("ferry can't be started: {error}"),
    }
}

#[track_caller]
fn parsed(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => panic!("no JSON: {error}\n{text}"),
    }
}
