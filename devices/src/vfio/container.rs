//! A type1v2 container: one DMA address space for every device in it (Linux
//! `Documentation/driver-api/vfio.rst`).
//!
//! The kernel gives a container its IOMMU when the first group enters it, and takes every mapping
//! away when the last one leaves. [`VfioContext`] therefore keeps its own list: what is added while
//! no device is there is mapped when one comes.

use super::group::{GroupError, GroupObserver, Groups};
use super::passed::PassedDescriptors;
use super::peer::PeerBars;
use super::sys;
pub use super::sys::DmaLimits;
use crate::mapping::HostRange;
use crate::memory::{DmaMapper, Iova, MemoryListener, MemoryRegion, RegionKind};
use crate::pci::HostSbdf;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_ioctls::VfioContainer;

/// Why a container or a device in it could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// `/dev/vfio/vfio` can't be opened, or lacks type1v2.
    #[error("no VFIO container (is the vfio_iommu_type1 module loaded?)")]
    Open(#[source] vfio_ioctls::VfioError),
    /// The descriptor couldn't be duplicated.
    #[error("could not duplicate a VFIO descriptor")]
    Duplicate(#[source] io::Error),
    /// The device's group or the device can't be opened.
    #[error("could not open {sbdf} through VFIO")]
    Device {
        /// Which device.
        sbdf: HostSbdf,
        /// What stood in the way.
        #[source]
        source: GroupError,
    },
    /// Memory that the machine has already can't be mapped for the device.
    #[error("could not map guest memory at {iova:#x}+{len:#x} for DMA of {sbdf}")]
    Map {
        /// Which device.
        sbdf: HostSbdf,
        /// First IOVA.
        iova: u64,
        /// Bytes.
        len: u64,
        /// The errno of the ioctl.
        #[source]
        source: io::Error,
    },
}

/// A container, with what is to be mapped in it.
pub struct VfioContext {
    shared: Arc<Shared>,
}

/// Guest RAM that devices reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappedRam {
    /// Mappings in the kernel.
    pub mappings: u64,
    /// Bytes in them.
    pub bytes: u64,
}

struct Shared {
    fd: Arc<OwnedFd>,
    observer: Option<Arc<dyn GroupObserver>>,
    state: Mutex<State>,
    /// What of the state's mappings is live, for those who can't wait until large RAM is mapped.
    mapped: Mutex<MappedRam>,
    /// None where devices are not to reach each other.
    ///
    /// Invariant: its lock is taken last.
    peers: Option<PeerBars>,
}

struct State {
    groups: Groups,
    devices: usize,
    mappings: BTreeMap<u64, Mapping>,
}

/// What is mapped, or will be when a device comes. Holds the memory.
struct Mapping {
    host: HostRange,
    /// Whether the kernel has it now.
    live: bool,
}

/// The kernel's side of a container.
struct KernelMapper(Arc<OwnedFd>);

impl DmaMapper for KernelMapper {
    fn map(&self, iova: Iova, host: &HostRange) -> io::Result<()> {
        sys::map_dma(self.0.as_fd(), iova.0, host)
    }

    fn unmap(&self, iova: Iova, len: u64) -> io::Result<()> {
        sys::unmap_dma(self.0.as_fd(), iova.0, len)
    }
}

impl VfioContext {
    /// Opens a container, unless one was passed. `observer` is told of each group. With `peer_to_peer` devices reach each
    /// other's BARs.
    ///
    /// # Errors
    /// [`ContainerError::Open`], [`ContainerError::Duplicate`].
    pub fn new(
        observer: Option<Arc<dyn GroupObserver>>,
        peer_to_peer: bool,
        passed: PassedDescriptors,
    ) -> Result<Self, ContainerError> {
        let fd = match &passed.container {
            Some(container) => Arc::clone(container),
            None => open_container()?,
        };
        let kernel = KernelMapper(Arc::clone(&fd));
        Ok(Self {
            shared: Arc::new(Shared {
                fd,
                observer,
                state: Mutex::new(State {
                    groups: Groups::new(passed),
                    devices: 0,
                    mappings: BTreeMap::new(),
                }),
                mapped: Mutex::default(),
                peers: peer_to_peer.then(|| PeerBars::new(Arc::new(kernel))),
            }),
        })
    }

    /// What the IOMMU can map. Valid once a device is in the container.
    ///
    /// # Errors
    /// The errno of `VFIO_IOMMU_GET_INFO`; `EINVAL` without a device.
    pub fn limits(&self) -> io::Result<DmaLimits> {
        sys::iommu_info(self.shared.fd.as_fd())
    }

    /// Guest RAM that the kernel has mapped now. Does not wait for what is being mapped.
    #[must_use]
    pub fn mapped(&self) -> MappedRam {
        *self.shared.mapped()
    }

    /// Bytes of BARs that are mapped for peer-to-peer DMA.
    #[must_use]
    pub fn peer_to_peer(&self) -> u64 {
        self.shared.peers.as_ref().map_or(0, PeerBars::mapped)
    }

    /// Opens the device at `path` into this container.
    pub(super) fn attach(&self, path: &Path, sbdf: HostSbdf) -> Result<Attachment, ContainerError> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let (device, group) = state
            .groups
            .open(path, shared.fd.as_fd(), shared.observer.as_ref())
            .map_err(|source| ContainerError::Device { sbdf, source })?;
        state.devices += 1;
        // From here on dropping the attachment undoes the count.
        let attachment = Attachment {
            device: Some(device),
            group,
            shared: Arc::clone(&shared),
        };
        let replayed = shared.map_all(&mut state, sbdf);
        shared.tell_peers(&state);
        drop(state);
        replayed.map(|()| attachment)
    }
}

fn open_container() -> Result<Arc<OwnedFd>, ContainerError> {
    let container = VfioContainer::new(None).map_err(ContainerError::Open)?;
    // It keeps no group of ours, so a descriptor is all that is needed of it.
    let fd = sys::container_fd(&container).map_err(ContainerError::Duplicate)?;
    Ok(Arc::new(fd))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mapped(&self) -> MutexGuard<'_, MappedRam> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_in_kernel(&self, iova: u64, host: &HostRange) -> io::Result<()> {
        sys::map_dma(self.fd.as_fd(), iova, host)?;
        let mut mapped = self.mapped();
        mapped.mappings += 1;
        mapped.bytes += host.len() as u64;
        Ok(())
    }

    fn unmap_in_kernel(&self, iova: u64, len: u64) -> io::Result<()> {
        sys::unmap_dma(self.fd.as_fd(), iova, len)?;
        let mut mapped = self.mapped();
        mapped.mappings = mapped.mappings.saturating_sub(1);
        mapped.bytes = mapped.bytes.saturating_sub(len);
        Ok(())
    }

    /// Gives the kernel what it doesn't have yet.
    fn map_all(&self, state: &mut State, sbdf: HostSbdf) -> Result<(), ContainerError> {
        for (&iova, mapping) in state.mappings.iter_mut().filter(|(_, m)| !m.live) {
            let result = self.map_in_kernel(iova, &mapping.host);
            mapping.live = result.is_ok();
            result.map_err(|source| ContainerError::Map {
                sbdf,
                iova,
                len: mapping.host.len() as u64,
                source,
            })?;
        }
        Ok(())
    }

    fn tell_peers(&self, state: &State) {
        if let Some(peers) = &self.peers {
            peers.devices(state.devices);
        }
    }

    /// Takes from the kernel what it has.
    fn unmap_all(&self, state: &mut State) {
        for (&iova, mapping) in state.mappings.iter_mut().filter(|(_, m)| m.live) {
            mapping.live = false;
            let len = mapping.host.len() as u64;
            if let Err(error) = self.unmap_in_kernel(iova, len) {
                log::error!("DMA mapping {iova:#x}+{len:#x} could not be undone: {error}");
            }
        }
    }

    fn add(&self, iova: Iova, host: &HostRange) -> io::Result<()> {
        let mut state = self.lock();
        if state.mappings.contains_key(&iova.0) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let live = state.devices > 0;
        if live {
            self.map_in_kernel(iova.0, host)?;
        }
        let host = host.clone();
        state.mappings.insert(iova.0, Mapping { host, live });
        Ok(())
    }

    fn remove(&self, iova: Iova, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let same = |m: &Mapping| m.host.len() as u64 == len;
        if !state.mappings.get(&iova.0).is_some_and(same) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let live = state.mappings.remove(&iova.0).is_some_and(|m| m.live);
        if live {
            self.unmap_in_kernel(iova.0, len)?;
        }
        Ok(())
    }
}

impl DmaMapper for VfioContext {
    fn map(&self, iova: Iova, host: &HostRange) -> io::Result<()> {
        self.shared.add(iova, host)
    }

    fn unmap(&self, iova: Iova, len: u64) -> io::Result<()> {
        self.shared.remove(iova, len)
    }
}

impl MemoryListener for VfioContext {
    fn region_added(&self, region: &MemoryRegion) -> io::Result<()> {
        let iova = Iova::of_guest_address(region.guest_address);
        match region.kind {
            RegionKind::Ram => self.shared.add(iova, &region.host)?,
            RegionKind::CpuRam => {}
            RegionKind::Bar => {
                if let Some(peers) = &self.shared.peers {
                    peers.add(iova, &region.host);
                }
            }
        }
        Ok(())
    }

    fn region_removed(&self, region: &MemoryRegion) -> io::Result<()> {
        let iova = Iova::of_guest_address(region.guest_address);
        match (region.kind, &self.shared.peers) {
            (RegionKind::Ram, _) => self.shared.remove(iova, region.host.len() as u64)?,
            (RegionKind::CpuRam, _) | (RegionKind::Bar, None) => {}
            (RegionKind::Bar, Some(peers)) => {
                if let Err(error) = peers.remove(iova) {
                    log::warn!("BAR memory at {:#x} stays mapped for DMA: {error}", iova.0);
                }
            }
        }
        Ok(())
    }
}

/// A device's place in a container; dropping it closes the device and takes it out.
///
/// Every mapping and descriptor of the device must be gone by then, else the kernel keeps its group
/// in the container.
pub(super) struct Attachment {
    device: Option<File>,
    group: u32,
    shared: Arc<Shared>,
}

impl Attachment {
    /// The opened device; `None` only while this is being dropped.
    pub(super) fn device(&self) -> Option<&File> {
        self.device.as_ref()
    }

    /// Resets the device's bus or slot, of which all functions are in `groups` of this container.
    ///
    /// # Errors
    /// See [`Groups::reset_bus`].
    pub(super) fn reset_bus(&self, groups: &[u32]) -> io::Result<()> {
        let device = self.device().map(AsFd::as_fd);
        let device = device.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        self.shared.lock().groups.reset_bus(device, groups)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        state.devices = state.devices.saturating_sub(1);
        shared.tell_peers(&state);
        if state.devices == 0 {
            // The last group to leave takes the IOMMU with it, unless something holds that group.
            shared.unmap_all(&mut state);
        }
        // Its last descriptor: a host that waits for the device goes on while this continues.
        self.device = None;
        let observer = shared.observer.as_ref();
        state.groups.closed(self.group, observer);
    }
}
