//! The host's side of a passed-through function: what [`super::VfioPciDevice`] does through VFIO,
//! and nothing else, so that its logic runs in tests without a device.

use super::motion::{self, Motion, MotionSupport};
use super::probe::OpenedDevice;
use super::sys::{self, IrqAction};
use crate::host::{DeviceInterrupt, HostRoot};
use crate::mapping::{Access, HostMapping};
use crate::pci::BarIndex;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};

/// The interrupt indexes of vfio-pci.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IrqIndex {
    Intx,
    Msi,
    MsiX,
    /// Uncorrectable errors.
    Error,
    /// The host wants the device back.
    Request,
}

impl IrqIndex {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::MsiX => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// One open function.
pub(super) trait VfioHost: Send + Sync {
    fn config_read(&self, offset: u16, data: &mut [u8]) -> io::Result<()>;
    fn config_write(&self, offset: u16, data: &[u8]) -> io::Result<()>;
    fn bar_read(&self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()>;
    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()>;
    fn map(&self, bar: BarIndex, offset: u64, len: u64) -> io::Result<HostMapping>;
    fn set_irqs(&self, index: IrqIndex, action: IrqAction<'_>) -> io::Result<()>;
    fn reset(&self) -> io::Result<()>;
    /// Resets the whole bus, all of whose functions are in `groups`, which are open.
    fn reset_bus(&self, groups: &[u32]) -> io::Result<()>;
    /// Interrupts taken since each vector was armed; none where the host doesn't tell.
    fn interrupts(&self) -> Vec<DeviceInterrupt>;
    /// What the host can do about what the device does by itself; `None`: nothing.
    fn motion(&self) -> Option<MotionSupport>;
    fn set_motion(&self, motion: Motion) -> io::Result<()>;
}

/// A function behind a VFIO descriptor.
pub(super) struct KernelHost {
    device: OpenedDevice,
    /// Where configuration space starts in the device's file.
    config_offset: u64,
    /// Where each BAR and the expansion ROM start in the device's file.
    file_offsets: BTreeMap<BarIndex, u64>,
}

impl KernelHost {
    pub(super) fn new(
        device: OpenedDevice,
        config_offset: u64,
        file_offsets: BTreeMap<BarIndex, u64>,
    ) -> Self {
        Self {
            device,
            config_offset,
            file_offsets,
        }
    }

    /// Where `offset` of `bar` is in the device's file.
    fn place(&self, bar: BarIndex, offset: u64) -> io::Result<u64> {
        self.file_offsets
            .get(&bar)
            .and_then(|start| start.checked_add(offset))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

impl VfioHost for KernelHost {
    fn config_read(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        let offset = self.config_offset + u64::from(offset);
        self.device.file().read_exact_at(data, offset)
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        let offset = self.config_offset + u64::from(offset);
        self.device.file().write_all_at(data, offset)
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let offset = self.place(bar, offset)?;
        self.device.file().read_exact_at(data, offset)
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = self.place(bar, offset)?;
        self.device.file().write_all_at(data, offset)
    }

    fn map(&self, bar: BarIndex, offset: u64, len: u64) -> io::Result<HostMapping> {
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let access = Access {
            read: true,
            write: true,
        };
        let place = self.place(bar, offset)?;
        HostMapping::shared(self.device.as_fd(), place, len, access, offset)
    }

    fn set_irqs(&self, index: IrqIndex, action: IrqAction<'_>) -> io::Result<()> {
        sys::set_irqs(self.device.as_fd(), index.number(), action)
    }

    fn reset(&self) -> io::Result<()> {
        sys::reset(self.device.as_fd())
    }

    fn reset_bus(&self, groups: &[u32]) -> io::Result<()> {
        self.device.reset_bus(groups)
    }

    fn interrupts(&self) -> Vec<DeviceInterrupt> {
        let root = HostRoot::system();
        root.device_interrupts(self.device.sbdf())
            .unwrap_or_default()
    }

    fn motion(&self) -> Option<MotionSupport> {
        motion::support(self.device.as_fd())
    }

    fn set_motion(&self, motion: Motion) -> io::Result<()> {
        motion::set(self.device.as_fd(), motion)
    }
}
