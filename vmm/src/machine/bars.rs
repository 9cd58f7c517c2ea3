//! Placing BARs, as firmware would: the windows are sized from what is there, and every BAR has its
//! address before the guest starts.

use arch::platform::{PciWindow, PlatformDescription};
use arch::x86_64::layout::{BarSpace, PAGE_SIZE};
use devices::pci::{BarIndex, BarKind, BarLayout, PciFunction};
use std::sync::Arc;
use vm_allocator::{AddressAllocator, AllocPolicy};

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

struct Space {
    allocator: Option<AddressAllocator>,
    name: &'static str,
}

impl Space {
    fn new(base: u64, len: u64, name: &'static str) -> Self {
        let allocator = AddressAllocator::new(base, len).ok();
        Self { allocator, name }
    }

    fn allocate(&mut self, size: u64) -> Option<u64> {
        let allocator = self.allocator.as_mut()?;
        let range = allocator
            .allocate(size, size, AllocPolicy::FirstMatch)
            .ok()?;
        Some(range.start())
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
    let window = |window: &PciWindow, name| Space::new(window.base, window.len, name);
    let (io_base, io_len) = platform.pci_window_io;
    let mut io = Space::new(io_base.into(), io_len.into(), "I/O");
    let mut memory_32 = window(&platform.pci_window_32, "32-bit memory");
    let mut memory_64 = window(&platform.pci_window_64, "64-bit memory");
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
