//! Whether this host offers KVM to this process.

use std::path::PathBuf;

use super::cpu::CpuVendor;
use super::limits::{NodeAccess, ProcessLimits, Verdict};
use super::problem::Problem;
use super::root::{HostError, HostRoot};

/// Why KVM can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmObstacle {
    /// The CPU shows neither VT-x nor AMD-V.
    #[error("/dev/kvm is missing: this CPU offers no virtualisation")]
    NoVirtualisation {
        /// Whether this host is itself a guest.
        nested: bool,
    },
    /// The CPU can, but the KVM module is not loaded.
    #[error("/dev/kvm is missing: the KVM module is not loaded")]
    NotLoaded {
        /// Module for this CPU: `kvm_intel` or `kvm_amd`.
        module: &'static str,
    },
    /// KVM is there, its node isn't: a container that was not given it.
    #[error("/dev/kvm is missing although KVM is loaded")]
    NotPassedIn,
    /// The node's owner, group, mode or the device policy keep this process out.
    #[error("can't open /dev/kvm: permission denied")]
    Denied {
        /// The node and the kernel's verdict.
        access: NodeAccess,
    },
}

/// Looks at `/dev/kvm`, and at the CPU only if that isn't there.
pub(super) fn check(
    root: &HostRoot,
    limits: &dyn ProcessLimits,
) -> Result<Option<KvmObstacle>, HostError> {
    let node = root.path("dev/kvm");
    let found = limits.access(&node).map_err(|source| HostError::Read {
        path: PathBuf::from("/dev/kvm"),
        source,
    })?;
    match found {
        None => Ok(Some(absent(root))),
        Some(access) if access.verdict != Verdict::Granted => {
            Ok(Some(KvmObstacle::Denied { access }))
        }
        Some(_) => Ok(None),
    }
}

fn absent(root: &HostRoot) -> KvmObstacle {
    let cpuinfo = root.text_or_empty("proc/cpuinfo");
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    // A CPU whose firmware has locked VT-x off loses the flag too (feat_ctl.c, since 5.6).
    if !has("vmx") && !has("svm") {
        return KvmObstacle::NoVirtualisation {
            nested: has("hypervisor"),
        };
    }
    if root.exists("sys/module/kvm_intel") || root.exists("sys/module/kvm_amd") {
        return KvmObstacle::NotPassedIn;
    }
    let module = match CpuVendor::of(&cpuinfo) {
        CpuVendor::Amd => "kvm_amd",
        CpuVendor::Intel | CpuVendor::Other => "kvm_intel",
    };
    KvmObstacle::NotLoaded { module }
}

impl KvmObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::NoVirtualisation { nested: true } => (
                "this host is a virtual machine whose CPU shows no vmx or svm flag".to_owned(),
                "turn nested virtualisation on where it runs, or use a CPU model that has it \
                 (QEMU: -cpu host)"
                    .to_owned(),
            ),
            Self::NoVirtualisation { nested: false } => (
                "/proc/cpuinfo lists neither vmx nor svm".to_owned(),
                "turn VT-x (Intel) or SVM (AMD) on in the firmware setup, then power-cycle"
                    .to_owned(),
            ),
            Self::NotLoaded { module } => (
                format!("the CPU can virtualise, but {module} is not loaded"),
                format!("sudo modprobe {module}"),
            ),
            Self::NotPassedIn => (
                "its module is loaded, so the node was removed or this is a container without it"
                    .to_owned(),
                "give the container the node (docker, podman: --device /dev/kvm); where it is no \
                 container, make it: sudo mknod /dev/kvm c 10 232"
                    .to_owned(),
            ),
            Self::Denied { access } => (
                access.reason(),
                match access.verdict {
                    Verdict::DeniedByPolicy => access.policy_remedy("/dev/kvm"),
                    Verdict::Granted | Verdict::DeniedByMode => {
                        access.join_remedy().unwrap_or_else(|| {
                            "until the next boot: sudo chown $USER /dev/kvm".to_owned()
                        })
                    }
                },
            ),
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Verdict;
    use crate::host::saved::{FakeLimits, SavedHost};

    fn without_node(cpuinfo: &str) -> SavedHost {
        let host = SavedHost::without_iommu(cpuinfo);
        host.remove("dev/kvm");
        host
    }

    #[test]
    fn cpu_without_vmx_or_svm() {
        assert_eq!(
            without_node("vendor_id\t: GenuineIntel\nflags\t\t: fpu msr\n")
                .problem(&[], &FakeLimits::generous()),
            "/dev/kvm is missing: this CPU offers no virtualisation\n  \
             why: /proc/cpuinfo lists neither vmx nor svm\n  \
             fix: turn VT-x (Intel) or SVM (AMD) on in the firmware setup, then power-cycle"
        );
        assert!(
            without_node("vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\n")
                .problem(&[], &FakeLimits::generous())
                .contains("turn nested virtualisation on where it runs")
        );
    }

    #[test]
    fn module_not_loaded_is_named_for_the_cpu() {
        for (vendor, flag, module) in [
            ("GenuineIntel", "vmx", "kvm_intel"),
            ("AuthenticAMD", "svm", "kvm_amd"),
        ] {
            let host = without_node(&format!("vendor_id\t: {vendor}\nflags\t\t: fpu {flag}\n"));
            assert_eq!(
                host.problem(&[], &FakeLimits::generous()),
                format!(
                    "/dev/kvm is missing: the KVM module is not loaded\n  \
                     why: the CPU can virtualise, but {module} is not loaded\n  \
                     fix: sudo modprobe {module}"
                )
            );
        }
    }

    #[test]
    fn container_without_the_node() {
        let host = without_node("vendor_id\t: GenuineIntel\nflags\t\t: vmx\n");
        host.file("sys/module/kvm_intel/parameters/nested", "Y\n");
        let text = host.problem(&[], &FakeLimits::generous());
        assert!(text.contains("docker, podman: --device /dev/kvm"), "{text}");
    }

    #[test]
    fn node_of_group_kvm_is_joined() {
        let limits = FakeLimits::denying("kvm", "kvm", 0o660, Verdict::DeniedByMode);
        assert_eq!(
            SavedHost::intel().problem(&[], &limits),
            "can't open /dev/kvm: permission denied\n  \
             why: owner root, group kvm, mode 0660: that leaves this user out\n  \
             fix: join its group, then log out and in again: sudo usermod -aG kvm $USER"
        );
    }

    #[test]
    fn node_of_group_root_is_never_joined() {
        let limits = FakeLimits::denying("kvm", "root", 0o660, Verdict::DeniedByMode);
        let text = SavedHost::intel().problem(&[], &limits);
        assert!(
            text.ends_with("until the next boot: sudo chown $USER /dev/kvm"),
            "{text}"
        );
    }

    #[test]
    fn device_cgroup_is_told_from_mode() {
        let limits = FakeLimits::denying("kvm", "kvm", 0o666, Verdict::DeniedByPolicy);
        let text = SavedHost::intel().problem(&[], &limits);
        assert!(text.contains("a device cgroup or a security module forbids it"));
        assert!(text.contains("DeviceAllow=/dev/kvm rw"), "{text}");
    }
}
