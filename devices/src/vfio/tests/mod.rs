//! Passthrough on saved probes and a host that checks what is done to it.

mod config;
mod interrupts;
mod plan;
mod reset;
mod rom;
mod support;
