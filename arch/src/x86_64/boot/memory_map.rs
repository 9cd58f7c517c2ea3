//! The memory map in its e820 form, which PVH shares.

use crate::platform::PlatformDescription;
use crate::x86_64::layout;

/// Usable RAM.
pub const E820_RAM: u32 = 1;
/// Not RAM, and not free for devices.
pub const E820_RESERVED: u32 = 2;

/// Below 1 MiB nothing from here on is offered as RAM: EBDA, VGA, option ROMs, ACPI tables.
const LEGACY_HOLE: (u64, u64) = (layout::EBDA_ADDRESS, layout::HIGH_MEMORY);

/// Ranges that are reserved whatever RAM the guest has; the kernel checks ECAM against them.
const RESERVED: [(u64, u64); 6] = [
    (
        layout::EBDA_ADDRESS,
        layout::VGA_ADDRESS - layout::EBDA_ADDRESS,
    ),
    (
        layout::ACPI_ADDRESS,
        layout::ACPI_END - layout::ACPI_ADDRESS,
    ),
    (layout::PCIE_ECAM_BASE, layout::PCIE_ECAM_RESERVED_LEN),
    (layout::IOAPIC_ADDRESS, layout::PAGE_SIZE),
    (layout::LAPIC_ADDRESS, layout::PAGE_SIZE),
    (
        layout::KVM_IDENTITY_MAP_ADDRESS,
        layout::PAGE_SIZE + layout::KVM_TSS_LEN,
    ),
];

/// The memory map, ascending and disjoint: start, length, type.
///
/// The PCI windows are in no entry, since a kernel cuts every entry out of them.
#[must_use]
pub fn e820(platform: &PlatformDescription) -> Vec<(u64, u64, u32)> {
    let (hole_start, hole_end) = LEGACY_HOLE;
    let ram = platform.ram.iter().flat_map(|range| {
        let below = (range.start, range.end().min(hole_start));
        let above = (range.start.max(hole_end), range.end());
        [below, above]
    });
    let mut map: Vec<(u64, u64, u32)> = ram
        .filter(|(start, end)| start < end)
        .map(|(start, end)| (start, end - start, E820_RAM))
        .chain(RESERVED.map(|(start, len)| (start, len, E820_RESERVED)))
        .collect();
    map.sort_unstable();
    map
}
