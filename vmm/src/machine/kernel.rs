//! The guest's kernel and initramfs: checked early, loaded late.

use super::MachineError;
use super::elf::{self, ElfFault, ElfKernel};
use crate::memory::GuestRam;
use arch::platform::{MemoryRange, PlatformDescription};
use arch::x86_64::boot::{
    BootError, BootInput, GuestBlob, initramfs_address, kernel_load_address, linux64_blobs,
    pvh_blobs,
};
use arch::x86_64::layout::{HIGH_MEMORY, PVH_START_INFO_ADDRESS, ZERO_PAGE_ADDRESS};
use arch::x86_64::regs::EntryPoint;
use linux_loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vm_memory::{ByteValued, Bytes, GuestAddress};

/// Why a kernel or an initramfs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file can't be opened or read.
    #[error("{} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is neither a bzImage nor a 64-bit ELF kernel.
    #[error("{} is no x86-64 Linux kernel ({found})", path.display())]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// The file ends before the kernel does.
    #[error("{} is cut off", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The bytes that its headers promise.
        needed: u64,
    },
    /// An initramfs without content.
    #[error("{} is empty", path.display())]
    EmptyInitramfs {
        /// The file.
        path: PathBuf,
    },
    /// It doesn't fit the guest's RAM.
    #[error("{} doesn't fit", path.display())]
    Fit {
        /// The file.
        path: PathBuf,
        /// By how much.
        #[source]
        source: BootError,
    },
    /// The loader refused it.
    #[error("{} can't be loaded", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: linux_loader::loader::Error,
    },
}

/// Which boot protocol the file asks for.
enum Format {
    /// bzImage: the 64-bit boot protocol.
    BzImage(Box<setup_header>),
    /// ELF vmlinux: PVH when it has the note, else the 64-bit boot protocol.
    Elf(ElfKernel),
}

/// A file that is to be put into guest memory.
pub struct ImageFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl ImageFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`KernelError::Read`].
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let read = |source| KernelError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            let kind = if metadata.is_dir() {
                "it is a folder"
            } else {
                "it is no regular file"
            };
            return Err(read(io::Error::other(kind)));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            len: metadata.len(),
        })
    }

    /// The same for an initramfs.
    ///
    /// # Errors
    /// [`KernelError::Read`], [`KernelError::EmptyInitramfs`].
    pub fn open_initramfs(path: &Path) -> Result<Self, KernelError> {
        let image = Self::open(path)?;
        if image.len == 0 {
            return Err(KernelError::EmptyInitramfs { path: image.path });
        }
        Ok(image)
    }
}

/// A kernel whose kind is known.
pub struct Kernel {
    image: ImageFile,
    format: Format,
}

/// Offset of `struct setup_header` in a bzImage (Linux boot protocol, "The Real-Mode Kernel Header").
const SETUP_HEADER_OFFSET: u64 = 0x1f1;
/// "HdrS".
const SETUP_HEADER_MAGIC: u32 = 0x5372_6448;
/// `XLF_KERNEL_64`: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry in the protected-mode part.
const ENTRY_64: u64 = 0x200;
/// The real-mode part of a bzImage counts its sectors of 512 bytes without the first, and an old one
/// that gives none has four.
const SECTOR: u64 = 512;
const SETUP_SECTORS_OLD: u8 = 4;
/// `syssize` counts paragraphs of 16 bytes; the last one need not be whole.
const PARAGRAPH: u64 = 16;

impl Kernel {
    /// Opens `path` and finds out what it is.
    ///
    /// # Errors
    /// [`KernelError::Read`], [`KernelError::NoKernel`], [`KernelError::CutOff`].
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let image = ImageFile::open(path)?;
        let no_kernel = |found| KernelError::NoKernel {
            path: path.to_owned(),
            found,
        };
        let cut_off = |needed| KernelError::CutOff {
            path: path.to_owned(),
            len: image.len,
            needed,
        };
        if image.len == 0 {
            return Err(no_kernel("it is empty"));
        }
        let mut ident = [0; 8];
        if image.file.read_exact_at(&mut ident, 0).is_err() {
            return Err(no_kernel("it is too short"));
        }
        if elf::is_elf(&ident) {
            let inspected = elf::inspect(&image.file, image.len);
            let format = Format::Elf(inspected.map_err(|fault| match fault {
                ElfFault::NoKernel(found) => no_kernel(found),
                ElfFault::CutOff(needed) => cut_off(needed),
            })?);
            return Ok(Self { image, format });
        }
        let mut header = setup_header::default();
        if image
            .file
            .read_exact_at(header.as_mut_slice(), SETUP_HEADER_OFFSET)
            .is_err()
            || header.header != SETUP_HEADER_MAGIC
        {
            return Err(no_kernel(describe(&ident)));
        }
        if header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(no_kernel("it is a bzImage without a 64-bit entry point"));
        }
        let needed = file_len(&header);
        // A bzImage that is a little short of whole boots, and then can't unpack itself.
        if image.len.saturating_add(PARAGRAPH) <= needed {
            return Err(cut_off(needed));
        }
        let format = Format::BzImage(Box::new(header));
        Ok(Self { image, format })
    }

    fn header(&self) -> Option<&setup_header> {
        match &self.format {
            Format::BzImage(header) => Some(header),
            Format::Elf(_) => None,
        }
    }

    /// Checks that kernel and initramfs fit the RAM that `platform` has, as far as can be told
    /// before loading.
    ///
    /// # Errors
    /// [`KernelError::Fit`].
    pub fn check_fit(
        &self,
        initramfs: Option<&ImageFile>,
        platform: &PlatformDescription,
    ) -> Result<(), KernelError> {
        let fit = |image: &ImageFile, source| KernelError::Fit {
            path: image.path.clone(),
            source,
        };
        let end = match &self.format {
            Format::BzImage(header) => {
                let start =
                    kernel_load_address(platform, Some(header)).map_err(|e| fit(&self.image, e))?;
                start + self.image.len
            }
            Format::Elf(kernel) => elf_end(kernel, platform).map_err(|e| fit(&self.image, e))?,
        };
        if let Some(image) = initramfs {
            initramfs_address(platform, self.header(), end, image.len)
                .map_err(|e| fit(image, e))?;
        }
        Ok(())
    }

    /// Puts kernel, initramfs and what the boot protocol asks for into guest memory.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn load(
        &self,
        initramfs: Option<&ImageFile>,
        cmdline: &str,
        (platform, rsdp): (&PlatformDescription, u64),
        ram: &GuestRam,
    ) -> Result<EntryPoint, MachineError> {
        let loaded = self.load_image(platform, ram)?;
        let initramfs = initramfs
            .map(|image| self.load_initramfs(image, platform, loaded.kernel_end, ram))
            .transpose()?;
        let input = BootInput {
            platform,
            cmdline,
            initramfs,
            rsdp,
            setup_header: loaded.setup_header,
        };
        let (entry, blobs) = match (&self.format, &loaded.pvh_boot_cap) {
            (Format::Elf(_), PvhBootCapability::PvhEntryPresent(entry)) => {
                let entry = EntryPoint::Pvh {
                    rip: entry.0,
                    start_info: PVH_START_INFO_ADDRESS,
                };
                (entry, pvh_blobs(&input)?)
            }
            (format, _) => {
                let offset = match format {
                    Format::BzImage(_) => ENTRY_64,
                    Format::Elf(_) => 0,
                };
                let entry = EntryPoint::Linux64 {
                    rip: loaded.kernel_load.0 + offset,
                    zero_page: ZERO_PAGE_ADDRESS,
                };
                (entry, linux64_blobs(&input)?)
            }
        };
        write_blobs(ram, &blobs)?;
        Ok(entry)
    }

    fn load_image(
        &self,
        platform: &PlatformDescription,
        ram: &GuestRam,
    ) -> Result<KernelLoaderResult, KernelError> {
        let fit = |source| KernelError::Fit {
            path: self.image.path.clone(),
            source,
        };
        let read = |source| KernelError::Read {
            path: self.image.path.clone(),
            source,
        };
        let mut file = self.image.file.try_clone().map_err(read)?;
        let memory = ram.memory();
        let loaded = match &self.format {
            Format::BzImage(header) => {
                let at = kernel_load_address(platform, Some(header)).map_err(fit)?;
                BzImage::load(memory, Some(GuestAddress(at)), &mut file, None)
            }
            Format::Elf(_) => Elf::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY))),
        };
        loaded.map_err(|source| KernelError::Load {
            path: self.image.path.clone(),
            source,
        })
    }

    fn load_initramfs(
        &self,
        image: &ImageFile,
        platform: &PlatformDescription,
        kernel_end: u64,
        ram: &GuestRam,
    ) -> Result<MemoryRange, KernelError> {
        let start = initramfs_address(platform, self.header(), kernel_end, image.len).map_err(
            |source| KernelError::Fit {
                path: image.path.clone(),
                source,
            },
        )?;
        copy_file(image, start, ram).map_err(|source| KernelError::Read {
            path: image.path.clone(),
            source,
        })?;
        Ok(MemoryRange {
            start,
            len: image.len,
        })
    }
}

/// How long the file of a bzImage is that has this header (Linux boot protocol, "Loading The Rest of
/// The Kernel").
fn file_len(header: &setup_header) -> u64 {
    let sectors = match header.setup_sects {
        0 => SETUP_SECTORS_OLD,
        sectors => sectors,
    };
    (u64::from(sectors) + 1) * SECTOR + u64::from(header.syssize) * PARAGRAPH
}

/// First address behind an ELF kernel, which says itself where it goes, if there is RAM for it.
fn elf_end(kernel: &ElfKernel, platform: &PlatformDescription) -> Result<u64, BootError> {
    let range = platform
        .ram
        .iter()
        .find(|range| range.start <= kernel.start && kernel.start < range.end());
    let available = range.map_or(0, |range| range.end() - kernel.start);
    let needed = kernel.end - kernel.start;
    if needed > available {
        return Err(BootError::KernelDoesNotFit {
            address: kernel.start,
            needed,
            available,
        });
    }
    Ok(kernel.end)
}

fn copy_file(image: &ImageFile, start: u64, ram: &GuestRam) -> io::Result<()> {
    use std::io::Seek;
    let mut file = image.file.try_clone()?;
    file.rewind()?;
    let len = usize::try_from(image.len).map_err(io::Error::other)?;
    ram.memory()
        .read_exact_volatile_from(GuestAddress(start), &mut file, len)
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Writes what `arch` computed into guest memory.
///
/// # Errors
/// [`MachineError::GuestMemory`] when a blob does not lie in RAM.
pub(super) fn write_blobs(ram: &GuestRam, blobs: &[GuestBlob]) -> Result<(), MachineError> {
    for blob in blobs {
        ram.memory()
            .write_slice(&blob.bytes, GuestAddress(blob.address))
            .map_err(|_| MachineError::GuestMemory {
                address: blob.address,
            })?;
    }
    Ok(())
}

/// Names what a file that is no kernel seems to be.
fn describe(start: &[u8]) -> &'static str {
    const SIGNATURES: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "it is a gzip file"),
        (b"\xfd7zXZ", "it is an xz file"),
        (b"\x28\xb5\x2f\xfd", "it is a zstd file"),
        (b"0707", "it is a cpio archive, as an initramfs is"),
        (b"!<arch>", "it is an ar archive or Debian package"),
        (b"#!", "it is a script"),
    ];
    SIGNATURES
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map_or("it is neither a bzImage nor an ELF file", |(_, name)| name)
}
