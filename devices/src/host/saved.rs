//! Saved hosts for tests: the files and links of sysfs, procfs and /dev below a temporary directory.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::{
    HostRoot, Memlock, NodeAccess, Problem, ProcessLimits, RunRequirements, Verdict, preflight,
};
use crate::pci::HostSbdf;

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn sbdf(text: &str) -> HostSbdf {
    text.parse().unwrap()
}

/// A host under construction.
pub(crate) struct SavedHost {
    directory: TempDir,
}

/// A function of it: address, `vendor:device`, class.
pub(crate) type Identity<'a> = (&'a str, &'a str, &'a str);

pub(crate) const NIC: Identity<'_> = ("0000:03:00.0", "8086:10c9", "0x020000");
pub(crate) const GPU: Identity<'_> = ("0000:01:00.0", "10de:2684", "0x030000");
pub(crate) const GPU_AUDIO: Identity<'_> = ("0000:01:00.1", "10de:22ba", "0x040300");
pub(crate) const ROOT_PORT: Identity<'_> = ("0000:00:01.0", "8086:460d", "0x060400");

const INTEL: &str = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx msr\n";
const AMD: &str = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm msr\n";

impl SavedHost {
    pub(crate) fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A healthy Intel host: NIC on vfio-pci alone in group 16, GPU with its audio function and the
    /// root port above them in group 14, on their host drivers.
    pub(crate) fn intel() -> Self {
        let host = Self::without_iommu(INTEL);
        host.file("sys/firmware/acpi/tables/DMAR", "");
        host.file("sys/class/iommu/dmar0/intel-iommu/ecap", "f050df\n");
        host.file("sys/kernel/irq/9/chip_name", "IR-IO-APIC\n");
        host.function(ROOT_PORT, Some("pcieport"), Some(14));
        host.function(GPU, Some("nvidia"), Some(14));
        host.function(GPU_AUDIO, Some("snd_hda_intel"), Some(14));
        host.function(NIC, Some("vfio-pci"), Some(16));
        host.file("dev/vfio/16", "");
        host
    }

    /// The same NIC on an AMD host.
    pub(crate) fn amd() -> Self {
        let host = Self::without_iommu(AMD);
        host.file("sys/firmware/acpi/tables/IVRS", "");
        host.file("sys/class/iommu/ivhd0/amd-iommu/cap", "40f19ff\n");
        host.file("sys/kernel/irq/9/chip_name", "IR-IO-APIC\n");
        host.function(NIC, Some("vfio-pci"), Some(16));
        host.file("dev/vfio/16", "");
        host
    }

    /// A host with KVM and vfio, but no IOMMU and no functions.
    pub(crate) fn without_iommu(cpuinfo: &str) -> Self {
        let host = Self::empty();
        host.file("proc/cpuinfo", cpuinfo);
        host.file("proc/cmdline", "root=/dev/sda1 quiet\n");
        host.file("proc/sys/kernel/osrelease", "6.12.9-amd64\n");
        host.file("dev/kvm", "");
        host.file("dev/vfio/vfio", "");
        host.file("sys/bus/pci/drivers/vfio-pci/new_id", "");
        let parameters = "sys/module/vfio_iommu_type1/parameters";
        host.file(&format!("{parameters}/allow_unsafe_interrupts"), "N\n");
        host
    }

    pub(crate) fn intel_without_iommu() -> Self {
        Self::without_iommu(INTEL)
    }

    pub(crate) fn amd_without_iommu() -> Self {
        Self::without_iommu(AMD)
    }

    pub(crate) fn file(&self, relative: &str, text: impl AsRef<[u8]>) {
        let path = self.directory.path().join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, relative: &str, target: &str) {
        let path = self.directory.path().join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub(crate) fn remove(&self, relative: &str) {
        let path = self.directory.path().join(relative);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub(crate) fn function(
        &self,
        identity: Identity<'_>,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let (sbdf, ids, class) = identity;
        let (vendor, device) = ids.split_once(':').unwrap();
        let directory = format!("sys/bus/pci/devices/{sbdf}");
        self.file(&format!("{directory}/vendor"), format!("0x{vendor}\n"));
        self.file(&format!("{directory}/device"), format!("0x{device}\n"));
        self.file(&format!("{directory}/class"), format!("{class}\n"));
        let mut config = [0_u8; 64];
        // Multi-function bit set: it is no part of the header type.
        config[0x0e] = if class.starts_with("0x0604") {
            0x81
        } else {
            0x80
        };
        self.file(&format!("{directory}/config"), config);
        if let Some(driver) = driver {
            let target = format!("../../../../bus/pci/drivers/{driver}");
            self.link(&format!("{directory}/driver"), &target);
        }
        if let Some(group) = group {
            let target = format!("../../../../kernel/iommu_groups/{group}");
            self.link(&format!("{directory}/iommu_group"), &target);
            let member = format!("sys/kernel/iommu_groups/{group}/devices/{sbdf}");
            self.link(&member, &format!("../../../../devices/pci/{sbdf}"));
            self.file(
                &format!("sys/kernel/iommu_groups/{group}/reserved_regions"),
                "0x00000000fee00000 0x00000000feefffff msi\n",
            );
        }
    }

    pub(crate) fn root(&self) -> HostRoot {
        HostRoot::at(self.directory.path())
    }

    /// Problems of a run with 8 GiB.
    pub(crate) fn problems(&self, devices: &[&str], limits: &FakeLimits) -> Vec<Problem> {
        let devices: Vec<_> = devices.iter().map(|text| sbdf(text)).collect();
        let requirements = RunRequirements {
            devices: &devices,
            guest_ram: 8 * GIB,
            ..RunRequirements::default()
        };
        let problems = preflight(&self.root(), &requirements, limits)
            .err()
            .unwrap_or_default();
        for problem in &problems {
            assert!(problem.what.chars().count() <= 100, "{problem}");
            assert_eq!(problem.to_string().lines().count(), 3, "{problem}");
        }
        problems
    }

    /// The one problem of a run, as the user sees it.
    pub(crate) fn problem(&self, devices: &[&str], limits: &FakeLimits) -> String {
        let problems = self.problems(devices, limits);
        let [problem] = problems.as_slice() else {
            panic!("{problems:#?}");
        };
        problem.to_string()
    }
}

/// A process that may do all, less what a test takes away.
pub(crate) struct FakeLimits {
    pub(crate) memlock: Memlock,
    pub(crate) exempt: bool,
    /// Last components of nodes that are denied, with group, mode and verdict.
    pub(crate) denied: Vec<(&'static str, &'static str, u32, Verdict)>,
}

impl FakeLimits {
    pub(crate) fn generous() -> Self {
        Self {
            memlock: Memlock {
                soft: None,
                hard: None,
            },
            exempt: false,
            denied: Vec::new(),
        }
    }

    pub(crate) fn denying(
        node: &'static str,
        group: &'static str,
        mode: u32,
        verdict: Verdict,
    ) -> Self {
        Self {
            denied: vec![(node, group, mode, verdict)],
            ..Self::generous()
        }
    }
}

impl ProcessLimits for FakeLimits {
    fn memlock(&self) -> Memlock {
        self.memlock
    }

    fn exempt_from_memlock(&self) -> bool {
        self.exempt
    }

    fn access(&self, node: &Path) -> io::Result<Option<NodeAccess>> {
        if !node.exists() {
            return Ok(None);
        }
        let denied = self.denied.iter().find(|(name, ..)| node.ends_with(name));
        let (group, mode, verdict) = denied.map_or(
            ("root", 0o666, Verdict::Granted),
            |(_, group, mode, verdict)| (group, *mode, *verdict),
        );
        Ok(Some(NodeAccess {
            owner: "root".to_owned(),
            group: group.to_owned(),
            mode,
            verdict,
        }))
    }
}
