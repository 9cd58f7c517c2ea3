//! The user's end of the serial console: what is typed goes to the guest.

use super::{Machine, MachineError, process};
use crate::spec::SerialSpec;
use crate::terminal::{EscapeFilter, RawTerminal, Typed};
use devices::legacy::Serial;
use std::collections::VecDeque;
use std::io;

/// Standard input as the guest's console input.
pub(super) struct ConsoleInput {
    filter: EscapeFilter,
    /// Typed, and not yet taken by the guest's UART.
    waiting: VecDeque<u8>,
    /// Dropped with the console: the terminal is put back then.
    _terminal: Option<RawTerminal>,
}

impl ConsoleInput {
    /// Takes the terminal, if the guest's console is there; `None` if it is elsewhere.
    ///
    /// # Errors
    /// [`MachineError::Process`] when the terminal can't be made raw.
    pub(super) fn new(machine: &Machine) -> Result<Option<Self>, MachineError> {
        if machine.spec.serial != SerialSpec::Terminal {
            return Ok(None);
        }
        let terminal = RawTerminal::enter().map_err(process("making the terminal raw"))?;
        Ok(Some(Self {
            filter: EscapeFilter::default(),
            waiting: VecDeque::new(),
            _terminal: terminal,
        }))
    }

    /// Reads what is there and gives it to the guest. `None`: the user quits.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of input, or the errno of `read`.
    pub(super) fn read(&mut self, serial: &Serial) -> io::Result<Option<()>> {
        let mut bytes = [0; 1024];
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        match self.filter.filter(bytes.get(..count).unwrap_or_default()) {
            Typed::Quit => Ok(None),
            Typed::Guest(typed) => {
                self.waiting.extend(typed);
                self.feed(serial);
                Ok(Some(()))
            }
        }
    }

    /// Gives the guest what it has room for.
    pub(super) fn feed(&mut self, serial: &Serial) {
        let room = serial.free_space().min(self.waiting.len());
        if room > 0 {
            let (taken, _) = self.waiting.make_contiguous().split_at(room);
            let accepted = serial.enqueue(taken);
            self.waiting.drain(..accepted);
        }
    }
}
