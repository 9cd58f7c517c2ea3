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
    // Linux leaves the register of a ROM as it is when it moves a device and does not read the ROM.
    let is_used = |bar: &&BarLayout| {
        bar.index != BarIndex::ROM
            || register(header::EXPANSION_ROM) & u64::from(header::EXPANSION_ROM_ENABLE) != 0
    };
    let bars = function.bars().iter().filter(is_used).map(|bar| {
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
    /// Where BARs are: sorted, apart from each other.
    occupied: Vec<(u64, u64)>,
}

/// What of `range` is in none of `others`, which are sorted and apart from each other; first and last of each part.
fn without(range: (u64, u64), others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut start, last) = range;
    let mut parts = Vec::new();
    for (first, end) in others {
        if *end < start || *first > last {
            continue;
        }
        if *first > start {
            parts.push((start, first - 1));
        }
        match end.checked_add(1) {
            Some(next) => start = next,
            None => return parts,
        }
    }
    if start <= last {
        parts.push((start, last));
    }
    parts
}

impl Space {
    fn new(base: u64, len: u64, name: &'static str) -> Self {
        Self {
            allocator: AddressAllocator::new(base, len).ok(),
            name,
            avoided: Vec::new(),
            occupied: Vec::new(),
        }
    }

    /// Keeps BARs off those that are there already. What is outside this window is the guest's own doing.
    fn occupy(mut self, present: &[PlacedBar]) -> Self {
        let io = self.name == IO;
        let mut ranges: Vec<_> = present
            .iter()
            .filter(|bar| bar.io == io)
            .map(|bar| (bar.base, bar.base.saturating_add(bar.size - 1)))
            .collect();
        let unit = if io { 1 } else { PAGE_SIZE };
        self.take(&mut ranges, unit);
        self.occupied = ranges;
        self
    }

    /// Keeps BARs off `unmappable`, so that other devices reach them.
    fn keep_off(mut self, unmappable: &[RangeInclusive<u64>]) -> Self {
        let ranges = unmappable.iter().map(|r| (*r.start(), *r.end()));
        // What is occupied must not be given up with them.
        let mut free = Vec::new();
        for range in ranges {
            free.extend(without(range, &self.occupied));
        }
        self.avoided = self.take(&mut free, PAGE_SIZE);
        self
    }

    /// Takes what of `ranges` lies in the window, in whole units. They become what was taken: sorted, apart from each other.
    fn take(&mut self, ranges: &mut Vec<(u64, u64)>, unit: u64) -> Vec<TakenRange> {
        let Some(allocator) = &mut self.allocator else {
            return Vec::new();
        };
        ranges.sort_unstable();
        let mut taken = Vec::new();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        let mut free = allocator.base();
        for (start, last) in ranges.drain(..) {
            let start = (start & !(unit - 1)).max(free);
            let last = (last | (unit - 1)).min(allocator.end());
            if start > last {
                continue;
            }
            let policy = AllocPolicy::ExactMatch(start);
            // The allocator does not look whether that is free, so nothing is asked for twice.
            if let Ok(range) = allocator.allocate(last - start + 1, unit, policy) {
                taken.push(range);
                apart.push((start, last));
            }
            free = last.saturating_add(1);
        }
        *ranges = apart;
        taken
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
    let places = find(&[], functions, platform)?;
    apply(&places);
    Ok(())
}

/// The same while a guest runs: the BARs of `present` stay where the guest has them. There is room for all of them wherever
/// the guest has those of now, so that it can boot again.
///
/// # Errors
/// [`NoRoom`].
pub(super) fn assign_beside(
    present: &[Arc<dyn PciFunction>],
    functions: &[Arc<dyn PciFunction>],
    platform: &PlatformDescription,
) -> Result<(), NoRoom> {
    let all: Vec<_> = present.iter().chain(functions).cloned().collect();
    find(&[], &all, platform)?;
    let there: Vec<_> = present.iter().flat_map(placed).collect();
    let places = find(&there, functions, platform)?;
    apply(&places);
    Ok(())
}

/// A BAR of a function, and its address.
type Place<'a> = (&'a Arc<dyn PciFunction>, BarIndex, u64);

fn apply(places: &[Place<'_>]) {
    for (function, bar, base) in places {
        function.assign_bar(*bar, *base);
    }
}

fn find<'a>(
    present: &[PlacedBar],
    functions: &'a [Arc<dyn PciFunction>],
    platform: &PlatformDescription,
) -> Result<Vec<Place<'a>>, NoRoom> {
    let window = |window: &PciWindow, name| Space::new(window.base, window.len, name);
    let (io_base, io_len) = platform.pci_window_io;
    let mut io = Space::new(io_base.into(), io_len.into(), IO).occupy(present);
    let mut memory_32 = window(&platform.pci_window_32, "32-bit memory")
        .occupy(present)
        .keep_off(&platform.unmappable);
    let mut memory_64 = window(&platform.pci_window_64, "64-bit memory").occupy(present);
    let mut bars: Vec<_> = functions
        .iter()
        .flat_map(|function| function.bars().iter().map(move |bar| (function, bar)))
        .collect();
    bars.sort_by_key(|(_, bar)| std::cmp::Reverse(footprint(bar)));
    let mut places = Vec::with_capacity(bars.len());
    for (function, bar) in bars {
        let size = footprint(bar);
        let space = match bar.kind {
            BarKind::Io => &mut io,
            BarKind::Memory32 { .. } => &mut memory_32,
            BarKind::Memory64 { .. } => &mut memory_64,
        };
        let base = space.allocate(size).ok_or_else(|| NoRoom {
            name: function.name().to_owned(),
            bar: bar.index,
            size: bar.size,
            kind: space.name,
        })?;
        places.push((function, bar.index, base));
    }
    Ok(places)
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

    /// The same beside BARs that are there.
    fn beside(
        present: &[PlacedBar],
        unmappable: &[RangeInclusive<u64>],
        sizes: &[u64],
    ) -> Vec<u64> {
        let space = Space::new(BASE, 16 * MIB, "32-bit memory").occupy(present);
        let mut space = space.keep_off(unmappable);
        let places = sizes.iter().map_while(|size| space.allocate(*size));
        places.map(|place| (place - BASE) / PAGE_SIZE).collect()
    }

    fn bar(page: u64, size: u64) -> PlacedBar {
        PlacedBar {
            base: BASE + page * PAGE_SIZE,
            size,
            io: false,
        }
    }

    #[test]
    fn bars_keep_off_those_that_are_there_however_these_overlap() {
        let half = PlacedBar {
            base: BASE + 0x800,
            ..bar(0, 0x1000)
        };
        // The second lies in the first, as that of a device which the guest does not let decode; the last is elsewhere.
        let there = [
            bar(4, 4 * PAGE_SIZE),
            bar(5, PAGE_SIZE),
            half,
            bar(1 << 20, PAGE_SIZE),
        ];
        let pages = [PAGE_SIZE; 4];
        assert_eq!(beside(&there, &[], &pages), [2, 3, 8, 9]);
    }

    #[test]
    fn what_is_given_up_of_an_iommus_hole_is_no_bar_that_is_there() {
        let hole = BASE..=BASE + 16 * MIB - 1;
        let there = [bar(0, 4 * MIB), bar(0xc00, 4 * MIB)];
        let mib = |places: &[u64]| {
            places
                .iter()
                .map(|page| page * PAGE_SIZE / MIB)
                .collect::<Vec<_>>()
        };
        assert_eq!(mib(&beside(&there, &[hole], &[4 * MIB; 3])), [4, 8]);
    }

    #[test]
    fn parts_of_a_range_are_those_outside_of_others() {
        let others = [(10, 19), (30, 39), (u64::MAX - 1, u64::MAX)];
        assert_eq!(without((0, 50), &others), [(0, 9), (20, 29), (40, 50)]);
        assert_eq!(without((12, 15), &others), []);
        assert_eq!(without((15, 20), &others), [(20, 20)]);
        assert_eq!(
            without((u64::MAX - 2, u64::MAX), &others),
            [(u64::MAX - 2, u64::MAX - 2)]
        );
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
