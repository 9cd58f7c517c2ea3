//! The VFIO ioctls, each with its errno (`include/uapi/linux/vfio.h`).
//!
//! vfio-ioctls opens the container. Everything after that goes through here: that crate keeps a group's descriptor to
//! itself and panics when a device has gone, drops the errno of interrupt set-up and the result of a reset, arms vectors
//! only from 0 on, misplaces regions above 7 and doesn't ask the IOMMU for its limits.
#![expect(unsafe_code, reason = "VFIO ioctls; docs/adr/0002")]

use super::probe::{IrqLine, MappableArea, Region};
use super::reset::AffectedFunction;
use crate::mapping::HostRange;
use crate::pci::HostSbdf;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_CONTAINER_SET,
    VFIO_GROUP_FLAGS_VIABLE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_TYPE1v2_IOMMU, vfio_device_info, vfio_group_status,
    vfio_info_cap_header, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info, vfio_iommu_type1_info_cap_iova_range, vfio_iommu_type1_info_dma_avail,
    vfio_iova_range, vfio_irq_info, vfio_irq_set, vfio_pci_dependent_device, vfio_pci_hot_reset,
    vfio_pci_hot_reset_info, vfio_region_info, vfio_region_info_cap_sparse_mmap,
    vfio_region_sparse_mmap_area,
};
use vfio_ioctls::VfioContainer;
use vmm_sys_util::eventfd::EventFd;

/// The ioctls used here: `_IO(';', 100 + n)`.
#[derive(Clone, Copy)]
enum Request {
    SetIommu = 2,
    GroupGetStatus = 3,
    GroupSetContainer = 4,
    GroupUnsetContainer = 5,
    GroupGetDeviceFd = 6,
    DeviceGetInfo = 7,
    DeviceGetRegionInfo = 8,
    DeviceGetIrqInfo = 9,
    DeviceSetIrqs = 10,
    DeviceReset = 11,
    IommuGetInfo = 12,
    IommuMapDma = 13,
    IommuUnmapDma = 14,
    DeviceFeature = 17,
}

impl Request {
    /// These two have the numbers of the container's, and are a device's.
    const DEVICE_GET_PCI_HOT_RESET_INFO: Self = Self::IommuGetInfo;
    const DEVICE_PCI_HOT_RESET: Self = Self::IommuMapDma;

    fn number(self) -> libc::Ioctl {
        const TYPE: libc::Ioctl = b';' as libc::Ioctl;
        const BASE: libc::Ioctl = 100;
        TYPE << 8 | (BASE + self as libc::Ioctl)
    }
}

/// An ioctl's argument: bytes whose first four are its size, as VFIO has it.
struct Argument(Vec<u8>);

impl Argument {
    fn new(size: usize) -> io::Result<Self> {
        let argsz = u32::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        let mut argument = Self(vec![0; size]);
        argument.put(0, &argsz.to_ne_bytes());
        Ok(argument)
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn put_u32(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_ne_bytes());
    }

    fn put_u64(&mut self, offset: usize, value: u64) {
        self.put(offset, &value.to_ne_bytes());
    }

    /// The field at `offset`; 0 where the kernel returned less.
    fn u32(&self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..offset.saturating_add(4));
        bytes
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }

    fn u64(&self, offset: usize) -> u64 {
        let bytes = self.0.get(offset..offset.saturating_add(8));
        bytes
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    }

    /// The capabilities chained from `first`: (id, offset of the header). Bounded by the argument's
    /// size, whatever the chain says.
    fn capabilities(&self, first: u32) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        let mut at = first as usize;
        while at != 0 && found.len() < self.0.len() / size_of::<vfio_info_cap_header>() {
            let id = self.u32(at + offset_of!(vfio_info_cap_header, id)) & 0xffff;
            found.push((id, at));
            at = self.u32(at + offset_of!(vfio_info_cap_header, next)) as usize;
        }
        found
    }

    /// The `vfio_pci_dependent_device` at `at`: its group, then segment, bus, and device with function.
    fn affected(&self, at: usize) -> Option<AffectedFunction> {
        let address = at + offset_of!(vfio_pci_dependent_device, segment);
        let [low, high, bus, devfn] = self.u32(address).to_ne_bytes();
        let segment = u16::from_ne_bytes([low, high]);
        Some(AffectedFunction {
            sbdf: HostSbdf::new(segment, bus, devfn >> 3, devfn & 7)?,
            group: self.u32(at),
        })
    }

    fn call(&mut self, fd: BorrowedFd<'_>, request: Request) -> io::Result<()> {
        // SAFETY: `fd` is open during the call. The kernel reads and writes at most `argsz` bytes,
        // which is the length of this buffer; of the ioctls of `Request` only MAP_DMA holds an
        // address, and `map_dma` takes that from a live mapping which has no Rust references.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request.number(), self.0.as_mut_ptr()) };
        match result {
            0 => Ok(()),
            result if result < 0 => Err(io::Error::last_os_error()),
            // SET_IRQS: fewer vectors could be had than were asked for.
            _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    /// Calls an ioctl that may answer with a larger `argsz`, then again with room for it. `fixed`
    /// is the size of the fixed part, `fill` writes the fields that are asked by.
    fn call_growing(
        fd: BorrowedFd<'_>,
        request: Request,
        fixed: usize,
        fill: impl Fn(&mut Self),
    ) -> io::Result<Self> {
        let mut size = fixed;
        loop {
            let mut argument = Self::new(size)?;
            fill(&mut argument);
            argument.call(fd, request)?;
            let wanted = argument.u32(0) as usize;
            // A kernel that keeps asking for more gets one page's worth of patience.
            if wanted <= size || size >= 1 << 16 {
                return Ok(argument);
            }
            size = wanted.min(1 << 16);
        }
    }
}

/// What `VFIO_DEVICE_GET_INFO` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceInfo {
    pub(super) flags: u32,
    pub(super) regions: u32,
    pub(super) irqs: u32,
}

/// Calls an ioctl whose argument is a number, or the address of what the kernel only reads; gives what it returns.
fn call_plain(fd: BorrowedFd<'_>, request: Request, argument: usize) -> io::Result<i32> {
    // SAFETY: `fd` is open during the call. The callers below pass a number, or the address of a live value of the size that
    // the kernel reads: an `int` for SET_CONTAINER, a string with its NUL for GET_DEVICE_FD.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request.number(), argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A descriptor of its own for `container`.
pub(super) fn container_fd(container: &VfioContainer) -> io::Result<OwnedFd> {
    // SAFETY: `container` keeps its descriptor open while it is borrowed, which outlasts this call.
    let fd = unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// Gives a container with a group in it its type1v2 IOMMU.
pub(super) fn set_iommu(container: BorrowedFd<'_>) -> io::Result<()> {
    call_plain(container, Request::SetIommu, VFIO_TYPE1v2_IOMMU as usize).map(drop)
}

/// What a group is like.
pub(super) struct GroupStatus {
    /// Every device of it is on vfio-pci or on no driver.
    pub(super) viable: bool,
    /// It is in a container.
    pub(super) in_container: bool,
}

pub(super) fn group_status(group: BorrowedFd<'_>) -> io::Result<GroupStatus> {
    let mut argument = Argument::new(size_of::<vfio_group_status>())?;
    argument.call(group, Request::GroupGetStatus)?;
    let flags = argument.u32(offset_of!(vfio_group_status, flags));
    Ok(GroupStatus {
        viable: flags & VFIO_GROUP_FLAGS_VIABLE != 0,
        in_container: flags & VFIO_GROUP_FLAGS_CONTAINER_SET != 0,
    })
}

/// Puts a group into a container.
pub(super) fn group_enter(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let container = container.as_raw_fd();
    let argument = std::ptr::from_ref(&container).expose_provenance();
    call_plain(group, Request::GroupSetContainer, argument).map(drop)
}

/// Takes a group, no device of which is open, out of its container.
pub(super) fn group_leave(group: BorrowedFd<'_>) -> io::Result<()> {
    call_plain(group, Request::GroupUnsetContainer, 0).map(drop)
}

/// Opens the device `name` of a group.
pub(super) fn group_device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let fd = call_plain(
        group,
        Request::GroupGetDeviceFd,
        name.as_ptr().expose_provenance(),
    )?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<DeviceInfo> {
    let mut argument = Argument::new(size_of::<vfio_device_info>())?;
    argument.call(device, Request::DeviceGetInfo)?;
    Ok(DeviceInfo {
        flags: argument.u32(offset_of!(vfio_device_info, flags)),
        regions: argument.u32(offset_of!(vfio_device_info, num_regions)),
        irqs: argument.u32(offset_of!(vfio_device_info, num_irqs)),
    })
}

/// What `VFIO_DEVICE_GET_REGION_INFO` says of any index.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Region> {
    let argument = Argument::call_growing(
        device,
        Request::DeviceGetRegionInfo,
        size_of::<vfio_region_info>(),
        |argument| argument.put_u32(offset_of!(vfio_region_info, index), index),
    )?;
    let mut region = Region {
        index,
        flags: argument.u32(offset_of!(vfio_region_info, flags)),
        size: argument.u64(offset_of!(vfio_region_info, size)),
        file_offset: argument.u64(offset_of!(vfio_region_info, offset)),
        sparse: None,
        msix_mappable: false,
    };
    if region.flags & VFIO_REGION_INFO_FLAG_CAPS == 0 {
        return Ok(region);
    }
    for (id, at) in argument.capabilities(argument.u32(offset_of!(vfio_region_info, cap_offset))) {
        match id {
            VFIO_REGION_INFO_CAP_SPARSE_MMAP => region.sparse = Some(sparse_areas(&argument, at)),
            VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => region.msix_mappable = true,
            _ => {}
        }
    }
    Ok(region)
}

fn sparse_areas(argument: &Argument, at: usize) -> Vec<MappableArea> {
    let count = argument.u32(at + offset_of!(vfio_region_info_cap_sparse_mmap, nr_areas)) as usize;
    let first = at + size_of::<vfio_region_info_cap_sparse_mmap>();
    let size = size_of::<vfio_region_sparse_mmap_area>();
    (0..count)
        .map(|n| first + n * size)
        .take_while(|area| area + size <= argument.0.len())
        .map(|area| MappableArea {
            offset: argument.u64(area + offset_of!(vfio_region_sparse_mmap_area, offset)),
            size: argument.u64(area + offset_of!(vfio_region_sparse_mmap_area, size)),
        })
        .collect()
}

pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<IrqLine> {
    let mut argument = Argument::new(size_of::<vfio_irq_info>())?;
    argument.put_u32(offset_of!(vfio_irq_info, index), index);
    argument.call(device, Request::DeviceGetIrqInfo)?;
    Ok(IrqLine {
        index,
        flags: argument.u32(offset_of!(vfio_irq_info, flags)),
        count: argument.u32(offset_of!(vfio_irq_info, count)),
    })
}

/// What is to happen to the interrupts named in a `VFIO_DEVICE_SET_IRQS`.
#[derive(Clone, Copy, Debug)]
pub(super) enum IrqAction<'a> {
    /// From vector `start` on, signal these eventfds; `None` gives the vector none.
    Trigger {
        start: u32,
        eventfds: &'a [Option<&'a EventFd>],
    },
    /// Unmask the INTx line whenever this eventfd is signalled.
    UnmaskOn(&'a EventFd),
    /// Free every vector of the index.
    Disable,
}

pub(super) fn set_irqs(
    device: BorrowedFd<'_>,
    index: u32,
    action: IrqAction<'_>,
) -> io::Result<()> {
    let raw = |eventfd: &Option<&EventFd>| eventfd.map_or(-1, AsRawFd::as_raw_fd);
    let (flags, start, data): (u32, u32, Vec<i32>) = match action {
        IrqAction::Trigger { start, eventfds } => (
            VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            start,
            eventfds.iter().map(raw).collect(),
        ),
        IrqAction::UnmaskOn(eventfd) => (
            VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
            0,
            vec![eventfd.as_raw_fd()],
        ),
        IrqAction::Disable => (
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
            0,
            Vec::new(),
        ),
    };
    let count = u32::try_from(data.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let fixed = size_of::<vfio_irq_set>();
    let mut argument = Argument::new(fixed + data.len() * size_of::<i32>())?;
    argument.put_u32(offset_of!(vfio_irq_set, flags), flags);
    argument.put_u32(offset_of!(vfio_irq_set, index), index);
    argument.put_u32(offset_of!(vfio_irq_set, start), start);
    argument.put_u32(offset_of!(vfio_irq_set, count), count);
    for (n, fd) in data.iter().enumerate() {
        argument.put(fixed + n * size_of::<i32>(), &fd.to_ne_bytes());
    }
    argument.call(device, Request::DeviceSetIrqs)
}

pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // The ioctl takes no argument; what it is given it doesn't look at.
    Argument::new(size_of::<u32>())?.call(device, Request::DeviceReset)
}

/// `VFIO_DEVICE_FEATURE` for a feature of eight bytes, read or written by `flags`; gives what they are afterwards.
pub(super) fn feature(device: BorrowedFd<'_>, flags: u32, data: [u8; 8]) -> io::Result<[u8; 8]> {
    // Behind the argument's size.
    let flags_at = size_of::<u32>();
    let data_at = flags_at + size_of::<u32>();
    let mut argument = Argument::new(data_at + data.len())?;
    argument.put(flags_at, &flags.to_ne_bytes());
    argument.put(data_at, &data);
    argument.call(device, Request::DeviceFeature)?;
    Ok(argument.u64(data_at).to_ne_bytes())
}

/// More functions than a bus and those below it will have.
const MOST_AFFECTED: usize = 2048;

/// The functions that a reset of the device's bus or slot hits; an error when there is no such reset.
pub(super) fn hot_reset_affected(device: BorrowedFd<'_>) -> io::Result<Vec<AffectedFunction>> {
    let fixed = size_of::<vfio_pci_hot_reset_info>();
    let size = size_of::<vfio_pci_dependent_device>();
    let mut argument = Argument::new(fixed + MOST_AFFECTED * size)?;
    argument.call(device, Request::DEVICE_GET_PCI_HOT_RESET_INFO)?;
    let count = argument.u32(offset_of!(vfio_pci_hot_reset_info, count)) as usize;
    let affected = (0..count.min(MOST_AFFECTED)).map(|n| fixed + n * size);
    Ok(affected.filter_map(|at| argument.affected(at)).collect())
}

/// Resets the device's bus or slot. `groups` are all groups that this hits.
pub(super) fn hot_reset(device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fixed = size_of::<vfio_pci_hot_reset>();
    let mut argument = Argument::new(fixed + size_of::<RawFd>() * groups.len())?;
    let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    argument.put_u32(offset_of!(vfio_pci_hot_reset, count), count);
    for (n, group) in groups.iter().enumerate() {
        argument.put(
            fixed + n * size_of::<RawFd>(),
            &group.as_raw_fd().to_ne_bytes(),
        );
    }
    argument.call(device, Request::DEVICE_PCI_HOT_RESET)
}

/// What an IOMMU context can map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmaLimits {
    /// Ranges of IOVA that can be mapped, ascending. Empty when the kernel doesn't say.
    pub iova_ranges: Vec<RangeInclusive<u64>>,
    /// One bit a page size, in bytes.
    pub page_sizes: u64,
    /// How many more mappings the context takes.
    pub mappings_available: Option<u32>,
}

pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<DmaLimits> {
    let argument = Argument::call_growing(
        container,
        Request::IommuGetInfo,
        size_of::<vfio_iommu_type1_info>(),
        |_| {},
    )?;
    let flags = argument.u32(offset_of!(vfio_iommu_type1_info, flags));
    let mut limits = DmaLimits {
        iova_ranges: Vec::new(),
        page_sizes: 4096,
        mappings_available: None,
    };
    if flags & VFIO_IOMMU_INFO_PGSIZES != 0 {
        limits.page_sizes = argument.u64(offset_of!(vfio_iommu_type1_info, iova_pgsizes));
    }
    if flags & VFIO_IOMMU_INFO_CAPS == 0 {
        return Ok(limits);
    }
    let first = argument.u32(offset_of!(vfio_iommu_type1_info, cap_offset));
    for (id, at) in argument.capabilities(first) {
        match id {
            VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                limits.iova_ranges = iova_ranges(&argument, at);
            }
            VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                let avail = at + offset_of!(vfio_iommu_type1_info_dma_avail, avail);
                limits.mappings_available = Some(argument.u32(avail));
            }
            _ => {}
        }
    }
    Ok(limits)
}

fn iova_ranges(argument: &Argument, at: usize) -> Vec<RangeInclusive<u64>> {
    let nr = at + offset_of!(vfio_iommu_type1_info_cap_iova_range, nr_iovas);
    let first = at + size_of::<vfio_iommu_type1_info_cap_iova_range>();
    let size = size_of::<vfio_iova_range>();
    (0..argument.u32(nr) as usize)
        .map(|n| first + n * size)
        .take_while(|range| range + size <= argument.0.len())
        .map(|range| {
            let start = argument.u64(range + offset_of!(vfio_iova_range, start));
            start..=argument.u64(range + offset_of!(vfio_iova_range, end))
        })
        .collect()
}

/// Maps `host` at `iova` for reading and writing.
pub(super) fn map_dma(container: BorrowedFd<'_>, iova: u64, host: &HostRange) -> io::Result<()> {
    let mut argument = Argument::new(size_of::<vfio_iommu_type1_dma_map>())?;
    argument.put_u32(
        offset_of!(vfio_iommu_type1_dma_map, flags),
        VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
    );
    let address = offset_of!(vfio_iommu_type1_dma_map, vaddr);
    argument.put_u64(address, host.address() as u64);
    argument.put_u64(offset_of!(vfio_iommu_type1_dma_map, iova), iova);
    argument.put_u64(
        offset_of!(vfio_iommu_type1_dma_map, size),
        host.len() as u64,
    );
    argument.call(container, Request::IommuMapDma)
}

/// Unmaps `len` bytes from `iova`: one mapping of [`map_dma`], or several that lie one after another.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<()> {
    let size = offset_of!(vfio_iommu_type1_dma_unmap, size);
    let mut argument = Argument::new(size_of::<vfio_iommu_type1_dma_unmap>())?;
    argument.put_u64(offset_of!(vfio_iommu_type1_dma_unmap, iova), iova);
    argument.put_u64(size, len);
    argument.call(container, Request::IommuUnmapDma)?;
    if argument.u64(size) == len {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of the kernel: its fixed part, then `tail`.
    fn answer(fixed: usize, tail: &[u32]) -> Argument {
        let mut argument = Argument::new(fixed + tail.len() * 4).unwrap();
        for (n, value) in tail.iter().enumerate() {
            argument.put_u32(fixed + n * 4, *value);
        }
        argument
    }

    #[test]
    fn affected_functions_are_told_by_address_and_group() {
        let argument = answer(12, &[7, u32::from_ne_bytes([0x34, 0x12, 5, 0x11])]);
        let expected = AffectedFunction {
            sbdf: "1234:05:02.1".parse().unwrap(),
            group: 7,
        };
        assert_eq!(argument.affected(12), Some(expected));
    }

    #[test]
    fn ioctl_numbers_are_the_kernels() {
        // From the assembled header: VFIO_DEVICE_GET_INFO and VFIO_IOMMU_UNMAP_DMA.
        assert_eq!(Request::DeviceGetInfo.number(), 0x3b6b);
        assert_eq!(Request::IommuUnmapDma.number(), 0x3b72);
    }

    #[test]
    fn capabilities_of_an_answer_are_walked_within_bounds() {
        // id 1 at 8, id 3 at 24, end.
        let argument = answer(8, &[1, 24, 0, 0, 3 | 1 << 16, 0]);
        assert_eq!(argument.capabilities(8), [(1, 8), (3, 24)]);
        assert_eq!(argument.capabilities(0), []);
        // A circle, and a pointer out of the answer.
        let circle = answer(8, &[1, 8]);
        assert_eq!(circle.capabilities(8).len(), 2);
        assert_eq!(answer(8, &[1, u32::MAX]).capabilities(8)[0], (1, 8));
    }

    #[test]
    fn sparse_areas_end_with_the_answer() {
        let area = [0x1000, 0, 0x2000, 0];
        let mut tail = vec![1, 0, 100, 0];
        tail.extend(area);
        tail.extend([0x5000, 0]);
        let areas = sparse_areas(&answer(8, &tail), 8);
        let expected = MappableArea {
            offset: 0x1000,
            size: 0x2000,
        };
        assert_eq!(areas, [expected]);
    }

    #[test]
    fn iova_ranges_are_inclusive() {
        let tail = [
            1,
            0,
            2,
            0,
            0,
            0,
            0xfedf_ffff,
            0,
            0xfef0_0000,
            0,
            u32::MAX,
            0xffff,
        ];
        let ranges = iova_ranges(&answer(8, &tail), 8);
        assert_eq!(ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff]);
    }

    #[test]
    fn an_ioctl_that_fails_keeps_its_errno() {
        let file = tempfile::tempfile().unwrap();
        let fd = std::os::fd::AsFd::as_fd(&file);
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(device_info(fd).map_err(errno), Err(Some(libc::ENOTTY)));
        assert_eq!(reset(fd).map_err(errno), Err(Some(libc::ENOTTY)));
        let disabled = set_irqs(fd, 2, IrqAction::Disable);
        assert_eq!(disabled.map_err(errno), Err(Some(libc::ENOTTY)));
    }
}
