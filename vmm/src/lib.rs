//! Ferry's virtual machine monitor: owns KVM, guest memory, threads and the machine.
//!
//! [`spec`] says what is wanted, already proven valid; [`machine`] builds it from [`kvm`],
//! [`memory`] and the `devices` crate, runs it, and says how it ended.
//!
//! Deliberately absent: text parsing and rendering (the binary's `cli` module), device models
//! (`devices`), tables and register values (`arch`).
//!
//! Threads: the control thread (the process's first) alone owns the [`machine::Machine`]; one thread
//! a vCPU runs the guest and enters devices. A passed-through device has no thread.

pub mod api;
pub mod device_keys;
pub mod events;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod spec;
pub mod stats;
pub mod terminal;
