//! Passthrough on saved probes and a host that checks what is done to it.

#[cfg(test)]
mod any_guest;
#[cfg(test)]
mod config;
#[cfg(test)]
mod interrupts;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod reset;
#[cfg(test)]
mod rom;
mod support;

#[cfg(fuzzing)]
pub use support::run_guest_program;
