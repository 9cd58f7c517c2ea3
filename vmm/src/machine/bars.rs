//! Placing BARs, as firmware would: the windows are sized from what is there, and every BAR has its
//! address before the guest starts.

use arch::platform::{PciWindow, PlatformDescription};
use arch::x86_64::layout::{BarSpace, PAGE_SIZE};
use devices::pci::{BarIndex, BarKind, BarLayout, ConfigOffset, PciFunction, header};
use std::ops::RangeInclusive;
use std::sync::Arc;
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive as TakenRange};

const IO: &str = "I/O";

/// A BAR that has no room in the guest's PCI windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bar} of {name} ({size:#x} bytes, {kind}) has no room in the guest's PCI windows")]
pub struct NoRoom {
    /// The device.
    pub name: String,
    /// The BAR.
    pub bar: BarIndex,
    /// Its size in bytes.
    pub size: u64,
    /// Which window it needs.
    pub kind: &'static str,
}

/// How much of the 64-bit window the BARs of `functions` need, with each at its natural alignment: from a multiple of the
/// largest on, powers of two in descending order leave no holes.
#[must_use]
pub(super) fn window_64_needed(functions: &[Arc<dyn PciFunction>]) -> BarSpace {
    functions
        .iter()
        .flat_map(|function| function.bars())
        .filter(|bar| matches!(bar.kind, BarKind::Memory64 { .. }))
        .map(footprint)
        .fold(BarSpace::default(), |space, size| BarSpace {
            bytes: space.bytes.saturating_add(size),
            largest: space.largest.max(size),
        })
}

/// The address space that a BAR takes: memory BARs don't share a page, so that each can be mapped.
fn footprint(bar: &BarLayout) -> u64 {
    match bar.kind {
        BarKind::Io => bar.size,
        BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => bar.size.max(PAGE_SIZE),
    }
}

/// Where a guest has a BAR now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlacedBar {
    base: u64,
    size: u64,
    io: bool,
}

/// The BARs of a function by what its registers hold, decoded or not.
fn placed(function: &Arc<dyn PciFunction>) -> Vec<PlacedBar> {
    let register = |offset: u16| {
        let mut bytes = [0; 4];
        if let Some(offset) = ConfigOffset::new(offset) {
            function.config_read(offset, &mut bytes);
        }
        u64::from(u32::from_le_bytes(bytes))
    };
    let bars = function.bars().iter().map(|bar| {
        // Its size is a power of two, and the bits below are no part of the address.
        let flags = bar.size - 1;
        let offset = header::BAR0 + 4 * u16::from(bar.index.get());
        let base = match bar.kind {
            _ if bar.index == BarIndex::ROM => register(header::EXPANSION_ROM),
            BarKind::Io | BarKind::Memory32 { .. } => register(offset),
            BarKind::Memory64 { .. } => register(offset) | register(offset + 4) << 32,
        };
        PlacedBar {
            base: base & !flags,
            size: footprint(bar),
            io: bar.kind == BarKind::Io,
        }
    });
    bars.collect()
}

/// A window that BARs are placed in.
struct Space {
    allocator: Option<AddressAllocator>,
    name: &'static str,
    /// What is kept free of BARs while there is other room.
    avoided: Vec<TakenRange>,
}

impl Space {
    fn new(base: u64, len: u64, name: &'static str) -> Self {
        Self {
            allocator: AddressAllocator::new(base, len).ok(),
            name,
            avoided: Vec::new(),
        }
    }

    /// Keeps BARs off `unmappable`, so that other devices reach them.
    fn keep_off(mut self, unmappable: &[RangeInclusive<u64>]) -> Self {
        let Some(allocator) = &mut self.allocator else {
            return self;
        };
        let mut ranges: Vec<_> = unmappable.iter().map(|r| (*r.start(), *r.end())).collect();
        ranges.sort_unstable();
        let mut free = allocator.base();
        for (start, last) in ranges {
            let start = start.max(free) & !(PAGE_SIZE - 1);
            let last = last.min(allocator.end()) | (PAGE_SIZE - 1);
            if start > last {
                continue;
            }
            let policy = AllocPolicy::ExactMatch(start);
            // What can't be kept off costs a device the way to another's BAR, which is told where it is mapped.
            if let Ok(range) = allocator.allocate(last - start + 1, PAGE_SIZE, policy) {
                self.avoided.push(range);
            }
            free = last.saturating_add(1);
        }
        self
    }

    /// Keeps BARs off one that is there already. What is only partly in this window is the guest's own doing.
    fn occupy(&mut self, bar: &PlacedBar) {
        let io = self.name == IO;
        if let Some(allocator) = self.allocator.as_mut().filter(|_| io == bar.io) {
            let policy = AllocPolicy::ExactMatch(bar.base);
            let _ = allocator.allocate(bar.size, bar.size, policy);
        }
    }

    fn allocate(&mut self, size: u64) -> Option<u64> {
        let allocator = self.allocator.as_mut()?;
        if let Ok(range) = allocator.allocate(size, size, AllocPolicy::FirstMatch) {
            return Some(range.start());
        }
        for range in self.avoided.drain(..) {
            allocator.free(&range).ok()?;
        }
        let range = allocator.allocate(size, size, AllocPolicy::FirstMatch);
        Some(range.ok()?.start())
    }
}

/// Gives every BAR of `functions` an address inside the windows of `platform`.
///
/// # Errors
/// [`NoRoom`].
pub(super) fn assign(
    functions: &[Arc<dyn PciFunction>],
    platform: &PlatformDescription,
) -> Result<(), NoRoom> {
    assign_beside(&[], functions, platform)
}

/// The same while a guest runs: the BARs of `present` stay where the guest has them.
///
/// # Errors
/// [`NoRoom`].
pub(super) fn assign_beside(
    present: &[Arc<dyn PciFunction>],
    functions: &[Arc<dyn PciFunction>],
    platform: &PlatformDescription,
) -> Result<(), NoRoom> {
    let window = |window: &PciWindow, name| Space::new(window.base, window.len, name);
    let (io_base, io_len) = platform.pci_window_io;
    let mut io = Space::new(io_base.into(), io_len.into(), IO);
    let mut memory_32 =
        window(&platform.pci_window_32, "32-bit memory").keep_off(&platform.unmappable);
    let mut memory_64 = window(&platform.pci_window_64, "64-bit memory");
    for bar in present.iter().flat_map(placed) {
        for space in [&mut io, &mut memory_32, &mut memory_64] {
            space.occupy(&bar);
        }
    }
    let mut bars: Vec<_> = functions
        .iter()
        .flat_map(|function| function.bars().iter().map(move |bar| (function, bar)))
        .collect();
    bars.sort_by_key(|(_, bar)| std::cmp::Reverse(footprint(bar)));
    for (function, bar) in bars {
        let size = footprint(bar);
        let (space, base) = match bar.kind {
            BarKind::Io => (io.name, io.allocate(size)),
            BarKind::Memory32 { .. } => (memory_32.name, memory_32.allocate(size)),
            BarKind::Memory64 { .. } => (memory_64.name, memory_64.allocate(size)),
        };
        let base = base.ok_or_else(|| NoRoom {
            name: function.name().to_owned(),
            bar: bar.index,
            size: bar.size,
            kind: space,
        })?;
        function.assign_bar(bar.index, base);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xc000_0000;
    const MIB: u64 = 1 << 20;

    /// Where BARs of `sizes` end up in 16 MiB.
    fn places(unmappable: &[RangeInclusive<u64>], sizes: &[u64]) -> Vec<Option<u64>> {
        let mut space = Space::new(BASE, 16 * MIB, "32-bit memory").keep_off(unmappable);
        sizes.iter().map(|size| space.allocate(*size)).collect()
    }

    #[test]
    fn bars_keep_off_what_an_iommu_cannot_map() {
        let hole = BASE + 4 * MIB..=BASE + 5 * MIB - 1;
        assert_eq!(
            places(&[hole], &[4 * MIB, 4 * MIB]),
            [Some(BASE), Some(BASE + 8 * MIB)]
        );
    }

    #[test]
    fn unmappable_ranges_may_overlap_each_other_and_the_ends_of_the_window() {
        let holes = [
            BASE + 14 * MIB..=BASE + 20 * MIB,
            0..=BASE + MIB - 1,
            BASE..=BASE + 2 * MIB - 1,
            BASE + 32 * MIB..=u64::MAX,
        ];
        assert_eq!(
            places(&holes, &[4 * MIB, 4 * MIB, 2 * MIB, 2 * MIB]),
            [4, 8, 2, 12].map(|place| Some(BASE + place * MIB))
        );
    }

    #[test]
    fn a_bar_with_no_other_room_lies_in_what_an_iommu_cannot_map() {
        let hole = BASE + 4 * MIB..=BASE + 5 * MIB - 1;
        assert_eq!(
            places(std::slice::from_ref(&hole), &[16 * MIB]),
            [Some(BASE)]
        );
        assert_eq!(
            places(&[hole], &[8 * MIB, 8 * MIB, MIB]),
            [Some(BASE + 8 * MIB), Some(BASE), None]
        );
    }
}
