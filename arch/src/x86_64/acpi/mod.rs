//! The ACPI tables: RSDP, XSDT, FADT, MADT, MCFG and DSDT (ACPI specification 6.4; the PCI host bridge follows the
//! PCI Firmware specification 3.3).
//!
//! The platform is hardware-reduced: no PM timer, no SCI, no PIT, no legacy probing, so the guest waits for nothing.

mod dsdt;
mod fadt;
mod host_bridge;
mod hotplug;
mod madt;
mod mcfg;

use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use thiserror::Error;

use super::boot::GuestBlob;
use super::layout;
use crate::platform::PlatformDescription;

/// Tables ready to be written into guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Address of the RSDP.
    pub rsdp: u64,
    /// RSDP and tables.
    pub blobs: Vec<GuestBlob>,
}

/// Why a platform can't be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcpiError {
    /// The MADT holds local APIC ids below 255.
    #[error("a guest has 1 to {max} CPUs, not {cpus}")]
    CpuCount {
        /// CPUs asked for.
        cpus: u8,
        /// Most that can be described.
        max: u8,
    },
    /// A PCI window leaves the address space its descriptor can express.
    #[error("the PCI window of {len:#x} at {base:#x} doesn't fit {space}")]
    PciWindow {
        /// First address or port.
        base: u64,
        /// Length.
        len: u64,
        /// What the window should lie in.
        space: &'static str,
    },
    /// The tables outgrew their area.
    #[error("the ACPI tables need {needed} bytes, but their area has {available}")]
    TablesTooLarge {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
}

/// Largest number of CPUs: local APIC ids end at 254, and 255 is everyone.
const CPUS_MAX: u8 = 254;
/// Tables start on a cache line.
const TABLE_ALIGNMENT: u64 = 64;

/// Who made the tables; the OEM table id is the same in all of them.
const OEM_ID: [u8; 6] = *b"FERRY ";
const OEM_TABLE_ID: [u8; 8] = *b"FERRYVMM";
const OEM_REVISION: u32 = 1;

/// Builds all tables for `platform`, from [`layout::ACPI_ADDRESS`] on.
///
/// # Errors
/// When the platform has too many CPUs or a PCI window outside its address space.
pub fn build(platform: &PlatformDescription) -> Result<AcpiTables, AcpiError> {
    if platform.cpus == 0 || platform.cpus > CPUS_MAX {
        return Err(AcpiError::CpuCount {
            cpus: platform.cpus,
            max: CPUS_MAX,
        });
    }
    let rsdp = layout::ACPI_ADDRESS;
    let mut area = TableArea {
        next: rsdp + TABLE_ALIGNMENT,
        blobs: Vec::new(),
    };
    let dsdt = area.place(&dsdt::dsdt(platform)?);
    let fadt = area.place(&fadt::fadt(dsdt));
    let madt = area.place(&madt::madt(platform));
    let mcfg = area.place(&mcfg::mcfg());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = area.place(&xsdt);
    let mut blobs = vec![GuestBlob {
        address: rsdp,
        bytes: bytes(&Rsdp::new(OEM_ID, xsdt)),
    }];
    blobs.append(&mut area.blobs);
    let (needed, available) = (area.next - rsdp, layout::ACPI_END - rsdp);
    if needed > available {
        return Err(AcpiError::TablesTooLarge { needed, available });
    }
    Ok(AcpiTables { rsdp, blobs })
}

/// Hands out addresses one behind the other.
struct TableArea {
    next: u64,
    blobs: Vec<GuestBlob>,
}

impl TableArea {
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let address = self.next;
        let bytes = bytes(table);
        self.next = (address + bytes.len() as u64).next_multiple_of(TABLE_ALIGNMENT);
        self.blobs.push(GuestBlob { address, bytes });
        address
    }
}

/// AML that has been written already.
struct Verbatim(Vec<u8>);

impl Aml for Verbatim {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
