//! Memory as an IOMMU sees it.

use crate::mapping::HostRange;
use std::io;

/// An address as an assigned device puts it on the bus.
///
/// Without a virtual IOMMU it is the guest-physical address; [`Iova::of_guest_address`] is the one
/// place that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Iova(pub u64);

impl Iova {
    /// The address at which a device reaches guest-physical address `address`.
    #[must_use]
    pub fn of_guest_address(address: u64) -> Self {
        Self(address)
    }
}

/// What a piece of guest-physical memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Guest RAM.
    Ram,
    /// RAM that no device can reach: an IOMMU can't map it, and the guest is told that it is no RAM.
    CpuRam,
    /// A mapped part of a device's BAR (a target of peer-to-peer DMA).
    Bar,
}

/// A piece of guest-physical memory that is backed by host memory.
#[derive(Clone, Debug)]
pub struct MemoryRegion {
    /// Guest-physical address of the first byte.
    pub guest_address: u64,
    /// The host memory behind it; its length is the region's.
    pub host: HostRange,
    /// What it is.
    pub kind: RegionKind,
}

/// Follows the guest-physical memory map: KVM's memslots, an IOMMU context.
///
/// A listener that is registered late is told of every region present, so each sees the same map.
pub trait MemoryListener: Send + Sync {
    /// `region` is now part of the map.
    ///
    /// # Errors
    /// The errno of the ioctl. The region is not part of the listener's map then.
    fn region_added(&self, region: &MemoryRegion) -> io::Result<()>;

    /// `region`, which was added before, is no longer part of the map.
    ///
    /// # Errors
    /// The errno of the ioctl.
    fn region_removed(&self, region: &MemoryRegion) -> io::Result<()>;
}

/// Maps host memory for a device's DMA.
pub trait DmaMapper: Send + Sync {
    /// Lets devices reach `host` at `iova`. The memory is pinned.
    ///
    /// # Errors
    /// The errno of the ioctl.
    fn map(&self, iova: Iova, host: &HostRange) -> io::Result<()>;

    /// Ends what [`DmaMapper::map`] began.
    ///
    /// # Errors
    /// The errno of the ioctl.
    fn unmap(&self, iova: Iova, len: u64) -> io::Result<()>;
}
