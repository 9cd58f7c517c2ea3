//! What a user is told when a machine can't be built: what, why, what to do.

use super::{KernelError, MachineError};
use crate::kvm::KvmError;
use crate::memory::RamError;
use devices::host::{HostRoot, Problem, explain_busy, explain_eperm_on_attach};
use devices::pci::HostSbdf;
use devices::vfio::{ContainerError, VfioError};
use std::error::Error;
use std::ops::RangeInclusive;

const MIB: u64 = 1 << 20;

/// The causes of `error`, without itself; its own text when it has none.
fn why(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}

impl MachineError {
    /// The error in three lines.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Kvm(error) => kvm(error),
            Self::Vcpu(error) => Problem::new(
                error.to_string(),
                why(error),
                "see 'dmesg' for what KVM said; fewer --cpus may be what this host can run",
            ),
            Self::Ram(error) => ram(error),
            Self::HostMemory {
                asked,
                present,
                kind,
            } => Problem::new(
                format!("a guest with {} MiB does not fit this host", asked / MIB),
                format!("the host has {} MiB {kind}", present / MIB),
                format!(
                    "give --memory {}M or less, or free memory",
                    round_down(*present)
                ),
            ),
            Self::Kernel(error) => kernel(error),
            Self::Boot(error) => Problem::new(
                "the guest can't be put into its memory",
                error.to_string(),
                "give more --memory or a smaller kernel, initramfs or command line",
            ),
            Self::Layout(error) => Problem::new(
                "the guest's address space is too small for its devices",
                error.to_string(),
                "assign fewer devices with large BARs, or use a host whose CPU has more address bits",
            ),
            Self::NoRoom(error) => Problem::new(
                "the guest's address space is too small for its devices",
                error.to_string(),
                "assign fewer devices to this guest",
            ),
            Self::Container(error) => container(error),
            Self::Device { host, source } => device(*host, source),
            Self::Iova { ram, usable } => iova(ram, usable),
            Self::DmaMap(error) => Problem::new(
                "guest RAM can't be mapped for DMA",
                format!("{error}: {}", why(error)),
                "see 'dmesg': a memory-locking limit (ulimit -l) or the IOMMU's address width",
            ),
            Self::SerialFile { path, .. } => Problem::new(
                format!("the serial console can't go to {}", path.display()),
                why(self),
                "name a file in a folder that exists and is yours",
            ),
            Self::Routing(_)
            | Self::Map(_)
            | Self::Acpi(_)
            | Self::GuestMemory { .. }
            | Self::Plan(_)
            | Self::Occupied(_)
            | Self::Bus(_)
            | Self::Process { .. } => Problem::new(
                self.to_string(),
                why(self),
                "run again with -vv and report what it prints: this is not expected",
            ),
        }
    }
}

fn round_down(bytes: u64) -> u64 {
    bytes / MIB / 2 * 2
}

fn kvm(error: &KvmError) -> Problem {
    let remedy = match error {
        KvmError::Open(_) => {
            "load the module: modprobe kvm_intel (or kvm_amd); check /dev/kvm's mode"
        }
        KvmError::TooManyCpus { .. } => "give fewer --cpus",
        KvmError::Version(_) | KvmError::Lacks(_) | KvmError::Ioctl { .. } => {
            "use a newer host kernel, and see 'dmesg' for what KVM said"
        }
    };
    Problem::new(
        "this host's KVM can't run the guest",
        format!("{error}: {}", why(error)),
        remedy,
    )
}

fn ram(error: &RamError) -> Problem {
    Problem::new(
        error.to_string(),
        why(error),
        "give less --memory, or free memory on the host",
    )
}

fn kernel(error: &KernelError) -> Problem {
    match error {
        KernelError::Read { path, .. } => Problem::new(
            format!("{} can't be read", path.display()),
            why(error),
            format!("check the path: ls -l {}", path.display()),
        ),
        KernelError::NoKernel { path, found } => Problem::new(
            format!("{} is no x86-64 Linux kernel", path.display()),
            (*found).to_owned(),
            "give a bzImage (as /boot/vmlinuz-*) or an uncompressed ELF vmlinux to --kernel",
        ),
        KernelError::Fit { path, .. } => Problem::new(
            format!("{} doesn't fit the guest's RAM", path.display()),
            why(error),
            "give more --memory",
        ),
        KernelError::Load { path, .. } => Problem::new(
            format!("{} can't be loaded", path.display()),
            why(error),
            "the file may be cut off: compare its size with the original's",
        ),
    }
}

fn device(host: HostSbdf, error: &VfioError) -> Problem {
    if let VfioError::Container(error) = error {
        return container(error);
    }
    Problem::new(
        format!("{host} can't be assigned"),
        format!("{error}: {}", why(error)),
        "see 'dmesg' for what vfio-pci said of the device",
    )
}

/// Errors of opening a group are known only here: preflight opens nothing.
fn container(error: &ContainerError) -> Problem {
    let root = HostRoot::system();
    if let ContainerError::Device { sbdf, source } = error {
        let group = root.function(*sbdf).ok().and_then(|f| f.group);
        match (source, group) {
            (vfio_ioctls::VfioError::OpenGroup(errno, _), Some(group))
                if errno.raw_os_error() == Some(libc::EBUSY) =>
            {
                return explain_busy(&root, group);
            }
            (vfio_ioctls::VfioError::ContainerSetIOMMU(errno), Some(group))
                if errno.errno() == libc::EPERM =>
            {
                return explain_eperm_on_attach(&root, *sbdf, group);
            }
            _ => {}
        }
        return Problem::new(
            format!("{sbdf} can't be assigned"),
            why(error),
            "see 'dmesg' for what VFIO said of the device",
        );
    }
    Problem::new(
        "the VFIO container can't be had",
        format!("{error}: {}", why(error)),
        "load the modules: modprobe vfio-pci vfio_iommu_type1",
    )
}

fn iova(ram: &RangeInclusive<u64>, usable: &[RangeInclusive<u64>]) -> Problem {
    let range = |range: &RangeInclusive<u64>| format!("{:#x}-{:#x}", range.start(), range.end());
    let usable: Vec<String> = usable.iter().map(range).collect();
    Problem::new(
        format!("the IOMMU can't map guest RAM {}", range(ram)),
        format!(
            "it maps only {} (reserved ranges and its address width)",
            usable.join(", ")
        ),
        "give less --memory, so that guest RAM ends below the reserved range",
    )
}
