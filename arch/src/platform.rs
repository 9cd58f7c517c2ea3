//! The plain description of a guest from which everything else in this crate is computed.

use std::ops::RangeInclusive;

/// A range of guest physical memory that RAM backs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First guest physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl MemoryRange {
    /// First address behind the range.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// A range of guest physical addresses that the PCI host bridge forwards to bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWindow {
    /// First guest physical address.
    pub base: u64,
    /// Length in bytes; 0 means the window doesn't exist.
    pub len: u64,
}

impl PciWindow {
    /// First address behind the window.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.len)
    }
}

/// The place of a function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciFunctionSlot {
    /// Device number, 0..=31.
    pub slot: u8,
    /// Function number, 0..=7.
    pub function: u8,
}

/// What the guest's firmware tables and boot structures have to describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformDescription {
    /// Number of CPUs, 1..=254. The APIC id of a CPU is its index.
    pub cpus: u8,
    /// RAM, ascending and disjoint, from [`crate::x86_64::layout::place_ram`].
    pub ram: Vec<MemoryRange>,
    /// The window for 32-bit BARs.
    pub pci_window_32: PciWindow,
    /// The window for 64-bit BARs; `len` 0 leaves it out.
    pub pci_window_64: PciWindow,
    /// The I/O port window: first port and number of ports.
    pub pci_window_io: (u16, u32),
    /// Whether COM1 exists.
    pub serial: bool,
    /// Addresses that no device reaches, as an IOMMU can't map them: BARs keep off while there is other room.
    pub unmappable: Vec<RangeInclusive<u64>>,
}
