//! Owners of host memory mappings.
//!
//! A [`HostMapping`] owns an `mmap`; whatever refers to that memory (a memslot, a DMA mapping) holds
//! an `Arc` of it inside a [`HostRange`], so memory can't be unmapped while something points to it.
#![expect(
    unsafe_code,
    reason = "mmap and munmap of device regions; docs/adr/0002"
)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use vm_memory::guest_memory::{Error as GuestMemoryError, Result as GuestMemoryResult};
use vm_memory::{
    GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize, MemoryRegionAddress,
    VolatileSlice,
};

/// A mapping of host memory into this process, unmapped when dropped.
pub struct HostMapping {
    address: usize,
    len: usize,
    /// The whole reservation that it lies in: address and length.
    reservation: (usize, usize),
}

/// Protection of a device mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The guest may read.
    pub read: bool,
    /// The guest may write.
    pub write: bool,
}

/// A kernel can map a BAR or huge pages of RAM by 2 MiB or 1 GiB pages only where virtual address, file offset and guest
/// address are congruent modulo that size.
const LARGEST_PAGE: usize = 1 << 30;

impl HostMapping {
    /// Maps `len` bytes of `file` from `offset`, shared.
    ///
    /// The address is congruent to `congruent_to` modulo the largest page size that `len` allows, up
    /// to 1 GiB, so that the kernel may use huge mappings for BARs.
    ///
    /// # Errors
    /// The errno of `mmap`, or `EINVAL` for an empty mapping.
    pub fn shared(
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        access: Access,
        congruent_to: u64,
    ) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let offset = libc::off_t::try_from(offset).map_err(|_| invalid())?;
        if len == 0 {
            return Err(invalid());
        }
        let align = len
            .checked_next_power_of_two()
            .ok_or_else(invalid)?
            .clamp(4096, LARGEST_PAGE);
        let reserved = len.checked_add(align).ok_or_else(invalid)?;
        // SAFETY: an anonymous PROT_NONE mapping at an address the kernel chooses touches no memory
        // that anything else uses.
        let reservation = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserved,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reservation == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = reservation as usize;
        let wanted = usize::try_from(congruent_to % align as u64).map_err(|_| invalid())?;
        let address = start + (wanted + align - start % align) % align;
        let mut protection = libc::PROT_NONE;
        if access.read {
            protection |= libc::PROT_READ;
        }
        if access.write {
            protection |= libc::PROT_WRITE;
        }
        let mapping = Self {
            address,
            len,
            reservation: (start, reserved),
        };
        // SAFETY: `address..address + len` lies inside the reservation made above (align - 1 bytes
        // of slack at most, `reserved` is `len + align`), which only this function knows of, so
        // MAP_FIXED replaces nothing else. `file` is open for the duration of the call.
        let mapped = unsafe {
            libc::mmap(
                address as *mut libc::c_void,
                len,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// Address of the first byte in this process.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty mapping can't be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        let (reservation, reserved) = self.reservation;
        // SAFETY: the range is the one reserved by `shared`, unmapped once, here; whatever
        // pointed into it held an `Arc` of this mapping and is gone.
        let failed = unsafe { libc::munmap(reservation as *mut libc::c_void, reserved) } != 0;
        if failed {
            log::error!(
                "munmap of {reserved:#x} bytes at {reservation:#x}: {}",
                io::Error::last_os_error()
            );
        }
    }
}

impl fmt::Debug for HostMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMapping({:#x}+{:#x})", self.address, self.len)
    }
}

/// A part of a [`HostMapping`], which it keeps alive.
#[derive(Clone, Debug)]
pub struct HostRange {
    mapping: Arc<HostMapping>,
    offset: usize,
    len: usize,
}

impl HostRange {
    /// `len` bytes from `offset`; `None` when they don't lie inside `mapping`.
    #[must_use]
    pub fn new(mapping: Arc<HostMapping>, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (len > 0 && end <= mapping.len).then_some(Self {
            mapping,
            offset,
            len,
        })
    }

    /// The whole of `mapping`.
    #[must_use]
    pub fn whole(mapping: Arc<HostMapping>) -> Self {
        let len = mapping.len;
        Self {
            mapping,
            offset: 0,
            len,
        }
    }

    /// Address of the first byte in this process.
    #[must_use]
    pub fn address(&self) -> usize {
        self.mapping.address + self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty range can't be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks the kernel to back the range by huge pages where it can.
    ///
    /// # Errors
    /// `EINVAL` where the kernel has no transparent huge pages.
    pub fn advise_huge_pages(&self) -> io::Result<()> {
        self.advise(libc::MADV_HUGEPAGE)
    }

    /// Faults every page of the range in, writable, without changing what it holds.
    ///
    /// # Errors
    /// `ENOMEM` when the host has no memory left; `EINVAL` before Linux 5.14.
    pub fn populate(&self) -> io::Result<()> {
        self.advise(libc::MADV_POPULATE_WRITE)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        let address = self.address() as *mut libc::c_void;
        // SAFETY: the range lies inside a mapping that `self` keeps alive, and neither advice used
        // here changes the contents of memory or ends the mapping.
        if unsafe { libc::madvise(address, self.len, advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// `len` bytes from `offset` of this range; `None` when they don't lie inside it.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len)
            .then(|| Self::new(Arc::clone(&self.mapping), self.offset + offset, len))?
    }
}

/// A range of guest RAM, for those that read and write it through vm-memory.
#[derive(Debug)]
pub struct RamRegion {
    start: GuestAddress,
    mapping: Arc<HostMapping>,
}

impl RamRegion {
    /// Maps `len` bytes of `file` from `offset` as guest RAM from `start` on.
    ///
    /// # Errors
    /// The errno of `mmap`; `ENOMEM` for a file of huge pages that are not there.
    pub fn map(file: BorrowedFd<'_>, offset: u64, start: u64, len: u64) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let access = Access {
            read: true,
            write: true,
        };
        start.checked_add(len).ok_or_else(invalid)?;
        let len = usize::try_from(len).map_err(|_| invalid())?;
        Ok(Self {
            start: GuestAddress(start),
            mapping: Arc::new(HostMapping::shared(file, offset, len, access, start)?),
        })
    }

    /// Where it is in this process.
    #[must_use]
    pub fn mapping(&self) -> &Arc<HostMapping> {
        &self.mapping
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.mapping.len as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_>> {
        let outside = GuestMemoryError::InvalidBackendAddress;
        let offset = usize::try_from(offset.0).unwrap_or(usize::MAX);
        match offset.checked_add(count) {
            Some(end) if end <= self.mapping.len => {}
            _ => return Err(outside),
        }
        let address = (self.mapping.address + offset) as *mut u8;
        // SAFETY: `offset..offset + count` lies inside the mapping, which is readable and writable
        // and which `self` keeps alive as long as the slice borrows it. No reference into it exists:
        // all of this program reaches guest RAM through such slices.
        Ok(unsafe { VolatileSlice::new(address, count) })
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use vm_memory::Bytes;

    fn ram(start: u64, len: u64) -> RamRegion {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * len).unwrap();
        RamRegion::map(file.as_fd(), len, start, len).unwrap()
    }

    #[test]
    fn ram_lies_in_the_process_as_it_lies_in_the_guest_modulo_large_pages() {
        for (start, len, page) in [
            (0, 3 << 30, 1 << 30),
            (0x1_2360_0000, 2 << 30, 1 << 30),
            (4 << 30, 8 << 20, 8 << 20),
        ] {
            let ram = ram(start, len);
            assert_eq!(ram.mapping().address() as u64 % page, start % page);
        }
    }

    #[test]
    fn accesses_beyond_the_end_of_ram_are_refused() {
        let ram = ram(1 << 20, 8192);
        let at = |offset| MemoryRegionAddress(offset);
        ram.write_slice(&[1, 2, 3, 4], at(8188)).unwrap();
        let mut bytes = [0; 4];
        ram.read_slice(&mut bytes, at(8188)).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert!(ram.write_slice(&bytes, at(8189)).is_err());
        assert!(ram.get_slice(at(u64::MAX), 1).is_err());
        assert!(ram.get_slice(at(8192), 1).is_err());
        assert_eq!(ram.get_slice(at(8192), 0).unwrap().len(), 0);
    }
}
