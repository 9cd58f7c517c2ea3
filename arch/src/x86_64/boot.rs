//! Boot.
use linux_loader::bootparam::setup_header;
use thiserror::Error;

use crate::platform::{MemoryRange, PlatformDescription};

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
    /// x
    #[error("x")]
    X,
}

/// x
///
/// # Errors
/// x
pub fn linux64_blobs(input: &BootInput) -> Result<Vec<GuestBlob>, BootError> {
    let _ = input;
    todo!()
}

/// x
///
/// # Errors
/// x
pub fn pvh_blobs(input: &BootInput) -> Result<Vec<GuestBlob>, BootError> {
    let _ = input;
    todo!()
}

/// The memory map: start, length, e820 type.
#[must_use]
pub fn e820(platform: &PlatformDescription) -> Vec<(u64, u64, u32)> {
    let _ = platform;
    todo!()
}

/// x
///
/// # Errors
/// x
pub fn initramfs_address(
    platform: &PlatformDescription,
    header: Option<&setup_header>,
    kernel_end: u64,
    len: u64,
) -> Result<u64, BootError> {
    let _ = (platform, header, kernel_end, len);
    todo!()
}

/// Where the protected-mode part of a kernel goes.
///
/// # Errors
/// x
pub fn kernel_load_address(
    platform: &PlatformDescription,
    header: Option<&setup_header>,
) -> Result<u64, BootError> {
    let _ = (platform, header);
    todo!()
}
