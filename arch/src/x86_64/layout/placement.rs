//! Where RAM and the window for 64-bit BARs go, around what the CPU and the IOMMUs can't address.

use std::ops::RangeInclusive;

use super::{GIB, HIGH_MEMORY, HIGH_RAM_START, LOW_RAM_END, LayoutError, MIB, VGA_ADDRESS};
use crate::platform::{MemoryRange, PciWindow};

/// RAM comes in pieces of this size and alignment at least, so that it can be mapped by large pages everywhere.
const RAM_UNIT: u64 = 2 * MIB;
/// The 64-bit PCI window keeps this much room for devices that are plugged in later, where addresses allow.
const PCI_WINDOW_64_RESERVE: u64 = 64 * GIB;

/// The AMD HyperTransport range: an AMD IOMMU can't map it, and peer-to-peer DMA to a BAR there is lost.
pub(super) const HYPERTRANSPORT: RangeInclusive<u64> = 0xFD_0000_0000..=0xFF_FFFF_FFFF;

/// No x86 CPU has wider physical addresses.
const PHYS_BITS_MAX: u8 = 52;

/// Which guest physical addresses can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Width of the guest's physical addresses.
    pub phys_bits: u8,
    /// What the IOMMUs of the assigned devices can't map, in any order; it may overlap.
    pub reserved: Vec<RangeInclusive<u64>>,
}

impl AddressLimits {
    /// Those of a guest without devices.
    #[must_use]
    pub fn of_cpu(phys_bits: u8) -> Self {
        Self {
            phys_bits,
            reserved: Vec::new(),
        }
    }

    /// First address that the CPU doesn't have.
    fn end(&self) -> u64 {
        1 << self.phys_bits.min(PHYS_BITS_MAX)
    }
}

/// Where guest RAM lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamPlacement {
    /// All of it, ascending and disjoint.
    pub ranges: Vec<MemoryRange>,
    /// Part of it that no device can reach, because an IOMMU can't map it: it lies where firmware would be and is never
    /// offered to the kernel as RAM.
    pub cpu_only: Option<MemoryRange>,
}

/// Room that 64-bit BARs need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BarSpace {
    /// All of them together, in bytes.
    pub bytes: u64,
    /// The largest of them, which is the alignment of the whole.
    pub largest: u64,
}

/// Places `size` bytes of RAM, a multiple of `page_size`, in whole pages of that size: from 0 on, around the hole below
/// 4 GiB, and around what `limits` reserves.
///
/// # Errors
/// When the first page, which has to be at 0, can't be mapped, or when not all of the RAM has a place.
pub fn place_ram(
    size: u64,
    page_size: u64,
    limits: &AddressLimits,
) -> Result<RamPlacement, LayoutError> {
    let unit = page_size.max(RAM_UNIT);
    let legacy = VGA_ADDRESS..=HIGH_MEMORY - 1;
    let overlaps = |range: &RangeInclusive<u64>| {
        range.start() <= legacy.end() && range.end() >= legacy.start()
    };
    let cpu_only = limits.reserved.iter().any(overlaps);
    let holes: Vec<_> = limits
        .reserved
        .iter()
        .filter_map(|range| behind_legacy(range, &legacy))
        .collect();
    if let Some(first) = holes.iter().find(|range| *range.start() < unit) {
        return Err(LayoutError::FirstPage {
            reserved: first.clone(),
            page: unit,
        });
    }
    let mut left = size;
    let mut ranges = Vec::new();
    for (start, end) in [(0, LOW_RAM_END), (HIGH_RAM_START, limits.end())] {
        for gap in gaps(start..end, &holes, unit) {
            let len = (gap.end - gap.start).min(left);
            if len > 0 {
                ranges.push(MemoryRange {
                    start: gap.start,
                    len,
                });
                left -= len;
            }
        }
    }
    if left > 0 {
        return Err(LayoutError::Ram {
            size,
            available: size - left,
            phys_bits: limits.phys_bits,
        });
    }
    Ok(RamPlacement {
        ranges,
        cpu_only: cpu_only.then_some(MemoryRange {
            start: *legacy.start(),
            len: legacy.end() + 1 - legacy.start(),
        }),
    })
}

/// What of `range` is not in the legacy hole below 1 MiB, from its start on; the legacy hole is not offered as RAM.
fn behind_legacy(
    range: &RangeInclusive<u64>,
    legacy: &RangeInclusive<u64>,
) -> Option<RangeInclusive<u64>> {
    if !legacy.contains(range.start()) {
        return Some(range.clone());
    }
    let start = legacy.end() + 1;
    (start <= *range.end()).then(|| start..=*range.end())
}

/// What `holes` leave of `range`, in whole units.
fn gaps(
    range: std::ops::Range<u64>,
    holes: &[RangeInclusive<u64>],
    unit: u64,
) -> Vec<std::ops::Range<u64>> {
    let mut holes: Vec<_> = holes.iter().filter(|hole| !hole.is_empty()).collect();
    holes.sort_by_key(|hole| *hole.start());
    let up = |address: u64| address.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let mut gaps = Vec::new();
    let mut start = up(range.start);
    for hole in holes {
        let end = (*hole.start()).min(range.end) / unit * unit;
        if start < end {
            gaps.push(start..end);
        }
        start = start.max(up(hole.end().saturating_add(1)));
    }
    let end = range.end / unit * unit;
    if start < end {
        gaps.push(start..end);
    }
    gaps
}

/// Places the window for 64-bit BARs: above RAM, where the CPU has addresses, aligned for the largest BAR.
///
/// The window holds the BARs and 64 GiB for hotplug, or what fits. It lies as low as it can where the IOMMUs can map it,
/// so that devices reach each other's BARs; where it doesn't fit there, it lies where only the CPU reaches it. `needed` 0
/// always succeeds, if need be with a window of length 0.
///
/// # Errors
/// When `needed` doesn't fit.
pub fn pci_window_64(
    ram_end: u64,
    needed: BarSpace,
    limits: &AddressLimits,
) -> Result<PciWindow, LayoutError> {
    let alignment = needed
        .largest
        .checked_next_power_of_two()
        .unwrap_or(1 << 63)
        .max(GIB);
    let mut reserved = limits.reserved.clone();
    reserved.push(HYPERTRANSPORT);
    let reached_by_all = window(ram_end, needed.bytes, (&reserved, alignment), limits);
    if reached_by_all.len >= needed.bytes {
        return Ok(reached_by_all);
    }
    let reached_by_cpu = window(
        ram_end,
        needed.bytes,
        (&[HYPERTRANSPORT], alignment),
        limits,
    );
    if reached_by_cpu.len >= needed.bytes {
        return Ok(reached_by_cpu);
    }
    Err(LayoutError::PciWindow64 {
        needed: needed.bytes,
        available: reached_by_cpu.len,
        ram_end,
        phys_bits: limits.phys_bits,
    })
}

/// The first place that is roomy enough for BARs of `needed` bytes and those that come later, else the largest.
fn window(
    ram_end: u64,
    needed: u64,
    (holes, alignment): (&[RangeInclusive<u64>], u64),
    limits: &AddressLimits,
) -> PciWindow {
    let wanted = needed
        .saturating_add(PCI_WINDOW_64_RESERVE)
        .checked_next_multiple_of(GIB)
        .unwrap_or(u64::MAX);
    let floor = ram_end.max(HIGH_RAM_START);
    let places: Vec<_> = gaps(floor..limits.end(), holes, GIB)
        .into_iter()
        .map(|gap| {
            let base = gap
                .start
                .checked_next_multiple_of(alignment)
                .unwrap_or(u64::MAX);
            PciWindow {
                base,
                len: gap.end.saturating_sub(base).min(wanted),
            }
        })
        .collect();
    let roomy = places.iter().find(|place| place.len >= wanted);
    // Of places of one size the first.
    let largest = places.iter().rev().max_by_key(|place| place.len);
    let nothing = PciWindow {
        base: floor,
        len: 0,
    };
    roomy.or(largest).copied().unwrap_or(nothing)
}

#[cfg(test)]
mod tests;
