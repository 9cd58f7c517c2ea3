//! Everything that only an x86_64 guest sees.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod reset_vector;
