//! The signals that a run heeds. Caught they are bytes in a socket pair, which wait until they are looked for.

use super::{MachineError, process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Those that end a guest and those that ask for its figures. From when they are caught on they don't end the process
/// by themselves, until its end.
#[derive(Debug)]
pub struct RunSignals {
    /// SIGINT: the guest stops.
    pub(super) stop: Caught,
    /// SIGTERM: the guest is to power itself off.
    pub(super) terminate: Caught,
    /// SIGUSR1.
    pub(super) stats: Caught,
}

impl RunSignals {
    /// Catches SIGTERM, SIGINT and SIGUSR1. SIGHUP does nothing from here on: a guest may outlive its terminal.
    ///
    /// # Errors
    /// When the process can't have a socket pair or the kernel refuses a handler.
    pub fn catch() -> Result<Self, MachineError> {
        let catch = |signals: &[i32]| Caught::new(signals).map_err(process("catching signals"));
        let nobody = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, nobody).map_err(process("catching signals"))?;
        Ok(Self {
            stop: catch(&[SIGINT])?,
            terminate: catch(&[SIGTERM])?,
            stats: catch(&[SIGUSR1])?,
        })
    }

    /// Whether one has come that stops the run, since this was asked last.
    pub fn stop_came(&mut self) -> bool {
        self.stop.take() + self.terminate.take() > 0
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

    /// Takes all that have come; gives how many there were.
    pub(super) fn take(&mut self) -> usize {
        let mut bytes = [0; 64];
        let mut count = 0;
        while let Ok(read @ 1..) = self.0.read(&mut bytes) {
            count += read;
            if read < bytes.len() {
                break;
            }
        }
        count
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
        for signal in [SIGHUP, SIGUSR1, SIGTERM, SIGTERM] {
            signal_hook::low_level::raise(signal).unwrap();
        }
        assert_eq!(signals.stop.take(), 0);
        assert_eq!(signals.terminate.take(), 2);
        assert!(!signals.stop_came());
        assert_eq!(signals.stats.take(), 1);
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert!(signals.stop_came());
    }
}
