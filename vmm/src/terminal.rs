//! The user's terminal: raw while a guest has it, and put back whatever happens.

use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, PoisonError};

/// The state to go back to. Process-wide, because a panic on any thread must find it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode; dropping it puts the terminal back.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw when it is a terminal; `None` when it is none.
    ///
    /// A panic on any thread puts the terminal back too.
    ///
    /// # Errors
    /// The errno of reading or setting the terminal's attributes.
    pub fn enter() -> io::Result<Option<Self>> {
        let input = rustix::stdio::stdin();
        if !isatty(input) {
            return Ok(None);
        }
        let before = tcgetattr(input)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Ferry's own messages end in a plain line feed.
        raw.output_modes |= OutputModes::OPOST;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        tcsetattr(input, OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Nothing better can be done when the terminal is gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

/// What the keys typed so far ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the guest.
    Guest(Vec<u8>),
    /// Ctrl-A x: the user quits.
    Quit,
}

/// Ctrl-A, the first key of a command to Ferry.
const ESCAPE: u8 = 0x01;

/// Takes Ferry's own commands out of what is typed: Ctrl-A x quits, Ctrl-A Ctrl-A is one Ctrl-A for
/// the guest, Ctrl-A with another key is that key.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Filters the next `bytes`.
    pub fn filter(&mut self, bytes: &[u8]) -> Typed {
        let mut guest = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match (self.escaped, *byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (true, b'x' | b'X') => return Typed::Quit,
                (_, byte) => guest.push(byte),
            }
            self.escaped = false;
        }
        Typed::Guest(guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_quits_even_when_typed_in_two_reads() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.filter(b"ls\x01"), Typed::Guest(b"ls".to_vec()));
        assert_eq!(filter.filter(b"x"), Typed::Quit);
    }

    #[test]
    fn ctrl_a_twice_is_one_for_the_guest() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.filter(b"\x01\x01x"), Typed::Guest(b"\x01x".to_vec()));
        assert_eq!(filter.filter(b"\x01c"), Typed::Guest(b"c".to_vec()));
    }
}
