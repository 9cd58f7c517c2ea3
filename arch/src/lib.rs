//! What a Ferry guest finds when it wakes up: memory layout, CPUID, MSRs, registers, boot structures, ACPI tables.
//!
//! Every function is pure: plain description in, bytes and register values out. Deliberately absent are KVM file
//! descriptors, guest memory, devices and any I/O; `vmm` writes what this crate computes. There are no locks, no
//! threads and no global state, so everything may be called from anywhere.
#![forbid(unsafe_code)]

pub mod platform;
pub mod x86_64;
