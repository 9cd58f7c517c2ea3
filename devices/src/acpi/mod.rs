//! ACPI hardware registers.

mod ged;
mod pci_hotplug;
mod power;

pub use ged::{GenericEvent, GenericEventDevice};
pub use pci_hotplug::{PciHotplug, SlotPower};
pub use power::{AcpiPower, S5_SLEEP_TYPE};
