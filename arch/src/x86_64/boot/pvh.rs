//! The PVH entry: `hvm_start_info` version 1 with memory map and module list (Xen
//! xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::memory_map::e820;
use super::{BootError, BootInput, CMDLINE_DEFAULT_LEN, GuestBlob, cmdline_blob};
use crate::x86_64::{layout, regs};

/// The first version that carries a memory map.
const START_INFO_VERSION: u32 = 1;

/// Everything but kernel and initramfs that the PVH entry needs in memory.
///
/// # Errors
/// When command line or memory map exceed what there is room for.
pub fn pvh_blobs(input: &BootInput) -> Result<Vec<GuestBlob>, BootError> {
    Ok(vec![
        GuestBlob {
            address: layout::GDT_ADDRESS,
            bytes: regs::gdt_bytes(false),
        },
        GuestBlob {
            address: layout::IDT_ADDRESS,
            bytes: vec![0; usize::from(regs::IDT_BYTES)],
        },
        GuestBlob {
            address: layout::PVH_START_INFO_ADDRESS,
            bytes: start_info(input)?,
        },
        cmdline_blob(input.cmdline, CMDLINE_DEFAULT_LEN)?,
    ])
}

/// Start info, module list and memory map, one behind the other.
fn start_info(input: &BootInput) -> Result<Vec<u8>, BootError> {
    let modlist = layout::PVH_START_INFO_ADDRESS + size::<hvm_start_info>();
    let memmap = modlist + size::<hvm_modlist_entry>();
    let map = e820(input.platform);
    let max = (layout::PVH_START_INFO_ADDRESS + layout::PAGE_SIZE - memmap)
        / size::<hvm_memmap_table_entry>();
    let too_long = BootError::MemoryMapTooLong {
        entries: map.len(),
        max: usize::try_from(max).unwrap_or(usize::MAX),
    };
    let memmap_entries = u32::try_from(map.len()).map_err(|_| too_long)?;
    if u64::from(memmap_entries) > max {
        return Err(too_long);
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        nr_modules: u32::from(input.initramfs.is_some()),
        modlist_paddr: if input.initramfs.is_some() {
            modlist
        } else {
            0
        },
        cmdline_paddr: layout::CMDLINE_ADDRESS,
        rsdp_paddr: input.rsdp,
        memmap_paddr: memmap,
        memmap_entries,
        ..Default::default()
    };
    let module = input
        .initramfs
        .map_or_else(hvm_modlist_entry::default, |initramfs| hvm_modlist_entry {
            paddr: initramfs.start,
            size: initramfs.len,
            ..Default::default()
        });
    let mut bytes = [info.as_slice(), module.as_slice()].concat();
    for (addr, size, type_) in map {
        bytes.extend_from_slice(
            hvm_memmap_table_entry {
                addr,
                size,
                type_,
                reserved: 0,
            }
            .as_slice(),
        );
    }
    Ok(bytes)
}

const fn size<T>() -> u64 {
    size_of::<T>() as u64
}
