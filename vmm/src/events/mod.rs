//! Events of a guest's life, as lines of JSON for a program that follows it (`docs/events.md`).
//!
//! [`Event`] says what there is to tell; an [`EventMonitor`] puts the time to it and writes it, and waits for nobody.
//!
//! The control thread alone tells: an [`EventMonitor`] can't leave the thread that made it.

#[cfg(test)]
mod description;
mod event;
mod monitor;
mod output;

pub use event::{
    DeviceAddress, EjectReason, ErrorConsequence, Event, Origin, PanicConsequence, PanicKind,
    RebootReason, RunEnd,
};
pub use monitor::EventMonitor;
pub use output::{EventOutput, NotWritable};
