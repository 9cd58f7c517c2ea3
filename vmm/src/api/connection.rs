//! One client: its requests one after the other, each read, carried out and answered within deadlines.

use super::answer::{Answer, Refusal, RefusalKind};
use super::command::Reply;
use super::connections::Place;
use super::message::{CONTINUE, Head, Malformed, Response};
use super::route;
use super::server::Caller;
use devices::host::Problem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What a request may take from its first byte to its last, and a response.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long a client may be silent between two requests.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client whose request was not read to its end is listened to, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Between two looks whether a client that waits for an answer is still there.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Serves a client until it goes, is slow, or sends what is no request.
pub(super) fn serve(stream: UnixStream, place: &Place, caller: &Caller) {
    let mut client = Client {
        stream,
        received: Vec::new(),
    };
    if let Err(error) = client.serve(place, caller) {
        log::debug!("an API client: {error}");
    }
}

struct Client {
    stream: UnixStream,
    /// Received and not yet understood.
    received: Vec<u8>,
}

/// A request as it came.
struct Request {
    head: Head,
    body: Vec<u8>,
}

/// Why there is no request.
enum NoRequest {
    /// The client has gone, or has been silent.
    Gone,
    Malformed(Malformed),
}

impl From<Malformed> for NoRequest {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Client {
    fn serve(&mut self, place: &Place, caller: &Caller) -> io::Result<()> {
        // What accept gives inherits nothing of the listener.
        self.stream.set_nonblocking(false)?;
        loop {
            let request = match self.request() {
                Ok(request) => request,
                Err(NoRequest::Gone) => return Ok(()),
                Err(NoRequest::Malformed(malformed)) => {
                    if place.busy() {
                        self.send(&refused(&malformed).bytes(false))?;
                        place.idle();
                    }
                    return self.linger();
                }
            };
            // One that was sent away would not get its answer.
            if !place.busy() {
                return Ok(());
            }
            let Some(response) = self.respond(&request, caller) else {
                return Ok(());
            };
            let more = request.head.keep_alive && !place.last();
            self.send(&response.bytes(more))?;
            // Not before: an idle client may be sent away.
            if !place.idle() || !more {
                return Ok(());
            }
        }
    }

    fn request(&mut self) -> Result<Request, NoRequest> {
        self.begin()?;
        let end = Instant::now() + TRANSFER;
        let head = loop {
            if let Some(head) = Head::parse(&self.received)? {
                break head;
            }
            self.more(end)?;
        };
        let len = head.len + head.body_len;
        if head.expects_continue && self.received.len() < len {
            let sent = self.send(CONTINUE);
            sent.map_err(|_| NoRequest::Gone)?;
        }
        while self.received.len() < len {
            self.more(end)?;
        }
        let rest = self.received.split_off(len);
        let mut body = std::mem::replace(&mut self.received, rest);
        body.drain(..head.len);
        Ok(Request { head, body })
    }

    /// Waits for the first byte of a request. Empty lines before it are none of it (RFC 9112 section 2.2).
    fn begin(&mut self) -> Result<(), NoRequest> {
        let end = Instant::now() + IDLE;
        loop {
            while self.received.starts_with(b"\r\n") {
                self.received.drain(..2);
            }
            if !self.received.is_empty() {
                return Ok(());
            }
            self.receive(end).map_err(|_| NoRequest::Gone)?;
        }
    }

    fn more(&mut self, end: Instant) -> Result<(), NoRequest> {
        self.receive(end).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => Malformed::Late.into(),
            _ => NoRequest::Gone,
        })
    }

    /// Receives something.
    ///
    /// # Errors
    /// `TimedOut`, `UnexpectedEof`, or the errno.
    fn receive(&mut self, end: Instant) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    let received = bytes.get(..count).unwrap_or_default();
                    self.received.extend_from_slice(received);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends all of it.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let end = Instant::now() + TRANSFER;
        while !bytes.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Carries a request out; `None` when its client has gone meanwhile.
    fn respond(&self, request: &Request, caller: &Caller) -> Option<Response> {
        let Request { head, .. } = request;
        log::debug!("API: {} {}", head.method, head.path);
        let mut response = self.carry_out(request, caller)?;
        debug_assert!(
            route::is_listed(&head.method, &head.path, response.status),
            "{} {} has the status {}, which is not described",
            head.method,
            head.path,
            response.status
        );
        // Nobody reads it (RFC 9110 section 9.3.2): it would be taken for the next response.
        if head.method == "HEAD" {
            response.body = None;
        }
        Some(response)
    }

    fn carry_out(&self, request: &Request, caller: &Caller) -> Option<Response> {
        let Request { head, body } = request;
        let command = match route::command(&head.method, &head.path, body) {
            Ok(command) => command,
            Err(response) => return Some(response),
        };
        let (reply, answers, _present) = Reply::new();
        if let Err(refusal) = caller.call(command, reply) {
            return Some(Response::refusal(&refusal));
        }
        Some(route::response(&self.answer(&answers)?))
    }

    /// Waits for the answer as long as the client does.
    fn answer(&self, answers: &Receiver<Answer>) -> Option<Answer> {
        loop {
            match answers.recv_timeout(BETWEEN_LOOKS) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return Some(Err(ended())),
                Err(RecvTimeoutError::Timeout) if self.gone() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether the client has closed its end. One that only sends nothing more has not.
    fn gone(&self) -> bool {
        let mut streams = [PollFd::new(&self.stream, PollFlags::empty())];
        let found = poll(&mut streams, Some(&Timespec::default()));
        let [stream] = streams;
        found.is_ok() && stream.revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let end = Instant::now() + LINGER;
        while self.receive(end).is_ok() {
            self.received.clear();
        }
        Ok(())
    }
}

fn refused(malformed: &Malformed) -> Response {
    let problem = Problem::new(
        "the request is not understood",
        malformed.to_string(),
        "send HTTP/1.1 as docs/api.md shows, e.g. with: curl --unix-socket PATH http://localhost/api/v1/vm.info",
    );
    Response {
        status: malformed.status(),
        ..Response::refusal(&Refusal::new(RefusalKind::Invalid, problem))
    }
}

fn ended() -> Refusal {
    let problem = Problem::new(
        "the request was not answered",
        "the guest has ended meanwhile",
        "see how, in the output of its ferry run",
    );
    Refusal::new(RefusalKind::Failed, problem)
}
