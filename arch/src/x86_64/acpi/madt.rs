//! MADT: local APICs and the I/O APIC (ACPI specification 6.4, 5.2.12).

use acpi_tables::sdt::Sdt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::platform::PlatformDescription;
use crate::x86_64::layout;

/// ACPI 6.4.
const REVISION: u8 = 5;
/// Length of a table header.
const HEADER_LEN: u32 = 36;

/// What follows the table header. There is no 8259 the guest should program, so `PCAT_COMPAT` is clear.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MadtHeader {
    local_apic_address: U32,
    flags: U32,
}

/// Type 0.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApic {
    kind: u8,
    length: u8,
    processor_uid: u8,
    apic_id: u8,
    flags: U32,
}

/// Type 1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    length: u8,
    io_apic_id: u8,
    reserved: u8,
    address: U32,
    gsi_base: U32,
}

/// Type 4.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor_uid: u8,
    flags: U16,
    lint: u8,
}

const KIND_LOCAL_APIC: u8 = 0;
const KIND_IO_APIC: u8 = 1;
const KIND_LOCAL_APIC_NMI: u8 = 4;
const LOCAL_APIC_ENABLED: u32 = 1 << 0;
const ALL_PROCESSORS: u8 = 0xFF;

/// The MADT. `acpi_tables::madt` has neither a current revision nor the NMI entry.
///
/// There are no interrupt source overrides: a hardware-reduced platform has no ISA interrupts to override.
pub(super) fn madt(platform: &PlatformDescription) -> Sdt {
    let mut madt = Sdt::new(
        *b"APIC",
        HEADER_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let header = MadtHeader {
        local_apic_address: address(layout::LAPIC_ADDRESS),
        flags: 0.into(),
    };
    madt.append_slice(header.as_bytes());
    for cpu in 0..platform.cpus {
        let entry = LocalApic {
            kind: KIND_LOCAL_APIC,
            length: entry_len::<LocalApic>(),
            processor_uid: cpu,
            apic_id: cpu,
            flags: LOCAL_APIC_ENABLED.into(),
        };
        madt.append_slice(entry.as_bytes());
    }
    let io_apic = IoApic {
        kind: KIND_IO_APIC,
        length: entry_len::<IoApic>(),
        io_apic_id: 0,
        reserved: 0,
        address: address(layout::IOAPIC_ADDRESS),
        gsi_base: 0.into(),
    };
    madt.append_slice(io_apic.as_bytes());
    let nmi = LocalApicNmi {
        kind: KIND_LOCAL_APIC_NMI,
        length: entry_len::<LocalApicNmi>(),
        processor_uid: ALL_PROCESSORS,
        flags: 0.into(),
        lint: 1,
    };
    madt.append_slice(nmi.as_bytes());
    madt
}

/// The interrupt controllers lie below 4 GiB by architecture.
fn address(address: u64) -> U32 {
    ((address & 0xFFFF_FFFF) as u32).into()
}

#[expect(clippy::cast_possible_truncation, reason = "an entry has a few bytes")]
const fn entry_len<T>() -> u8 {
    size_of::<T>() as u8
}
