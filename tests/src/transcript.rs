//! What a process has written so far.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Collects a stream in the background.
#[derive(Clone, Debug)]
pub struct Transcript {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// Why [`Transcript::wait_for`] found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The stream ended without the marker.
    Ended,
    /// The deadline passed.
    Late,
}

impl Transcript {
    /// Starts to collect `stream`. Carriage returns are left out; bytes that are no UTF-8 are replaced.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let transcript = Self {
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pseudo-terminal whose other end is closed reads as an error.
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let read = buffer.get(..count).unwrap_or_default();
                let kept = read.iter().filter(|byte| **byte != b'\r');
                shared.lock().bytes.extend(kept);
                shared.grew.notify_all();
            }
            shared.lock().ended = true;
            shared.grew.notify_all();
        });
        transcript
    }

    /// All of it so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.since(0)
    }

    /// How much there is, for [`Self::wait_for`] and [`Self::since`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().bytes.len()
    }

    /// Nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What came after the first `start` bytes.
    #[must_use]
    pub fn since(&self, start: usize) -> String {
        let state = self.shared.lock();
        String::from_utf8_lossy(state.bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// Waits for `marker` after the first `start` bytes and gives the place just behind it.
    ///
    /// # Errors
    /// [`Silence`].
    pub fn wait_for(&self, start: usize, marker: &str, limit: Duration) -> Result<usize, Silence> {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let unread = state.bytes.get(start..).unwrap_or_default();
            let mut places = unread.windows(marker.len());
            if let Some(at) = places.position(|place| place == marker.as_bytes()) {
                return Ok(start + at + marker.len());
            }
            if state.ended {
                return Err(Silence::Ended);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::Late);
            }
            state = match self.shared.grew.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Waits until the stream has ended, so that nothing is missing from it.
    ///
    /// # Errors
    /// [`Silence::Late`].
    pub fn wait_for_end(&self, limit: Duration) -> Result<(), Silence> {
        let state = self.shared.lock();
        let waited = self
            .shared
            .grew
            .wait_timeout_while(state, limit, |state| !state.ended);
        let ended = match waited {
            Ok((state, _)) => state.ended,
            Err(poisoned) => poisoned.into_inner().0.ended,
        };
        if ended { Ok(()) } else { Err(Silence::Late) }
    }

    /// The last `count` lines, indented, for a message.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let first = lines.len().saturating_sub(count);
        let last = lines.get(first..).unwrap_or_default();
        last.iter().map(|line| format!("    {line}\n")).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MOMENT;

    #[test]
    fn a_marker_is_found_once_and_the_end_is_noticed() {
        let transcript = Transcript::of(&b"one\r\ntwo\r\n"[..]);
        let behind = transcript.wait_for(0, "one\n", MOMENT).unwrap();
        assert_eq!(
            transcript.wait_for(behind, "one", MOMENT),
            Err(Silence::Ended)
        );
        assert_eq!(transcript.since(behind), "two\n");
        assert_eq!(transcript.tail(1), "    two\n");
    }

    #[test]
    fn a_silent_stream_is_given_up_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let transcript = Transcript::of(reader);
        let limit = Duration::from_millis(20);
        assert_eq!(transcript.wait_for(0, "x", limit), Err(Silence::Late));
        assert_eq!(transcript.wait_for_end(limit), Err(Silence::Late));
    }
}
