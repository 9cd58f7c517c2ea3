//! A client that asks one thing and waits for the answer.

use super::answer::problems;
use super::route::ROOT;
use super::socket::connect;
use devices::host::Problem;
use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than any answer has.
const LARGEST: u64 = 64 << 20;
/// How long a Ferry may take to accept a client, and to take a request.
const REACH: Duration = Duration::from_secs(10);

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
    #[error("{} answers something that is not of Ferry's API", .0.display())]
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

/// Sends a request, which has to be accepted within `limit` and some seconds; `name` is the path behind [`ROOT`].
///
/// # Errors
/// [`ClientError::NoGuest`], [`ClientError::Late`] and [`ClientError::Gone`].
pub fn ask(
    socket: &Path,
    method: &str,
    name: &str,
    body: Option<&Value>,
    limit: Option<Duration>,
) -> Result<Asked, ClientError> {
    let limit = limit.map_or(REACH, |limit| shortest(limit).min(REACH));
    let mut stream = connect(socket, limit).map_err(|source| match source.kind() {
        ErrorKind::WouldBlock => ClientError::Late,
        _ => ClientError::NoGuest {
            path: socket.to_owned(),
            source,
        },
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
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ClientError::Late),
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ClientError::Gone),
        _ => Ok(Asked {
            stream,
            path: socket.to_owned(),
        }),
    }
}

/// Zero is no limit that the system takes.
fn shortest(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}

impl Asked {
    /// Waits for the answer, whole, no longer than `limit` between two pieces of it. `None`: it was done, and there is nothing
    /// to tell.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn answer(mut self, limit: Option<Duration>) -> Result<Option<Value>, ClientError> {
        let set = self.stream.set_read_timeout(limit.map(shortest));
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
        let Some(response) = Response::of(&bytes) else {
            return Err(ClientError::Strange(self.path));
        };
        let body = response.body.ok_or(ClientError::Gone)?;
        match response.status {
            204 => Ok(None),
            // What is said of something that was done has to be understood: it may be what one waits for.
            200..300 => serde_json::from_slice(body)
                .map(Some)
                .map_err(|_| ClientError::Strange(self.path)),
            status => Err(ClientError::Refused {
                status,
                problems: problems(&String::from_utf8_lossy(body)),
            }),
        }
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Response<'a> {
    status: u16,
    /// `None` when it is shorter than it was to be.
    body: Option<&'a [u8]>,
}

impl<'a> Response<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(len) = response.parse(bytes).ok()? else {
            return None;
        };
        let mut body = bytes.get(len..);
        let named =
            |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
        if let Some(header) = response.headers.iter().find(named) {
            let text = std::str::from_utf8(header.value).ok()?;
            let len: usize = text.trim().parse().ok()?;
            body = body.and_then(|body| body.get(..len));
        }
        Some(Self {
            status: response.code?,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What a client makes of an answer.
    fn answered(answer: &str) -> Result<Option<Value>, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_owned();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let limit = Some(Duration::from_secs(20));
        let answer = ask(&path, "GET", "ferry.wait", None, limit).and_then(|one| one.answer(limit));
        server.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_is_its_status_and_body() {
        let told = answered("HTTP/1.1 200 \r\ncontent-length: 3\r\n\r\n[1]more").unwrap();
        assert_eq!(told, Some(serde_json::json!([1])));
        let told = answered("HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
        assert_eq!(told, Some(serde_json::json!({})));
        assert_eq!(answered("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), None);
        let refused = answered("HTTP/1.1 429 \r\nContent-Length: 2\r\n\r\n[]");
        assert!(matches!(
            refused,
            Err(ClientError::Refused { status: 429, .. })
        ));
    }

    #[test]
    fn what_is_no_answer_in_full_is_no_success() {
        for cut in ["{\"exit_code\":1", ""] {
            let told = answered(&format!("HTTP/1.1 200 \r\nContent-Length: 15\r\n\r\n{cut}"));
            assert!(matches!(told, Err(ClientError::Gone)), "{told:?}");
        }
        let told = answered("HTTP/1.1 500 \r\nContent-Length: 5\r\n\r\n[\"a");
        assert!(matches!(told, Err(ClientError::Gone)), "{told:?}");
        assert!(matches!(answered(""), Err(ClientError::Gone)));
        for strange in [
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nConte",
            "220 mail.example.org ESMTP\r\n",
        ] {
            let told = answered(strange);
            assert!(matches!(told, Err(ClientError::Strange(_))), "{told:?}");
        }
    }

    #[test]
    fn where_nobody_listens_there_is_no_guest() {
        let asked = ask(
            Path::new("/nonexistent/socket"),
            "GET",
            "vmm.ping",
            None,
            None,
        );
        assert!(matches!(asked, Err(ClientError::NoGuest { .. })));
    }

    #[test]
    fn one_that_accepts_nobody_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let _stopped = UnixListener::bind(&path).unwrap();
        let limit = Some(Duration::from_millis(20));
        let mut waiting = Vec::new();
        let late = loop {
            match ask(&path, "GET", "vmm.ping", None, limit) {
                Ok(asked) => waiting.push(asked),
                Err(error) => break error,
            }
        };
        assert!(matches!(late, ClientError::Late), "{late}");
        let answer = waiting.remove(0).answer(limit);
        assert!(matches!(answer, Err(ClientError::Late)));
    }
}
