//! Signals, as bytes that the control thread can wait for.

use super::{MachineError, process};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// Becomes readable when one of `signals` has come.
///
/// # Errors
/// [`MachineError::Process`].
pub(super) fn signal_pipe(signals: &[i32]) -> Result<UnixStream, MachineError> {
    let pair = || -> io::Result<UnixStream> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
        }
        Ok(reader)
    };
    pair().map_err(process("catching signals"))
}

/// Forgets the signals that have come; how many there were.
pub(super) fn drain(pipe: &mut UnixStream) -> usize {
    let mut bytes = [0; 64];
    let mut count = 0;
    while let Ok(read) = pipe.read(&mut bytes) {
        count += read;
        if read < bytes.len() {
            break;
        }
    }
    count
}
