//! What the kernel finds in memory when it is entered, and where kernel and initramfs go (Linux
//! Documentation/arch/x86/boot.rst).

mod header;
mod linux64;
mod memory_map;
mod placement;
mod pvh;

use linux_loader::bootparam::setup_header;
use thiserror::Error;

pub use self::header::{SETUP_HEADER_READ_LEN, read_setup_header};
pub use self::linux64::linux64_blobs;
pub use self::memory_map::{E820_RAM, E820_RESERVED, e820};
pub use self::placement::{initramfs_address, kernel_end, kernel_load_address};
pub use self::pvh::pvh_blobs;
use super::layout;
use crate::platform::{MemoryRange, PlatformDescription};

/// The 64-bit entry of a bzImage lies this far behind its load address.
pub const BZIMAGE_ENTRY_OFFSET: u64 = 0x200;

/// Longest command line, without its NUL, of a kernel that doesn't say (`COMMAND_LINE_SIZE`).
const CMDLINE_DEFAULT_LEN: usize = 2047;

/// Bytes that have to be in guest memory before the first instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestBlob {
    /// Guest physical address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What the boot structures are made from.
#[derive(Clone, Copy, Debug)]
pub struct BootInput<'a> {
    /// The guest.
    pub platform: &'a PlatformDescription,
    /// Kernel command line without a terminator.
    pub cmdline: &'a str,
    /// Where the initramfs lies.
    pub initramfs: Option<MemoryRange>,
    /// Address of the RSDP.
    pub rsdp: u64,
    /// The header as linux-loader returned it for a bzImage; none for an ELF kernel.
    pub setup_header: Option<setup_header>,
}

/// Why a guest can't be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// The kernel would cut the command line off.
    #[error("the kernel command line has {len} bytes, but this kernel takes at most {max}")]
    CommandLineTooLong {
        /// Length in bytes.
        len: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// A NUL would end the command line early.
    #[error("the kernel command line contains a NUL byte at offset {offset}")]
    CommandLineNul {
        /// Where the NUL is.
        offset: usize,
    },
    /// The kernel is too old for, or not built for, 64-bit entry.
    #[error(
        "the kernel has no 64-bit entry (boot protocol {}.{:02}, needs 2.12 and a 64-bit kernel); use an x86_64 kernel \
         of version 3.8 or later",
        version >> 8, version & 0xFF
    )]
    No64BitEntry {
        /// Boot protocol version, major in the high byte.
        version: u16,
    },
    /// The kernel doesn't fit behind its load address.
    #[error(
        "the kernel needs {} MiB of RAM from {address:#x}, but {} MiB are there",
        needed.div_ceil(MIB), available / MIB
    )]
    KernelDoesNotFit {
        /// Where the kernel would go.
        address: u64,
        /// Bytes it needs to unpack itself.
        needed: u64,
        /// Bytes of RAM there.
        available: u64,
    },
    /// No room for the initramfs between the kernel and the highest address the kernel takes it from.
    #[error(
        "the initramfs needs {} MiB of RAM above the kernel and below {limit:#x}, but {} MiB are free there",
        needed.div_ceil(MIB), available / MIB
    )]
    InitramfsDoesNotFit {
        /// Length of the initramfs.
        needed: u64,
        /// Largest free range.
        available: u64,
        /// First address it may not use.
        limit: u64,
    },
    /// Guest RAM is too fragmented for the boot protocol.
    #[error(
        "the guest's memory map has {entries} entries, but the boot protocol holds at most {max}"
    )]
    MemoryMapTooLong {
        /// Entries needed.
        entries: usize,
        /// Entries there's room for.
        max: usize,
    },
}

const MIB: u64 = 1 << 20;

/// The command line as it lies in memory, checked against `max` bytes without the NUL.
fn cmdline_blob(cmdline: &str, max: usize) -> Result<GuestBlob, BootError> {
    if let Some(offset) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(BootError::CommandLineNul { offset });
    }
    let room = usize::try_from(layout::CMDLINE_MAX - 1).unwrap_or(usize::MAX);
    let max = max.min(room);
    if cmdline.len() > max {
        return Err(BootError::CommandLineTooLong {
            len: cmdline.len(),
            max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    Ok(GuestBlob {
        address: layout::CMDLINE_ADDRESS,
        bytes,
    })
}

/// The low and high half of an address, which the boot protocol keeps in two places.
fn halves(value: u64) -> (u32, u32) {
    let low = value & 0xFFFF_FFFF;
    (low as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests;
