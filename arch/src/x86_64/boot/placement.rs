//! Where kernel and initramfs go in low RAM.

use linux_loader::bootparam::setup_header;

use super::BootError;
use crate::platform::PlatformDescription;
use crate::x86_64::layout;

/// Protocol 2.03 brought `initrd_addr_max`; before it the initramfs had to stay below this.
const INITRD_ADDR_MAX_OLD: u64 = 0x37FF_FFFF;
/// Protocol versions that brought a field this module reads.
const VERSION_INITRD_ADDR_MAX: u16 = 0x0203;
const VERSION_RELOCATABLE: u16 = 0x0205;
const VERSION_PREF_ADDRESS: u16 = 0x020A;
/// `syssize` counts paragraphs of 16 bytes.
const PARAGRAPH: u64 = 16;

/// Where the protected-mode part of a kernel goes: its preferred address, or the next one its alignment allows above
/// [`layout::KERNEL_ADDRESS`] if it is relocatable. From there on the kernel unpacks itself, so `init_size` bytes of
/// RAM must follow. An ELF kernel (no header) says itself where its segments go.
///
/// # Errors
/// When less RAM follows than the kernel needs.
pub fn kernel_load_address(
    platform: &PlatformDescription,
    header: Option<&setup_header>,
) -> Result<u64, BootError> {
    let Some(header) = header else {
        return Ok(layout::KERNEL_ADDRESS);
    };
    let address = preferred_address(header);
    let needed = footprint(header);
    let available = platform
        .ram
        .iter()
        .find(|range| range.start <= address && address < range.end())
        .map_or(0, |range| {
            range.end().min(layout::LOW_RAM_END).saturating_sub(address)
        });
    if needed > available {
        return Err(BootError::KernelDoesNotFit {
            address,
            needed,
            available,
        });
    }
    Ok(address)
}

/// First address behind everything a kernel at `load_address` overwrites before it looks at the memory map;
/// `loaded_end` is the end of what was loaded.
#[must_use]
pub fn kernel_end(load_address: u64, header: Option<&setup_header>, loaded_end: u64) -> u64 {
    let Some(header) = header else {
        return loaded_end;
    };
    let start = if relocatable(header) {
        aligned(load_address, header)
    } else {
        load_address
    };
    start.saturating_add(footprint(header)).max(loaded_end)
}

/// Where an initramfs of `len` bytes goes: as high in low RAM as the kernel takes it from, page aligned, so that the
/// kernel has the most room to move when it randomises its own address.
///
/// `kernel_end` is the end of what was loaded; for a header as linux-loader returned it the room the kernel unpacks
/// itself into is added.
///
/// # Errors
/// When no range between the kernel and the limit is large enough.
pub fn initramfs_address(
    platform: &PlatformDescription,
    header: Option<&setup_header>,
    kernel_end: u64,
    len: u64,
) -> Result<u64, BootError> {
    let loaded_at = header.map_or(0, |header| u64::from(header.code32_start));
    let floor = self::kernel_end(loaded_at, header, kernel_end).max(layout::HIGH_MEMORY);
    let limit = initramfs_limit(header);
    let mut available = 0;
    for range in platform.ram.iter().rev() {
        let first = range.start.max(floor).div_ceil(layout::PAGE_SIZE);
        let last = range.end().min(limit) / layout::PAGE_SIZE;
        let room = last.saturating_sub(first).saturating_mul(layout::PAGE_SIZE);
        if len <= room && room > 0 {
            return Ok((last - len.div_ceil(layout::PAGE_SIZE)) * layout::PAGE_SIZE);
        }
        available = available.max(room);
    }
    Err(BootError::InitramfsDoesNotFit {
        needed: len,
        available,
        limit,
    })
}

/// First address the initramfs may not use. A kernel may unpack it only below 4 GiB, unless it says otherwise in a
/// way that gains nothing here.
fn initramfs_limit(header: Option<&setup_header>) -> u64 {
    let last = match header {
        Some(header)
            if header.version >= VERSION_INITRD_ADDR_MAX && header.initrd_addr_max != 0 =>
        {
            u64::from(header.initrd_addr_max)
        }
        Some(_) => INITRD_ADDR_MAX_OLD,
        None => layout::LOW_RAM_END - 1,
    };
    (last + 1).min(layout::LOW_RAM_END)
}

fn preferred_address(header: &setup_header) -> u64 {
    let preferred = if header.version >= VERSION_PREF_ADDRESS {
        header.pref_address
    } else {
        0
    };
    if relocatable(header) {
        aligned(preferred.max(layout::KERNEL_ADDRESS), header)
    } else if preferred != 0 {
        preferred
    } else {
        layout::HIGH_MEMORY
    }
}

fn relocatable(header: &setup_header) -> bool {
    header.version >= VERSION_RELOCATABLE && header.relocatable_kernel != 0
}

fn aligned(address: u64, header: &setup_header) -> u64 {
    let alignment = u64::from(header.kernel_alignment).max(1);
    address
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX)
}

/// Bytes of RAM the kernel needs from its load address until it has read the memory map.
fn footprint(header: &setup_header) -> u64 {
    let file = u64::from(header.syssize) * PARAGRAPH;
    if header.version >= VERSION_PREF_ADDRESS {
        file.max(u64::from(header.init_size))
    } else {
        file
    }
}
