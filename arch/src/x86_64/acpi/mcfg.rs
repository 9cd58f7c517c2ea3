//! MCFG: where PCI configuration space is memory-mapped (PCI Firmware specification 3.3, 4.1.2).

use acpi_tables::mcfg::MCFG;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::x86_64::layout;

/// Segment 0, whose only bus is 0.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::PCIE_ECAM_BASE, 0, 0, layout::PCIE_ECAM_LAST_BUS);
    mcfg
}
