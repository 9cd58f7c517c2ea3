//! Which parts of a device's BARs a guest reaches without an exit.

use super::probe::{MappableArea, Region, VfioProbe};
use crate::pci::{BarIndex, BarKind, HostSbdf, header};
use std::fmt;

/// A BAR cannot be shown to a guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// The last register claims to be the lower half of a 64-bit pair.
    #[error("{sbdf}: {bar} claims to be 64-bit and has no upper half")]
    NoUpperHalf {
        /// Which device.
        sbdf: HostSbdf,
        /// Which BAR.
        bar: BarIndex,
    },
    /// The size is none that a BAR of its kind can have.
    #[error("{sbdf}: {bar} has the size {size:#x}, which no such BAR can have")]
    Size {
        /// Which device.
        sbdf: HostSbdf,
        /// Which BAR.
        bar: BarIndex,
        /// Bytes.
        size: u64,
    },
}

/// A part of a BAR that must trap: the MSI-X table or the PBA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrappedRange {
    pub(super) bar: BarIndex,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) what: &'static str,
}

/// One `mmap` of a BAR, and the parts of it that the guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MappingPlan {
    pub(super) area: MappableArea,
    pub(super) segments: Vec<MappableArea>,
}

/// A BAR as the guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BarPlan {
    pub(super) index: BarIndex,
    pub(super) kind: BarKind,
    /// Power of two.
    pub(super) size: u64,
    pub(super) file_offset: u64,
    pub(super) mappings: Vec<MappingPlan>,
    /// Why not all of it is mapped.
    pub(super) trapped: Vec<&'static str>,
}

const IO_SPACE: u32 = 1 << 0;
const MEMORY_TYPE: u32 = 3 << 1;
const MEMORY_TYPE_64: u32 = 2 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const IO_SMALLEST: u64 = 4;
/// All the ports that a PC has.
const IO_LARGEST: u64 = 1 << 16;
const MEMORY_SMALLEST: u64 = 16;
const MEMORY32_LARGEST: u64 = 1 << 31;

fn kind(register: u32) -> BarKind {
    let prefetchable = register & PREFETCHABLE != 0;
    if register & IO_SPACE != 0 {
        BarKind::Io
    } else if register & MEMORY_TYPE == MEMORY_TYPE_64 {
        BarKind::Memory64 { prefetchable }
    } else {
        BarKind::Memory32 { prefetchable }
    }
}

/// The BARs of the device, ascending.
pub(super) fn plan_bars(
    probe: &VfioProbe,
    trapped: &[TrappedRange],
    page_size: u64,
) -> Result<Vec<BarPlan>, BarError> {
    let mut bars = Vec::new();
    let mut upper_half = false;
    for index in (0..BarIndex::COUNT).filter_map(BarIndex::new) {
        if std::mem::take(&mut upper_half) {
            continue;
        }
        let Some(region) = probe.region(u32::from(index.get())) else {
            continue;
        };
        let register = header::BAR0 + u16::from(index.get()) * 4;
        let kind = kind(header::dword(&probe.config, register).unwrap_or(0));
        upper_half = matches!(kind, BarKind::Memory64 { .. });
        if upper_half && index.get() + 1 == BarIndex::COUNT {
            let sbdf = probe.sbdf;
            return Err(BarError::NoUpperHalf { sbdf, bar: index });
        }
        let size = bar_size(region.size, kind).ok_or(BarError::Size {
            sbdf: probe.sbdf,
            bar: index,
            size: region.size,
        })?;
        let mut bar = BarPlan {
            index,
            kind,
            size,
            file_offset: region.file_offset,
            mappings: Vec::new(),
            trapped: Vec::new(),
        };
        let trapped: Vec<_> = trapped.iter().filter(|t| t.bar == index).collect();
        plan_mappings(&mut bar, region, &trapped, page_size);
        bars.push(bar);
    }
    Ok(bars)
}

/// The power of two that a BAR of `size` bytes is shown with.
fn bar_size(size: u64, kind: BarKind) -> Option<u64> {
    let size = size.checked_next_power_of_two()?;
    match kind {
        BarKind::Io => Some(size.max(IO_SMALLEST)).filter(|s| *s <= IO_LARGEST),
        BarKind::Memory32 { .. } => {
            Some(size.max(MEMORY_SMALLEST)).filter(|s| *s <= MEMORY32_LARGEST)
        }
        BarKind::Memory64 { .. } => Some(size.max(MEMORY_SMALLEST)),
    }
}

fn plan_mappings(bar: &mut BarPlan, region: &Region, trapped: &[&TrappedRange], page_size: u64) {
    if bar.kind == BarKind::Io {
        bar.trapped.push("I/O ports");
        return;
    }
    if !(region.mappable() && region.readable() && region.writable()) {
        bar.trapped.push("the host can't map it");
        return;
    }
    let holes: Vec<MappableArea> = trapped
        .iter()
        .filter_map(|range| whole_pages(range, page_size))
        .collect();
    bar.trapped.extend(trapped.iter().map(|range| range.what));
    if region.sparse.is_some() {
        bar.trapped
            .push("what the kernel leaves out of its sparse areas");
    }
    for area in areas(region, page_size) {
        let segments = subtract(area, &holes);
        if region.msix_mappable || region.sparse.is_some() {
            bar.mappings.push(MappingPlan { area, segments });
        } else {
            // This kernel refuses any mmap that touches the MSI-X table.
            bar.mappings
                .extend(segments.into_iter().map(|area| MappingPlan {
                    area,
                    segments: vec![area],
                }));
        }
    }
    bar.mappings.retain(|mapping| !mapping.segments.is_empty());
}

/// The pages that `range` touches.
fn whole_pages(range: &TrappedRange, page_size: u64) -> Option<MappableArea> {
    let offset = range.offset & !(page_size - 1);
    let end = range.offset.checked_add(range.len)?;
    let end = end.checked_next_multiple_of(page_size)?;
    (end > offset).then_some(MappableArea {
        offset,
        size: end - offset,
    })
}

/// What the kernel lets map, ascending, whole pages, not overlapping, inside the region.
///
/// The exception is a region smaller than a page: the kernel says that it can be mapped only if it has
/// the page to itself, so the page shows nobody else's registers (`vfio_pci_probe_mmaps`).
fn areas(region: &Region, page_size: u64) -> Vec<MappableArea> {
    let whole = MappableArea {
        offset: 0,
        size: if region.size < page_size {
            page_size
        } else {
            region.size & !(page_size - 1)
        },
    };
    let Some(mut areas) = region.sparse.clone() else {
        return vec![whole];
    };
    areas.retain(|area| {
        let end = area.offset.checked_add(area.size);
        area.size > 0
            && area.offset % page_size == 0
            && area.size % page_size == 0
            && end.is_some_and(|end| end <= region.size)
    });
    areas.sort_by_key(|area| area.offset);
    let mut end = 0;
    areas.retain(|area| {
        let apart = area.offset >= end;
        if apart {
            end = area.offset + area.size;
        }
        apart
    });
    areas
}

/// What is left of `area` without `holes`.
fn subtract(area: MappableArea, holes: &[MappableArea]) -> Vec<MappableArea> {
    let mut left = vec![area];
    for hole in holes {
        let hole_end = hole.offset + hole.size;
        left = left
            .into_iter()
            .flat_map(|piece| {
                let end = piece.offset + piece.size;
                let before = (piece.offset, hole.offset.min(end));
                let after = (hole_end.max(piece.offset), end);
                [before, after]
            })
            .filter(|(start, end)| start < end)
            .map(|(offset, end)| MappableArea {
                offset,
                size: end - offset,
            })
            .collect();
    }
    left
}

impl fmt::Display for BarPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BarKind::Io => "I/O",
            BarKind::Memory32 {
                prefetchable: false,
            } => "32-bit memory",
            BarKind::Memory32 { prefetchable: true } => "32-bit prefetchable memory",
            BarKind::Memory64 {
                prefetchable: false,
            } => "64-bit memory",
            BarKind::Memory64 { prefetchable: true } => "64-bit prefetchable memory",
        };
        write!(f, "{}: {:#x} bytes of {kind}", self.index, self.size)?;
        for segment in self.mappings.iter().flat_map(|m| &m.segments) {
            write!(f, ", {:#x}+{:#x} mapped", segment.offset, segment.size)?;
        }
        if !self.trapped.is_empty() {
            write!(f, ", trapped: {}", self.trapped.join(", "))?;
        }
        Ok(())
    }
}
