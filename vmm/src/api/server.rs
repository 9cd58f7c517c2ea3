//! Accepting connections and serving them, each on a thread of its own, none of which touches the machine.

use super::answer::{Done, Refusal, RefusalKind};
use super::command::{Call, Command, Reply};
use super::connection;
use super::connections::{self, Connections};
use super::message::Response;
use super::socket::ApiSocket;
use devices::host::Problem;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Commands that may wait for the control thread; there are no more connections than that.
const CALLS: usize = 32;
/// Clients that may wait for the guest's end: there is room for one that brings it about.
pub(super) const TOLD: usize = connections::LIMIT - 1;
/// Between two tries to accept, when the host is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// How long clients may take to read what they were told at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The API's server. Dropping it ends it.
pub struct Server {
    calls: Mutex<Receiver<Call>>,
    notified: EventFd,
    at_end: Mutex<AtEnd>,
    ended: Ended,
    connections: Arc<Connections>,
    /// The thread that accepts, and what is closed to end it.
    thread: Mutex<Option<(JoinHandle<()>, UnixStream)>>,
    socket: Arc<ApiSocket>,
}

/// Who is answered when the guest has ended.
#[derive(Default)]
struct AtEnd {
    told: Vec<Reply>,
    confirmed: Vec<Reply>,
}

/// How the guest has ended, once it has. Held while a command is handed over: one that comes later finds it here, and one that
/// came earlier waits where [`Server::end`] finds it.
type Ended = Arc<Mutex<Option<Value>>>;

/// The connections' way to the control thread.
#[derive(Clone)]
pub(super) struct Caller {
    calls: SyncSender<Call>,
    notify: Arc<EventFd>,
    ended: Ended,
}

impl Caller {
    /// Hands a command over.
    pub(super) fn call(&self, command: Command, reply: Reply) -> Result<(), Refusal> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(how) = &*ended {
            tell(Call { command, reply }, how);
            return Ok(());
        }
        match self.calls.try_send(Call { command, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(busy("the guest's Ferry has too much to do already"));
            }
            // Its reply is dropped, which answers it.
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
        if let Err(error) = self.notify.write(1) {
            log::error!("the control thread can't be told of an API request: {error}");
        }
        Ok(())
    }
}

/// Answers a command that comes too late for the guest, which has ended with `how`. What can't be answered is dropped, and its
/// client told that the guest has ended.
fn tell(call: Call, how: &Value) {
    match call.command {
        Command::Wait => call.reply.send(Ok(Done::With(how.clone()))),
        Command::Shutdown => call.reply.send(Ok(Done::Silently)),
        _ => {}
    }
}

fn busy(why: &str) -> Refusal {
    let problem = Problem::new("the request was not taken", why, "try again in a moment");
    Refusal::new(RefusalKind::Busy, problem)
}

impl Server {
    /// Starts to serve `socket`. Commands wait until [`Server::next_call`] takes them.
    ///
    /// # Errors
    /// The errno of making an eventfd or a thread.
    pub fn start(socket: ApiSocket) -> io::Result<Self> {
        let (sender, calls) = mpsc::sync_channel(CALLS);
        let notified = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (stop, stopped) = UnixStream::pair()?;
        let connections = Arc::new(Connections::default());
        let ended = Ended::default();
        let socket = Arc::new(socket);
        let acceptor = Acceptor {
            socket: Arc::clone(&socket),
            stopped,
            connections: Arc::clone(&connections),
            caller: Caller {
                calls: sender,
                notify: Arc::new(notified.try_clone()?),
                ended: Arc::clone(&ended),
            },
        };
        let thread = thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || acceptor.run())?;
        Ok(Self {
            calls: Mutex::new(calls),
            notified,
            at_end: Mutex::default(),
            ended,
            connections,
            thread: Mutex::new(Some((thread, stop))),
            socket,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Becomes readable when a command waits.
    #[must_use]
    pub fn notified(&self) -> &EventFd {
        &self.notified
    }

    /// The next command, if one waits.
    pub fn next_call(&self) -> Option<Call> {
        let _ = self.notified.read();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.try_recv().ok()
    }

    /// Has [`Server::notified`] become readable again, for what may still wait.
    pub fn call_again(&self) {
        if let Err(error) = self.notified.write(1) {
            log::error!("API requests may wait for the next one: {error}");
        }
    }

    /// Answers `reply` at the [`Server::end`], with how that was.
    pub fn tell_end(&self, reply: Reply) {
        let mut at_end = self.at_end();
        at_end.told.retain(|reply| !reply.abandoned());
        if at_end.told.len() < TOLD {
            return at_end.told.push(reply);
        }
        let why = "as many clients as may are waiting for the guest's end already";
        reply.send(Err(busy(why)));
    }

    /// Answers `reply` at the [`Server::end`], without a word.
    pub fn confirm_end(&self, reply: Reply) {
        self.at_end().confirmed.push(reply);
    }

    /// Tells those who wait for it that the guest has ended, with `how`, and ends the server.
    pub fn end(&self, how: &Value) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(how.clone());
        while let Some(call) = self.next_call() {
            tell(call, how);
        }
        let AtEnd { told, confirmed } = std::mem::take(&mut *self.at_end());
        let with = |done: Done| move |reply: Reply| reply.send(Ok(done.clone()));
        told.into_iter().for_each(with(Done::With(how.clone())));
        confirmed.into_iter().for_each(with(Done::Silently));
        self.stop();
    }

    fn at_end(&self) -> MutexGuard<'_, AtEnd> {
        self.at_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((thread, stop)) = thread else {
            return;
        };
        drop(stop);
        // A panic of it was printed.
        let _ = thread.join();
        // No further command gets in, and dropping the reply of one that waits answers it.
        let (_, nothing) = mpsc::sync_channel(0);
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = nothing;
        *self.at_end() = AtEnd::default();
        self.connections.end(LAST_WORDS);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread that accepts.
struct Acceptor {
    socket: Arc<ApiSocket>,
    /// Ends when the server does.
    stopped: UnixStream,
    connections: Arc<Connections>,
    caller: Caller,
}

impl Acceptor {
    fn run(self) {
        let listener = self.socket.listener();
        loop {
            let mut sources = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&self.stopped, PollFlags::IN),
            ];
            if let Err(error) = poll(&mut sources, None)
                && error != rustix::io::Errno::INTR
            {
                return log::error!("the API is not served any longer: poll: {error}");
            }
            let [_, stopped] = sources;
            if !stopped.revents().is_empty() {
                return;
            }
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("an API client can't be accepted: {error}");
                    thread::sleep(OUT_OF_DESCRIPTORS);
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) {
        let place = match self.connections.admit(&stream) {
            Ok(Some(place)) => place,
            Ok(None) => return turn_away(stream),
            Err(error) => return log::warn!("an API client can't be served: {error}"),
        };
        let caller = self.caller.clone();
        let served = thread::Builder::new()
            .name("api-client".to_owned())
            .spawn(move || connection::serve(stream, &place, &caller));
        if let Err(error) = served {
            log::warn!("an API client can't be served: {error}");
        }
    }
}

fn turn_away(mut stream: UnixStream) {
    let refusal = busy("as many clients as there may be are at it");
    let response = Response::refusal(&refusal).bytes(false);
    // It fits into the socket's buffer; a client that has gone does not matter.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(&response);
}
