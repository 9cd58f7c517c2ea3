//! The 64-bit entry: zero page, command line, descriptor tables and identity page tables.

use linux_loader::bootparam::{
    LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::ByteValued;

use super::header::HEADER_MAGIC;
use super::memory_map::e820;
use super::{BootError, BootInput, CMDLINE_DEFAULT_LEN, GuestBlob, cmdline_blob, halves};
use crate::x86_64::{layout, regs};

/// `boot_flag` of a boot sector.
const BOOT_FLAG: u16 = 0xAA55;
/// The protocol this module writes, 2.15; an ELF kernel's synthesised header claims it.
const VERSION_WRITTEN: u16 = 0x020F;
/// `xloadflags` came with protocol 2.12.
const VERSION_XLOADFLAGS: u16 = 0x020C;
/// `type_of_loader` of a loader that has no id.
const LOADER_UNDEFINED: u8 = 0xFF;

const ENTRY_PRESENT: u64 = 1 << 0;
const ENTRY_WRITABLE: u64 = 1 << 1;
const ENTRY_LARGE_PAGE: u64 = 1 << 7;
/// Entries of one page table.
const TABLE_ENTRIES: u64 = 512;
/// Reach of a page directory entry.
const LARGE_PAGE: u64 = 2 << 20;

/// Everything but kernel and initramfs that the 64-bit entry needs in memory.
///
/// # Errors
/// When the kernel has no 64-bit entry, or command line or memory map exceed what it takes.
pub fn linux64_blobs(input: &BootInput) -> Result<Vec<GuestBlob>, BootError> {
    let header = match input.setup_header {
        Some(header) => checked_header(header)?,
        None => elf_header(),
    };
    let cmdline = cmdline_blob(input.cmdline, cmdline_max(&header))?;
    let zero_page = zero_page(input, header)?;
    Ok(vec![
        GuestBlob {
            address: layout::GDT_ADDRESS,
            bytes: regs::gdt_bytes(true),
        },
        GuestBlob {
            address: layout::IDT_ADDRESS,
            bytes: vec![0; usize::from(regs::IDT_BYTES)],
        },
        GuestBlob {
            address: layout::ZERO_PAGE_ADDRESS,
            bytes: zero_page.as_slice().to_vec(),
        },
        GuestBlob {
            address: layout::PML4_ADDRESS,
            bytes: identity_page_tables(),
        },
        cmdline,
    ])
}

fn checked_header(header: setup_header) -> Result<setup_header, BootError> {
    let version = header.version;
    if version < VERSION_XLOADFLAGS || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::No64BitEntry { version });
    }
    Ok(header)
}

/// What a kernel without a header is told about itself.
fn elf_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: VERSION_WRITTEN,
        xloadflags: XLF_KERNEL_64,
        ..Default::default()
    }
}

/// A kernel before protocol 2.06 doesn't say, and neither does an ELF kernel.
fn cmdline_max(header: &setup_header) -> usize {
    match usize::try_from(header.cmdline_size) {
        Ok(0) | Err(_) => CMDLINE_DEFAULT_LEN,
        Ok(max) => max,
    }
}

fn zero_page(input: &BootInput, header: setup_header) -> Result<boot_params, BootError> {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: input.rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(layout::CMDLINE_ADDRESS);
    if let Some(initramfs) = input.initramfs {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initramfs.start);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initramfs.len);
    }
    let map = e820(input.platform);
    let too_long = BootError::MemoryMapTooLong {
        entries: map.len(),
        max: params.e820_table.len(),
    };
    if map.len() > params.e820_table.len() {
        return Err(too_long);
    }
    params.e820_entries = u8::try_from(map.len()).map_err(|_| too_long)?;
    for (entry, (addr, size, r#type)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type };
    }
    Ok(params)
}

/// PML4, PDPT and page directories, in this order and without gaps, that map the first
/// [`layout::IDENTITY_MAP_GIB`] GiB one to one with 2 MiB pages, which every 64-bit CPU has.
fn identity_page_tables() -> Vec<u8> {
    let table = |index: u64| {
        (layout::PML4_ADDRESS + index * layout::PAGE_SIZE) | ENTRY_PRESENT | ENTRY_WRITABLE
    };
    let pml4 = (0..TABLE_ENTRIES).map(|index| if index == 0 { table(1) } else { 0 });
    let pdpt = (0..TABLE_ENTRIES).map(|index| {
        if index < layout::IDENTITY_MAP_GIB {
            table(2 + index)
        } else {
            0
        }
    });
    let pages = (0..layout::IDENTITY_MAP_GIB * TABLE_ENTRIES)
        .map(|index| (index * LARGE_PAGE) | ENTRY_PRESENT | ENTRY_WRITABLE | ENTRY_LARGE_PAGE);
    pml4.chain(pdpt)
        .chain(pages)
        .flat_map(u64::to_le_bytes)
        .collect()
}
