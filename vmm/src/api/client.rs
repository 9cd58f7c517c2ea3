//! A client that asks one thing and waits for the answer.

use super::answer::problems;
use super::route::ROOT;
use devices::host::Problem;
use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than any answer has.
const LARGEST: u64 = 64 << 20;

/// A request on its way.
#[derive(Debug)]
pub struct Asked {
    stream: UnixStream,
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no guest answers at {}", path.display())]
    NoGuest {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not in the time given.
    #[error("the guest's Ferry did not answer in time")]
    Late,
    /// The connection ended first, most likely with Ferry.
    #[error("the guest's Ferry went away without an answer")]
    Gone,
    /// The answer is none of an API of this kind.
    #[error("{} answers something that is no HTTP", .0.display())]
    Strange(PathBuf),
    /// The command was refused.
    #[error("refused with status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why; at least one.
        problems: Vec<Problem>,
    },
}

/// Sends a request; `name` is the path behind [`ROOT`].
///
/// # Errors
/// [`ClientError::NoGuest`] and [`ClientError::Gone`].
pub fn ask(
    socket: &Path,
    method: &str,
    name: &str,
    body: Option<&Value>,
) -> Result<Asked, ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| ClientError::NoGuest {
        path: socket.to_owned(),
        source,
    })?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {ROOT}{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    // One write: a server that turns clients away does not read on.
    let sent = stream.write_all(format!("{head}{body}").as_bytes());
    match sent {
        // What it said before it closed is there to be read.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ClientError::Gone),
        _ => Ok(Asked {
            stream,
            path: socket.to_owned(),
        }),
    }
}

impl Asked {
    /// Waits for the answer, whole, no longer than `limit` between two pieces of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn answer(mut self, limit: Option<Duration>) -> Result<Option<Value>, ClientError> {
        // Zero is no limit that the system takes.
        let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
        let set = self.stream.set_read_timeout(limit);
        let mut bytes = Vec::new();
        let read = set.and_then(|()| (&mut self.stream).take(LARGEST).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ClientError::Late),
            // A server that did not read all of the request resets the connection behind its answer.
            Err(_) if bytes.is_empty() => return Err(ClientError::Gone),
            _ => {}
        }
        if bytes.is_empty() {
            return Err(ClientError::Gone);
        }
        let (status, body) = parse(&bytes).ok_or(ClientError::Strange(self.path))?;
        if !(200..300).contains(&status) {
            let problems = problems(&body);
            return Err(ClientError::Refused { status, problems });
        }
        Ok(serde_json::from_str(&body).ok())
    }
}

/// Status and body.
fn parse(bytes: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = response.parse(bytes).ok()? else {
        return None;
    };
    let body = String::from_utf8_lossy(bytes.get(len..)?).into_owned();
    Some((response.code?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_body() {
        let parsed = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(parsed, Some((200, "{}".to_owned())));
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Some((204, String::new()))
        );
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nConte"), None);
        assert_eq!(parse(b"220 mail.example.org ESMTP\r\n"), None);
    }

    #[test]
    fn where_nobody_listens_there_is_no_guest() {
        let asked = ask(Path::new("/nonexistent/socket"), "GET", "vmm.ping", None);
        assert!(matches!(asked, Err(ClientError::NoGuest { .. })));
    }
}
