//! The signals that a run heeds. Caught they are bytes in a socket pair, which wait until they are looked for.

use super::{MachineError, process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Those that stop a guest and those that ask for its figures. From when they are caught on they don't end the process
/// by themselves, until its end.
#[derive(Debug)]
pub struct RunSignals {
    pub(super) stop: Caught,
    pub(super) stats: Caught,
}

impl RunSignals {
    /// Catches SIGTERM, SIGINT and SIGHUP, and SIGUSR1.
    ///
    /// # Errors
    /// When the process can't have a socket pair or the kernel refuses a handler.
    pub fn catch() -> Result<Self, MachineError> {
        let catch = |signals: &[i32]| Caught::new(signals).map_err(process("catching signals"));
        Ok(Self {
            stop: catch(&[SIGTERM, SIGINT, SIGHUP])?,
            stats: catch(&[SIGUSR1])?,
        })
    }

    /// Whether one has come that stops the run, since this was asked last.
    pub fn stop_came(&mut self) -> bool {
        self.stop.take()
    }
}

/// Signals of one meaning.
#[derive(Debug)]
pub(super) struct Caught(UnixStream);

impl Caught {
    fn new(signals: &[i32]) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
        }
        Ok(Self(reader))
    }

    /// Takes all that have come; gives whether there were any.
    pub(super) fn take(&mut self) -> bool {
        let mut bytes = [0; 64];
        let mut came = false;
        while let Ok(read @ 1..) = self.0.read(&mut bytes) {
            came = true;
            if read < bytes.len() {
                break;
            }
        }
        came
    }
}

impl AsRawFd for Caught {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_waits_until_it_is_looked_for() {
        let mut signals = RunSignals::catch().unwrap();
        assert!(!signals.stop_came());
        signal_hook::low_level::raise(SIGHUP).unwrap();
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert!(signals.stop_came());
        assert!(!signals.stop_came());
        assert!(signals.stats.take());
    }
}
