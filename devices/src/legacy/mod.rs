//! Legacy PC devices: the few that a Linux guest still asks for.
//!
//! All are byte-wide port devices. An access of another width, where a device doesn't say otherwise,
//! reads as ones and writes nothing.

mod calendar;
mod debug_exit;
mod i8042;
mod pvpanic;
mod rtc;
mod serial;

pub use calendar::DateTime;
pub use debug_exit::DebugExit;
pub use i8042::I8042;
pub use pvpanic::PvPanic;
pub use rtc::{Clock, Rtc, SystemClock};
pub use serial::Serial;
