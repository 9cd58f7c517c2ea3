//! Whether L1 is emulated or accelerated by the host's KVM.

use std::env;
use std::fs::{self, OpenOptions};

use anyhow::{Result, bail};

/// How L1 is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Emulation: slower, but works everywhere, virtualisation for L2 included.
    Tcg,
    /// The host's KVM, which must be able to nest.
    Kvm,
}

impl Accel {
    /// `FERRY_LAB_ACCEL` decides; without it, KVM is used only if the host certainly nests guests.
    pub fn choose() -> Result<Self> {
        match env::var("FERRY_LAB_ACCEL").as_deref() {
            Ok("tcg") => Ok(Self::Tcg),
            Ok("kvm") => Ok(Self::Kvm),
            Ok(other) => bail!("FERRY_LAB_ACCEL is {other}; it may be tcg or kvm"),
            Err(_) if host_nests() => Ok(Self::Kvm),
            Err(_) => Ok(Self::Tcg),
        }
    }

    /// QEMU arguments for the processor and the interrupt controller.
    pub(super) fn qemu_args(self) -> &'static [&'static str] {
        match self {
            Self::Tcg => &[
                "-machine",
                "q35,kernel-irqchip=off",
                "-accel",
                // With a thread for each processor guests stop answering now and then (ADR 0007).
                "tcg,thread=single,tb-size=1024",
                "-cpu",
                // String instructions are slow under emulation. With five-level paging L1 triple-faults or hangs where many
                // processors of a guest run on it: within 6 guests of 16 vCPUs, twice of twice.
                "max,-erms,-fsrm,-la57",
            ],
            // Interrupt remapping by the emulated IOMMU needs the IOAPIC outside the kernel.
            Self::Kvm => &[
                "-machine",
                "q35,kernel-irqchip=split",
                "-accel",
                "kvm",
                "-cpu",
                "host",
            ],
        }
    }
}

/// Some hosts offer a `/dev/kvm` that cannot run a whole PC, let alone nest: the device alone proves nothing.
fn host_nests() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nested = |module: &str| {
        fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).unwrap_or_default()
    };
    let usable = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
    };
    nests(&flags, &nested("kvm_intel"), &nested("kvm_amd")) && usable()
}

fn nests(cpuinfo: &str, kvm_intel: &str, kvm_amd: &str) -> bool {
    let flag = |name: &str| {
        cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
            .is_some_and(|(_, flags)| flags.split_whitespace().any(|flag| flag == name))
    };
    let yes = |value: &str| matches!(value.trim(), "Y" | "1");
    (flag("vmx") && yes(kvm_intel)) || (flag("svm") && yes(kvm_amd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_both_the_processor_flag_and_nesting() {
        let vmx = "flags\t\t: fpu vmx sse\n";
        let svm = "flags\t\t: fpu svm sse\n";
        assert!(nests(vmx, "Y\n", ""));
        assert!(nests(svm, "", "1\n"));
        assert!(!nests(vmx, "N\n", "Y"));
        assert!(!nests("flags : fpu svm_lock\n", "Y", "Y"));
        assert!(!nests("", "", ""));
    }
}
