//! Everything VFIO tells of a device, as plain data. Decides nothing.

use super::container::{Attachment, ContainerError, VfioContext};
use super::reset::AffectedFunction;
use super::sys::{self, IrqAction};
use crate::pci::HostSbdf;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a device could not be opened, read or handed to the guest.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// The container or the group refused it.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// VFIO doesn't call it a PCI device.
    #[error("{sbdf} is no PCI device to VFIO (flags {flags:#x})")]
    NotPci {
        /// Which device.
        sbdf: HostSbdf,
        /// `vfio_device_info.flags`.
        flags: u32,
    },
    /// An ioctl that describes the device failed.
    #[error("{sbdf}: could not read {what}")]
    Describe {
        /// Which device.
        sbdf: HostSbdf,
        /// What was asked for.
        what: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A part of a BAR could not be mapped.
    #[error("{sbdf}: could not map {len:#x} bytes at {offset:#x} of BAR {bar}")]
    MapBar {
        /// Which device.
        sbdf: HostSbdf,
        /// Which BAR.
        bar: u8,
        /// Offset in the BAR.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The errno of `mmap`.
        #[source]
        source: io::Error,
    },
    /// No BAR registers can show what was planned.
    #[error("{sbdf}: its BARs can't be shown")]
    Bars {
        /// Which device.
        sbdf: HostSbdf,
        /// Which BAR, and why.
        #[source]
        source: crate::pci::BarError,
    },
    /// The function could not be brought into its state after power-on.
    #[error("{sbdf}: could not prepare its configuration space")]
    Prepare {
        /// Which device.
        sbdf: HostSbdf,
        /// The errno of `pwrite`.
        #[source]
        source: io::Error,
    },
    /// The plan was made for another device.
    #[error("the plan is for {planned}, the open device is {opened}")]
    OtherDevice {
        /// The plan's.
        planned: HostSbdf,
        /// The descriptor's.
        opened: HostSbdf,
    },
}

/// An open VFIO device.
///
/// Fields drop in this order: the duplicated descriptor first, then the device leaves its container.
pub struct OpenedDevice {
    file: File,
    attachment: Attachment,
    sbdf: HostSbdf,
}

impl OpenedDevice {
    /// Opens `sbdf`, which is bound to vfio-pci. The kernel resets the function as it does.
    ///
    /// `pci_devices` is `/sys/bus/pci/devices`.
    ///
    /// # Errors
    /// [`VfioError::Container`].
    pub fn open(
        pci_devices: &Path,
        sbdf: HostSbdf,
        context: &VfioContext,
    ) -> Result<Self, VfioError> {
        let attachment = context.attach(&pci_devices.join(sbdf.to_string()), sbdf)?;
        let file = attachment
            .device()
            .map_or_else(
                || Err(io::Error::from_raw_os_error(libc::EBADF)),
                File::try_clone,
            )
            .map_err(ContainerError::Duplicate)?;
        Ok(Self {
            file,
            attachment,
            sbdf,
        })
    }

    /// The device's address on the host.
    #[must_use]
    pub fn sbdf(&self) -> HostSbdf {
        self.sbdf
    }

    /// Resets its bus or slot, of which all functions are in `groups` of its container.
    pub(super) fn reset_bus(&self, groups: &[u32]) -> io::Result<()> {
        self.attachment.reset_bus(groups)
    }

    /// Gives the interrupt line back that [`VfioProbe::read`] took.
    pub fn release_line(&self) {
        // EINVAL where there was none.
        let _ = sys::set_irqs(self.as_fd(), VFIO_PCI_INTX_IRQ_INDEX, IrqAction::Disable);
    }

    /// The device's descriptor, for positioned reads and writes.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for OpenedDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A part of a region that may be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappableArea {
    /// Offset in the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// One region: a BAR, the expansion ROM, configuration space, or one of the driver's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// `VFIO_PCI_*_REGION_INDEX`.
    pub index: u32,
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Bytes; 0 for a region the device doesn't have.
    pub size: u64,
    /// Where it starts in the device's file.
    pub file_offset: u64,
    /// The parts that may be mapped, when the kernel names them.
    pub sparse: Option<Vec<MappableArea>>,
    /// The pages of the MSI-X table may be mapped with the rest.
    pub msix_mappable: bool,
}

impl Region {
    /// A region without flags and capabilities, `size` bytes long.
    #[must_use]
    pub fn new(index: u32, size: u64) -> Self {
        Self {
            index,
            flags: 0,
            size,
            file_offset: u64::from(index) << 40,
            sparse: None,
            msix_mappable: false,
        }
    }

    /// Whether it can be read.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_READ != 0
    }

    /// Whether it can be written.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_WRITE != 0
    }

    /// Whether it, or its sparse areas, can be mapped.
    #[must_use]
    pub fn mappable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_MMAP != 0
    }
}

/// One interrupt index: INTx, MSI, MSI-X, error, request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqLine {
    /// `VFIO_PCI_*_IRQ_INDEX`.
    pub index: u32,
    /// `VFIO_IRQ_INFO_*`.
    pub flags: u32,
    /// Vectors.
    pub count: u32,
}

impl IrqLine {
    /// Whether it can signal an eventfd.
    #[must_use]
    pub fn signals_eventfd(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_EVENTFD != 0
    }

    /// Whether it can be masked and unmasked.
    #[must_use]
    pub fn maskable(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_MASKABLE != 0
    }

    /// Whether vectors can be added while the index is enabled (Linux ≥ 6.5 for MSI-X).
    #[must_use]
    pub fn resizable(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_NORESIZE == 0
    }
}

/// What VFIO tells of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioProbe {
    /// The device's address on the host.
    pub sbdf: HostSbdf,
    /// `VFIO_DEVICE_FLAGS_*`.
    pub flags: u32,
    /// The regions that could be described, ascending by index.
    pub regions: Vec<Region>,
    /// The interrupt indexes that could be described, ascending.
    pub irqs: Vec<IrqLine>,
    /// The host could not enable INTx, because others use the line and the device can't be masked on it.
    pub intx_busy: bool,
    /// What a reset of its bus or slot hits, itself included; none where there is no such reset.
    pub bus_reset: Vec<AffectedFunction>,
    /// Configuration space as VFIO shows it: 4096 bytes, or 256 of a conventional device.
    pub config: Vec<u8>,
}

/// Regions and interrupt indexes beyond these are not asked for.
const MOST_INDEXES: u32 = 64;

impl VfioProbe {
    /// Reads everything about `device`, which has its interrupt line from then on, until [`OpenedDevice::release_line`]:
    /// another of the same machine must find it taken.
    ///
    /// # Errors
    /// [`VfioError::Describe`], [`VfioError::NotPci`].
    pub fn read(device: &OpenedDevice) -> Result<Self, VfioError> {
        let sbdf = device.sbdf();
        let describe = |what| move |source| VfioError::Describe { sbdf, what, source };
        let described = sys::device_info(device.as_fd()).map_err(describe("device info"))?;
        if described.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            let flags = described.flags;
            return Err(VfioError::NotPci { sbdf, flags });
        }
        // An index that the device doesn't have (VGA on a NIC) answers EINVAL.
        let regions: Vec<Region> = (0..described.regions.min(MOST_INDEXES))
            .filter_map(|index| sys::region_info(device.as_fd(), index).ok())
            .collect();
        let irqs: Vec<IrqLine> = (0..described.irqs.min(MOST_INDEXES))
            .filter_map(|index| sys::irq_info(device.as_fd(), index).ok())
            .collect();
        let config = regions
            .iter()
            .find(|region| region.index == VFIO_PCI_CONFIG_REGION_INDEX)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
            .and_then(|region| read_config(device.file(), region))
            .map_err(describe("configuration space"))?;
        Ok(Self {
            sbdf,
            flags: described.flags,
            intx_busy: intx_busy(device.as_fd(), &irqs),
            regions,
            irqs,
            bus_reset: bus_reset(device),
            config,
        })
    }

    /// The region with `index`, if the device has it.
    #[must_use]
    pub fn region(&self, index: u32) -> Option<&Region> {
        self.regions
            .iter()
            .find(|region| region.index == index && region.size > 0)
    }

    /// The interrupt index, if the device has vectors of it.
    #[must_use]
    pub fn irq(&self, index: u32) -> Option<&IrqLine> {
        self.irqs
            .iter()
            .find(|irq| irq.index == index && irq.count > 0)
    }

    /// Whether `VFIO_DEVICE_RESET` works on it.
    #[must_use]
    pub fn resettable(&self) -> bool {
        self.flags & VFIO_DEVICE_FLAGS_RESET != 0
    }
}

/// Whether the host's interrupt line is refused to the device; found out by asking for it.
///
/// The kernel shares a line only for a device that can be masked by Interrupt Disable in its Command register, and tells of
/// neither the line's users nor that bit beforehand.
fn intx_busy(device: BorrowedFd<'_>, irqs: &[IrqLine]) -> bool {
    let present = irqs
        .iter()
        .any(|irq| irq.index == VFIO_PCI_INTX_IRQ_INDEX && irq.count > 0);
    let Some(eventfd) = EventFd::new(EFD_NONBLOCK).ok().filter(|_| present) else {
        return false;
    };
    let trigger = IrqAction::Trigger {
        start: 0,
        eventfds: &[Some(&eventfd)],
    };
    let enabled = sys::set_irqs(device, VFIO_PCI_INTX_IRQ_INDEX, trigger);
    enabled.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// What a reset of the device's bus hits. A function on the root bus, or one whose bus can't be reset: ENODEV.
fn bus_reset(device: &OpenedDevice) -> Vec<AffectedFunction> {
    sys::hot_reset_affected(device.as_fd()).unwrap_or_else(|error| {
        if !matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOTTY)) {
            log::warn!(
                "{}: no reset with its bus, which the host does not describe: {error}",
                device.sbdf()
            );
        }
        Vec::new()
    })
}

/// Reads configuration space by dwords, which every kernel answers whole; bytes that the kernel
/// doesn't give are 0.
fn read_config(file: &File, region: &Region) -> io::Result<Vec<u8>> {
    let size = usize::try_from(region.size.min(4096)).unwrap_or(256);
    let mut config = vec![0; size & !3];
    for (n, dword) in config.chunks_exact_mut(4).enumerate() {
        let offset = region.file_offset + n as u64 * 4;
        match file.read_at(dword, offset) {
            Ok(4) => {}
            Ok(_) => dword.fill(0),
            // The header must be readable; of the rest what can't be read is taken as absent.
            Err(error) if n < 16 => return Err(error),
            Err(_) => dword.fill(0),
        }
    }
    Ok(config)
}
