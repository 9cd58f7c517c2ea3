//! What the tests stand on: saved probes, and a host and a machine that check what is done to them.

mod host;
mod machine;
mod probes;
mod router;

pub(super) use host::{HostIrqs, rom_byte};
pub(super) use machine::Machine;
pub(super) use probes::*;
