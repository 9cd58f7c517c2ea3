//! Writing events to somebody who may be slow, or gone.

use super::event::Event;
use super::output::EventOutput;
use crate::stats::micros;
use devices::legacy::DateTime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes that wait for a slow reader, beside those that its pipe or socket holds.
const WAITING_MAX: usize = 64 << 10;
/// How long a slow reader is waited for when the last event is told.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Where events are told, if anywhere. Clones tell the same reader.
///
/// Nothing here blocks but [`Self::end`], and that not for long.
#[derive(Clone, Debug, Default)]
pub struct EventMonitor {
    writer: Option<Rc<RefCell<Writer>>>,
}

#[derive(Debug)]
struct Writer {
    /// The process's start.
    start: Instant,
    output: EventOutput,
    /// Lines that the reader has not taken, the first of them perhaps in part.
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of the first that it has taken.
    taken: usize,
    /// Events since the last line that there was no room for.
    dropped: u64,
    /// Nothing more is written: the reader is gone, or what it reads from is broken.
    ended: bool,
    /// The disk took nothing at the last try.
    full: bool,
}

/// An event with what every line has.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    uptime: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
    #[serde(flatten)]
    event: &'a Event,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl EventMonitor {
    /// Tells events to `output`. `start` is the process's.
    #[must_use]
    pub fn new(output: EventOutput, start: Instant) -> Self {
        let writer = Writer {
            start,
            output,
            waiting: VecDeque::new(),
            taken: 0,
            dropped: 0,
            ended: false,
            full: false,
        };
        Self {
            writer: Some(Rc::new(RefCell::new(writer))),
        }
    }

    /// Tells an event, now or when the reader has read on.
    pub fn tell(&self, event: &Event) {
        if let Some(writer) = &self.writer {
            let mut writer = writer.borrow_mut();
            writer.add(event, WAITING_MAX);
            writer.write();
        }
    }

    /// Tells the last event. A reader that is slow is waited for, but not long.
    pub fn end(&self, event: &Event) {
        let Some(writer) = &self.writer else { return };
        let mut writer = writer.borrow_mut();
        writer.add(event, usize::MAX);
        writer.write();
        let until = Instant::now() + LAST_WAIT;
        // A disk is not waited for: it could be written at any time, and takes nothing.
        while !writer.ended && !writer.full && !writer.waiting.is_empty() {
            if !writer.output.becomes_writable(until) {
                log::warn!("--event-monitor: the last events were not read in time");
                break;
            }
            writer.write();
        }
    }

    /// What tells when the reader has read on.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        let writer = self.writer.as_ref()?;
        Some(writer.borrow().output.as_fd().as_raw_fd())
    }

    /// The reader may have read on.
    pub(crate) fn go_on(&self) {
        if let Some(writer) = &self.writer {
            writer.borrow_mut().write();
        }
    }
}

impl Writer {
    /// Lets an event wait for the reader, if no more than `limit` bytes do then.
    fn add(&mut self, event: &Event, limit: usize) {
        if self.ended {
            return;
        }
        let line = Line {
            timestamp: rfc3339(SystemTime::now()),
            uptime: micros(self.start.elapsed()),
            dropped: self.dropped,
            event,
        };
        let mut line = match serde_json::to_vec(&line) {
            Ok(line) => line,
            Err(error) => return log::error!("--event-monitor: {event:?}: {error}"),
        };
        line.push(b'\n');
        let waiting: usize = self.waiting.iter().map(Vec::len).sum();
        if waiting.saturating_add(line.len()) > limit {
            self.dropped += 1;
            return;
        }
        self.dropped = 0;
        self.waiting.push_back(line);
    }

    /// Writes what the reader takes.
    fn write(&mut self) {
        while let (false, Some(line)) = (self.ended, self.waiting.front()) {
            let rest = line.get(self.taken..).unwrap_or_default();
            match self.output.write(rest) {
                Ok(count) => {
                    self.full = false;
                    self.taken += count;
                    if count == rest.len() {
                        self.waiting.pop_front();
                        self.taken = 0;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        if !self.full {
                            log::warn!("--event-monitor: events wait: {error}");
                        }
                        self.full = true;
                        return;
                    }
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        self.stop("the reader is gone");
                    }
                    _ => self.stop(&error.to_string()),
                },
            }
        }
    }

    fn stop(&mut self, why: &str) {
        log::warn!("--event-monitor: no more events are told: {why}");
        self.ended = true;
        self.waiting.clear();
    }
}

impl EventOutput {
    /// Waits until `until`.
    fn becomes_writable(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(self, PollFlags::OUT)];
        !left.is_zero() && poll(&mut polled, Some(&timeout)).is_ok_and(|count| count > 0)
    }
}

/// A time in UTC with microseconds (RFC 3339, 5.6).
fn rfc3339(time: SystemTime) -> String {
    // A clock before 1970 was not set.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let DateTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = DateTime::of_seconds(since.as_secs());
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests;
