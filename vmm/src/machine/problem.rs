//! What a user is told when a machine can't be built: what, why, what to do.

use super::{KernelError, MachineError};
use crate::kvm::KvmError;
use crate::memory::RamError;
use arch::x86_64::boot::BootError;
use arch::x86_64::layout::LayoutError;
use devices::host::{
    HostRoot, Problem, ReservedIova, explain_busy, explain_eperm_on_attach, explain_huge_pages,
    explain_shared_line,
};
use devices::pci::HostSbdf;
use devices::vfio::{ContainerError, GroupError, PlanError, VfioError};
use std::error::Error;
use std::ops::RangeInclusive;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// The causes of `error`, without itself; its own text when it has none.
fn why(error: &dyn Error) -> String {
    let causes = causes(error);
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}

/// `error` and its causes.
fn with_causes(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    texts.extend(causes(error));
    texts.join(": ")
}

/// Some crates repeat a cause in the text of the error it caused: it is told once.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut told = error.to_string();
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !told.contains(&text) {
            causes.push(text.clone());
            told = text;
        }
        source = cause.source();
    }
    causes
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
                "give fewer --cpus, or see what KVM said: sudo dmesg | tail",
            ),
            Self::Ram(error) => ram(error),
            Self::HostMemory {
                asked,
                present,
                pinned,
            } => host_memory(*asked, *present, *pinned),
            Self::Kernel(error) => kernel(error),
            Self::Boot(error) => boot(error),
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
            Self::Host(error) => error.problem(),
            Self::RamPlace { in_the_way, source } => ram_place(in_the_way.as_ref(), source),
            Self::DmaEntries { needed, available } => dma_entries(*needed, *available),
            Self::Iova { ram, usable } => iova(ram, usable),
            Self::Plan(error) => plan(error),
            Self::DmaMap(error) => Problem::new(
                "guest RAM can't be mapped for DMA",
                with_causes(error),
                "a limit on locked memory (ulimit -l) or the IOMMU's address width; see: sudo dmesg | tail",
            ),
            Self::Reserved(iova) => reserved(iova),
            Self::Ended => Problem::new(
                "the device was not added",
                self.to_string(),
                "see how, in the output of its ferry run",
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
            | Self::Occupied(_)
            | Self::Bus(_)
            | Self::Process { .. } => unexpected(self),
        }
    }
}

fn unexpected(error: &dyn Error) -> Problem {
    Problem::new(
        error.to_string(),
        why(error),
        "run again with -vv and report what it prints: this is not expected",
    )
}

fn plan(error: &PlanError) -> Problem {
    match error {
        PlanError::InterruptLine(host) => explain_shared_line(&HostRoot::system(), *host),
        PlanError::NoRom(_) => Problem::new(
            error.to_string(),
            "VFIO describes none: the device has none, or what it has does not begin with 55 aa",
            "leave rom=on out, or give a file that holds one: rom=PATH",
        ),
        PlanError::Absent(host) => Problem::new(
            format!("{host} does not answer"),
            "its configuration space reads as ones: it is gone, or in a power state from which it doesn't wake",
            format!("see what the host makes of it: lspci -vvs {host}"),
        ),
        _ => unexpected(error),
    }
}

fn host_memory(asked: u64, present: u64, pinned: bool) -> Problem {
    let most = round_down(present);
    let present = present / MIB;
    let (why, remedy) = if pinned {
        (
            format!("a device's DMA can hit any page, so all are pinned; {present} MiB are free"),
            format!("give --memory {most}M or less, or end what else takes memory"),
        )
    } else {
        (
            format!("the host has {present} MiB in all"),
            format!("give --memory {most}M or less"),
        )
    };
    Problem::new(
        format!("a guest with {} MiB does not fit this host", asked / MIB),
        why,
        remedy,
    )
}

fn round_down(bytes: u64) -> u64 {
    bytes / MIB / 2 * 2
}

fn kvm(error: &KvmError) -> Problem {
    let remedy = match error {
        KvmError::Open(_) => "look at the node, which is 'c 10, 232': ls -l /dev/kvm",
        // Not the answer of any KVM: the ioctl itself was refused.
        KvmError::Version(..=0) => {
            return Problem::new(
                "/dev/kvm is not KVM",
                "it is another device or file of that name: it does not know KVM_GET_API_VERSION",
                "look at the node, which should be 'c 10, 232': ls -l /dev/kvm",
            );
        }
        KvmError::TooManyCpus { .. } => "give fewer --cpus",
        KvmError::Version(_) | KvmError::Lacks(_) | KvmError::Ioctl { .. } => {
            "use a newer host kernel, or see what KVM said: sudo dmesg | tail"
        }
    };
    Problem::new(
        "this host's KVM can't run the guest",
        with_causes(error),
        remedy,
    )
}

fn ram(error: &RamError) -> Problem {
    if let RamError::HugePages { size, page, .. } = error {
        return explain_huge_pages(&HostRoot::system(), *size, *page);
    }
    Problem::new(
        error.to_string(),
        why(error),
        "give less --memory, or free memory on the host",
    )
}

fn boot(error: &BootError) -> Problem {
    let what = match error {
        BootError::CommandLineTooLong { .. } | BootError::CommandLineNul { .. } => {
            "the kernel can't be given this command line"
        }
        _ => "the guest can't be put into its memory",
    };
    Problem::new(what, error.to_string(), fit_remedy(error))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn kernel(error: &KernelError) -> Problem {
    match error {
        KernelError::Read { path, .. } => Problem::new(
            format!("{} can't be read", path.display()),
            why(error),
            format!("check the path: ls -ld {}", quoted(path)),
        ),
        KernelError::NoKernel { path, found } => Problem::new(
            format!("{} is no x86-64 Linux kernel", path.display()),
            (*found).to_owned(),
            "give a bzImage (as /boot/vmlinuz-*) or an uncompressed ELF vmlinux to --kernel",
        ),
        KernelError::CutOff { path, len, needed } => Problem::new(
            format!("{} is cut off", path.display()),
            format!("it has {len} bytes, by its own headers it should have {needed}"),
            format!("copy it again, and compare: ls -l {}", quoted(path)),
        ),
        KernelError::EmptyInitramfs { path } => Problem::new(
            format!("{} is no initramfs", path.display()),
            "it is empty",
            "give a cpio archive (as /boot/initrd.img-*) to --initramfs, or leave it out",
        ),
        KernelError::Fit { path, source } => Problem::new(
            format!("{} doesn't fit the guest's RAM", path.display()),
            source.to_string(),
            fit_remedy(source),
        ),
        KernelError::Load { path, .. } => Problem::new(
            format!("{} can't be loaded", path.display()),
            // The loader begins the text of every error so.
            why(error).replace("Kernel Loader: ", ""),
            "give a bzImage (as /boot/vmlinuz-*) or an uncompressed ELF vmlinux to --kernel",
        ),
    }
}

fn fit_remedy(error: &BootError) -> String {
    let more = |needed: u64, available: u64| {
        let missing = needed.saturating_sub(available).next_multiple_of(2 * MIB) / MIB;
        format!("give at least {missing} MiB more --memory")
    };
    match error {
        BootError::CommandLineTooLong { len, max } => {
            format!("shorten --cmdline by {} bytes", len - max)
        }
        BootError::CommandLineNul { .. } => "leave the NUL byte out of --cmdline".to_owned(),
        BootError::No64BitEntry { .. } => "use an x86-64 kernel of version 3.8 or later".to_owned(),
        BootError::KernelDoesNotFit {
            needed, available, ..
        } => more(*needed, *available),
        BootError::InitramfsDoesNotFit { needed, limit, .. } if needed >= limit => {
            "use a smaller initramfs: no --memory makes room for this one".to_owned()
        }
        BootError::InitramfsDoesNotFit {
            needed, available, ..
        } => more(*needed, *available) + " or a smaller initramfs",
        BootError::MemoryMapTooLong { .. } => "give less --memory".to_owned(),
    }
}

fn device(host: HostSbdf, error: &VfioError) -> Problem {
    if let VfioError::Container(error) = error {
        return container(error);
    }
    Problem::new(
        format!("{host} can't be assigned"),
        with_causes(error),
        "see what vfio-pci said of the device: sudo dmesg | tail",
    )
}

/// Errors of opening a group are known only here: preflight opens nothing.
fn container(error: &ContainerError) -> Problem {
    let root = HostRoot::system();
    if let ContainerError::Device { sbdf, source } = error {
        let group = root.function(*sbdf).ok().and_then(|f| f.group);
        match (source, group) {
            (GroupError::Open { source, .. }, Some(group))
                if source.raw_os_error() == Some(libc::EBUSY) =>
            {
                return explain_busy(&root, group);
            }
            (GroupError::Iommu { source, .. }, Some(group))
                if source.raw_os_error() == Some(libc::EPERM) =>
            {
                return explain_eperm_on_attach(&root, *sbdf, group);
            }
            (GroupError::Elsewhere { group, .. }, _) => {
                return Problem::new(
                    format!("{sbdf} can't be assigned"),
                    format!("whoever has passed /dev/vfio/{group} has a device of it open"),
                    "open the group and nothing of it there",
                );
            }
            (GroupError::SharedContainer, _) => {
                return Problem::new(
                    format!("{sbdf} can't be assigned"),
                    "the container that was passed has another group in it, whose devices would reach guest RAM, too",
                    "pass a container of its own, or leave --vfio-container out",
                );
            }
            _ => {}
        }
        return Problem::new(
            format!("{sbdf} can't be assigned"),
            why(error),
            "see what VFIO said of the device: sudo dmesg | tail",
        );
    }
    Problem::new(
        "the VFIO container can't be had",
        with_causes(error),
        "load the modules: sudo modprobe -a vfio-pci vfio_iommu_type1",
    )
}

fn dma_entries(needed: usize, available: u64) -> Problem {
    Problem::new(
        format!(
            "guest RAM can't be mapped for DMA: it takes {needed} mappings, and {available} are left"
        ),
        "vfio_iommu_type1 limits the mappings of a container (dma_entry_limit)",
        "raise the limit: echo 65535 | sudo tee /sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
    )
}

fn ram_place(in_the_way: Option<&ReservedIova>, error: &LayoutError) -> Problem {
    match (error, in_the_way) {
        (LayoutError::FirstPage { page, .. }, Some(iova)) => Problem::new(
            "guest RAM can't lie where an IOMMU reaches it",
            format!(
                "{iova}; it lies in the first {} MiB of RAM, which can't be moved",
                page / MIB
            ),
            format!(
                "{}don't assign {}, or look for a firmware setting or update that frees the range",
                if *page > 2 * MIB {
                    "use smaller huge pages, "
                } else {
                    ""
                },
                iova.sbdf
            ),
        ),
        (LayoutError::Ram { available, .. }, _) => Problem::new(
            "guest RAM has no room in the guest's address space",
            match in_the_way {
                Some(iova) => format!("{error}; {iova}"),
                None => error.to_string(),
            },
            format!("give --memory {}M or less", round_down(*available)),
        ),
        _ => Problem::new(
            "guest RAM has no room in the guest's address space",
            error.to_string(),
            "give less --memory",
        ),
    }
}

fn reserved(iova: &ReservedIova) -> Problem {
    Problem::new(
        format!(
            "{} can't join the guest: its IOMMU can't map guest RAM",
            iova.sbdf
        ),
        format!("{iova}; a guest's RAM lies around what the devices of its start reserve"),
        format!(
            "give it to a guest at the start: --device host={}",
            iova.sbdf
        ),
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
