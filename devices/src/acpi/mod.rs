//! ACPI hardware registers.

mod power;

pub use power::{AcpiPower, S5_SLEEP_TYPE};
