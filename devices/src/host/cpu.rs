//! What of the CPU decides which remedy fits.

use super::root::HostRoot;

/// Who made the CPU, and so whose IOMMU and KVM module the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuVendor {
    /// Intel: VT-x, VT-d, ACPI table DMAR.
    Intel,
    /// AMD or Hygon: AMD-V, AMD-Vi, ACPI table IVRS.
    Amd,
    /// Any other.
    Other,
}

impl CpuVendor {
    /// From the text of `/proc/cpuinfo`.
    #[must_use]
    pub fn of(cpuinfo: &str) -> Self {
        let vendor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("vendor_id"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim());
        match vendor {
            Some("GenuineIntel") => Self::Intel,
            Some("AuthenticAMD" | "HygonGenuine") => Self::Amd,
            _ => Self::Other,
        }
    }
}

impl HostRoot {
    /// Vendor of the host's CPU. Reading `/proc/cpuinfo` is slow on large hosts: ask only when a
    /// problem is being explained.
    #[must_use]
    pub fn cpu_vendor(&self) -> CpuVendor {
        CpuVendor::of(&self.text_or_empty("proc/cpuinfo"))
    }

    /// Whether this host is itself a guest of some hypervisor.
    pub(super) fn is_guest(&self) -> bool {
        self.text_or_empty("proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    }

    /// How many bits a physical address of the CPU has: `address sizes : 46 bits physical, 48 bits virtual`.
    pub(super) fn physical_bits(&self) -> Option<u32> {
        let cpuinfo = self.text_or_empty("proc/cpuinfo");
        let sizes = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("address sizes"))?;
        let (_, sizes) = sizes.split_once(':')?;
        sizes.split_whitespace().next()?.parse().ok()
    }

    /// Value of the last `key=value` on the kernel's command line, the one that counts.
    pub(super) fn kernel_argument(&self, key: &str) -> Option<String> {
        self.text_or_empty("proc/cmdline")
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .rfind(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
    }

    /// Major and minor number of the running kernel.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        let release = self.text_or_empty("proc/sys/kernel/osrelease");
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}
