//! What the tests stand on: saved probes, and a host and a machine that check what is done to them.

#![cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "the fuzz target uses a part of it"
    )
)]

mod host;
mod machine;
mod probes;
mod program;
mod router;
mod saved;

pub(super) use host::{HostIrqs, rom_byte};
pub(super) use machine::Machine;
pub(super) use probes::*;
#[cfg(fuzzing)]
pub use program::run_guest_program;
#[cfg(test)]
pub(super) use program::{run_guest_program, run_on};
pub(super) use saved::saved_probes;
