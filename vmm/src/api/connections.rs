//! How many clients there are, and which of them can be sent away for another.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clients at a time.
pub(super) const LIMIT: usize = 8;
/// How long a client that was sent away may take to go.
const LEAVING: Duration = Duration::from_secs(1);

/// The connections that there are.
#[derive(Default)]
pub(super) struct Connections {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By number, in the order they came.
    present: BTreeMap<u64, Client>,
    next: u64,
    ending: bool,
}

struct Client {
    stream: UnixStream,
    /// Since when nothing is owed to it.
    idle_since: Option<Instant>,
    sent_away: bool,
}

/// One connection's entry. Dropping it makes room for another.
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a client in. If there are as many as there may be, the one that has been idle for longest goes; `None` if none is.
    pub(super) fn admit(self: &Arc<Self>, stream: &UnixStream) -> io::Result<Option<Place>> {
        let mut state = self.lock();
        if state.present.len() >= LIMIT {
            let Some(number) = state.longest_idle() else {
                return Ok(None);
            };
            state.send_away(number);
            let full = |state: &mut State| state.present.len() >= LIMIT;
            let waited = self.changed.wait_timeout_while(state, LEAVING, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.present.len() >= LIMIT {
                return Ok(None);
            }
        }
        let number = state.next;
        state.next += 1;
        let client = Client {
            stream: stream.try_clone()?,
            idle_since: Some(Instant::now()),
            sent_away: false,
        };
        state.present.insert(number, client);
        Ok(Some(Place {
            connections: Arc::clone(self),
            number,
        }))
    }

    /// Sends all away that are idle, lets the others have their answers, and waits for that no longer than `limit`.
    pub(super) fn end(&self, limit: Duration) {
        let mut state = self.lock();
        state.ending = true;
        let idle: Vec<_> = state.idle().map(|(number, _)| number).collect();
        idle.into_iter().for_each(|number| state.send_away(number));
        let there = |state: &mut State| !state.present.is_empty();
        let _ = self.changed.wait_timeout_while(state, limit, there);
    }
}

impl State {
    fn idle(&self) -> impl Iterator<Item = (u64, Instant)> {
        let idle = |(number, client): (&u64, &Client)| Some((*number, client.idle_since?));
        self.present.iter().filter_map(idle)
    }

    fn longest_idle(&self) -> Option<u64> {
        let longest = self.idle().min_by_key(|(_, since)| *since)?;
        Some(longest.0)
    }

    /// Ends its thread's wait for a request.
    fn send_away(&mut self, number: u64) {
        if let Some(client) = self.present.get_mut(&number) {
            client.idle_since = None;
            client.sent_away = true;
            // One that has gone by itself is as good.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Place {
    /// Notes that a request is there, whole: an answer is owed from now on. `false`: its client has been sent away.
    pub(super) fn busy(&self) -> bool {
        let mut state = self.connections.lock();
        let client = state.present.get_mut(&self.number);
        client.is_some_and(|client| {
            client.idle_since = None;
            !client.sent_away
        })
    }

    /// Whether no further request is to be read.
    pub(super) fn last(&self) -> bool {
        self.connections.lock().ending
    }

    /// Notes that the answer has been sent. `false`: there is to be no further request.
    pub(super) fn idle(&self) -> bool {
        let mut state = self.connections.lock();
        if let Some(client) = state.present.get_mut(&self.number) {
            client.idle_since = Some(Instant::now());
        }
        !state.ending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().present.remove(&self.number);
        self.connections.changed.notify_all();
    }
}
