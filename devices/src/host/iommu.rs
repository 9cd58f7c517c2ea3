//! Why a function has no usable IOMMU group.

use super::cpu::CpuVendor;
use super::group;
use super::problem::Problem;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

/// Why no IOMMU translates a function's DMA, or VFIO won't let it.
#[derive(Debug, thiserror::Error)]
pub enum IommuObstacle {
    /// The firmware describes no IOMMU.
    #[error("{sbdf} can't be assigned: the firmware reports no IOMMU")]
    NoTable {
        /// The function.
        sbdf: HostSbdf,
        /// Whose IOMMU is missing.
        vendor: CpuVendor,
        /// Whether this host is itself a guest.
        nested: bool,
    },
    /// The firmware describes one, the kernel doesn't drive it.
    #[error("{sbdf} can't be assigned: the IOMMU is off in the kernel")]
    Off {
        /// The function.
        sbdf: HostSbdf,
        /// The ACPI table that describes it: DMAR (VT-d), IVRS (AMD-Vi) or VIOT (virtio-iommu).
        table: &'static str,
        /// The kernel argument that turned it off, if one did.
        argument: Option<String>,
    },
    /// The kernel drives an IOMMU, but not for this function.
    #[error("{sbdf} can't be assigned: no IOMMU covers it")]
    NotCovered {
        /// The function.
        sbdf: HostSbdf,
        /// The IOMMUs there are, as `/sys/class/iommu` names them.
        units: Vec<String>,
    },
    /// VFIO's no-IOMMU mode made a group that translates nothing.
    #[error("{sbdf} can't be assigned: its group {group} is VFIO's no-IOMMU mode")]
    NoIommuMode {
        /// The function.
        sbdf: HostSbdf,
        /// Its group.
        group: u32,
    },
    /// The firmware demands that a range stay identity-mapped for it.
    #[error("{sbdf} can't be assigned: the firmware claims memory through it")]
    DirectMapping {
        /// The function.
        sbdf: HostSbdf,
        /// Its group.
        group: u32,
        /// First byte of the range.
        start: u64,
        /// Last byte of the range.
        end: u64,
    },
}

/// Why `sbdf` has no group.
pub(super) fn explain_absence(root: &HostRoot, sbdf: HostSbdf) -> Result<IommuObstacle, HostError> {
    let units = root.names("sys/class/iommu")?;
    if !units.is_empty() {
        return Ok(IommuObstacle::NotCovered { sbdf, units });
    }
    let tables = root.names("sys/firmware/acpi/tables")?;
    let described = ["DMAR", "IVRS", "VIOT"]
        .into_iter()
        .find(|table| tables.iter().any(|name| name == table));
    let Some(table) = described else {
        return Ok(IommuObstacle::NoTable {
            sbdf,
            vendor: root.cpu_vendor(),
            nested: root.is_guest(),
        });
    };
    let argument = ["intel_iommu", "amd_iommu", "iommu"]
        .iter()
        .find_map(|key| {
            let value = root.kernel_argument(key)?;
            (value == "off").then(|| format!("{key}={value}"))
        });
    Ok(IommuObstacle::Off {
        sbdf,
        table,
        argument,
    })
}

/// Whether the group of `sbdf` is one the kernel lets VFIO own.
pub(super) fn check_group(
    root: &HostRoot,
    sbdf: HostSbdf,
    id: u32,
) -> Result<Option<IommuObstacle>, HostError> {
    let name = root.text(group::directory(id).join("name"))?;
    if name.as_deref() == Some("vfio-noiommu") {
        return Ok(Some(IommuObstacle::NoIommuMode { sbdf, group: id }));
    }
    if !refuses_direct_mappings(root)? {
        return Ok(None);
    }
    let regions = root.reserved_regions(id)?;
    let direct = regions
        .iter()
        .find(|region| region.kind == group::ReservedRegionType::Direct);
    Ok(direct.map(|region| IommuObstacle::DirectMapping {
        sbdf,
        group: id,
        start: region.start,
        end: region.end,
    }))
}

/// VT-d has always refused such functions (EPERM), the IOMMU core does since 6.6 (EINVAL, commit
/// a48ce36e2786); before, AMD-Vi let them pass.
fn refuses_direct_mappings(root: &HostRoot) -> Result<bool, HostError> {
    if root
        .kernel_version()
        .is_some_and(|version| version >= (6, 6))
    {
        return Ok(true);
    }
    let units = root.names("sys/class/iommu")?;
    Ok(units.iter().any(|unit| unit.starts_with("dmar")))
}

/// Takes an argument off the kernel's command line; not out of the middle of a longer word.
pub(super) fn without_argument(argument: &str) -> String {
    edit_grub(&format!("s/ *\\b{argument}\\b//"))
}

fn edit_grub(script: &str) -> String {
    format!("sudo sed -i '{script}' /etc/default/grub && sudo update-grub && sudo reboot")
}

fn kernel_argument_command(argument: &str) -> String {
    edit_grub(&format!("s/^GRUB_CMDLINE_LINUX=\"/&{argument} /"))
}

impl IommuObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::NoTable { vendor, nested, .. } => no_table(*vendor, *nested),
            Self::Off {
                table, argument, ..
            } => off(table, argument.as_deref()),
            Self::NotCovered { sbdf, units } => (
                format!(
                    "the kernel drives {}, but gave {sbdf} no group",
                    units.join(", ")
                ),
                format!("see what the kernel said: sudo dmesg | grep -iE 'dmar|amd-vi|{sbdf}'"),
            ),
            Self::NoIommuMode { .. } => (
                "enable_unsafe_noiommu_mode is set: nothing would confine the device's DMA"
                    .to_owned(),
                "turn the IOMMU on (intel_iommu=on), or load vfio without \
                 enable_unsafe_noiommu_mode"
                    .to_owned(),
            ),
            Self::DirectMapping {
                group, start, end, ..
            } => (
                format!(
                    "group {group} has the range {start:#x}-{end:#x} of type 'direct' \
                     (RMRR or IVMD); the kernel won't hand it over"
                ),
                "turn Pre-boot or Kernel DMA Protection off in the firmware setup, or update the \
                 firmware"
                    .to_owned(),
            ),
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

fn no_table(vendor: CpuVendor, nested: bool) -> (String, String) {
    if nested {
        return (
            "this host is a virtual machine that was given none".to_owned(),
            "give it one (QEMU: -machine q35,kernel-irqchip=split -device \
             intel-iommu,intremap=on,caching-mode=on)"
                .to_owned(),
        );
    }
    let (table, name) = match vendor {
        CpuVendor::Intel => ("DMAR", "VT-d"),
        CpuVendor::Amd => ("IVRS", "IOMMU (AMD-Vi)"),
        CpuVendor::Other => ("DMAR or IVRS", "the IOMMU"),
    };
    (
        format!("there is no {table} table in /sys/firmware/acpi/tables"),
        format!("turn {name} on in the firmware setup, then power-cycle"),
    )
}

fn off(table: &str, argument: Option<&str>) -> (String, String) {
    if let Some(argument) = argument {
        return (
            format!("the kernel was started with {argument}"),
            // Taken away, VT-d would be on only where the kernel was built with it on.
            if argument == "intel_iommu=off" {
                edit_grub("s/intel_iommu=off/intel_iommu=on/")
            } else {
                without_argument(argument)
            },
        );
    }
    match table {
        "DMAR" => (
            "the firmware has a DMAR table, but the kernel was not told to use it".to_owned(),
            kernel_argument_command("intel_iommu=on"),
        ),
        _ => (
            format!("the firmware has an {table} table, but /sys/class/iommu is empty"),
            "see why it did not start: sudo dmesg | grep -iE 'amd-vi|iommu'".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{FakeLimits, NIC, SavedHost};

    fn problem(host: &SavedHost) -> String {
        host.function(NIC, Some("igb"), None);
        host.problem(&[NIC.0], &FakeLimits::generous())
    }

    #[test]
    fn firmware_without_dmar_table() {
        assert_eq!(
            problem(&SavedHost::intel_without_iommu()),
            "0000:03:00.0 can't be assigned: the firmware reports no IOMMU\n  \
             why: there is no DMAR table in /sys/firmware/acpi/tables\n  \
             fix: turn VT-d on in the firmware setup, then power-cycle"
        );
    }

    #[test]
    fn firmware_without_ivrs_table() {
        let text = problem(&SavedHost::amd_without_iommu());
        assert!(text.contains("there is no IVRS table"), "{text}");
        assert!(text.contains("turn IOMMU (AMD-Vi) on"), "{text}");
    }

    #[test]
    fn guest_without_virtual_iommu() {
        let cpuinfo = "vendor_id\t: GenuineIntel\nflags\t\t: vmx hypervisor\n";
        let text = problem(&SavedHost::without_iommu(cpuinfo));
        assert!(
            text.contains("intel-iommu,intremap=on,caching-mode=on"),
            "{text}"
        );
    }

    #[test]
    fn dmar_table_that_the_kernel_was_not_told_to_use() {
        let host = SavedHost::intel_without_iommu();
        host.file("sys/firmware/acpi/tables/DMAR", "");
        assert_eq!(
            problem(&host),
            "0000:03:00.0 can't be assigned: the IOMMU is off in the kernel\n  \
             why: the firmware has a DMAR table, but the kernel was not told to use it\n  \
             fix: sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub && sudo \
             update-grub && sudo reboot"
        );
    }

    #[test]
    fn kernel_argument_that_turned_it_off_is_named() {
        let host = SavedHost::amd_without_iommu();
        host.file("sys/firmware/acpi/tables/IVRS", "");
        host.file("proc/cmdline", "quiet amd_iommu=on amd_iommu=off\n");
        assert_eq!(
            problem(&host),
            "0000:03:00.0 can't be assigned: the IOMMU is off in the kernel\n  \
             why: the kernel was started with amd_iommu=off\n  \
             fix: sudo sed -i 's/ *\\bamd_iommu=off\\b//' /etc/default/grub && sudo update-grub && sudo \
             reboot"
        );
        host.file("proc/cmdline", "quiet\n");
        let text = problem(&host);
        assert!(
            text.contains("the firmware has an IVRS table, but /sys/class/iommu is empty"),
            "{text}"
        );
    }

    #[test]
    fn function_outside_every_iommu_names_the_units() {
        let host = SavedHost::intel_without_iommu();
        host.file("sys/class/iommu/dmar0/intel-iommu/ecap", "f050df\n");
        let text = problem(&host);
        assert!(
            text.contains("the kernel drives dmar0, but gave 0000:03:00.0 no group"),
            "{text}"
        );
    }

    #[test]
    fn no_iommu_mode_is_refused() {
        let host = SavedHost::intel();
        host.file("sys/kernel/iommu_groups/16/name", "vfio-noiommu\n");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(
            text.starts_with("0000:03:00.0 can't be assigned: its group 16 is VFIO's no-IOMMU")
        );
        assert!(text.contains("nothing would confine the device's DMA"));
    }

    #[test]
    fn direct_mapping_is_refused_by_the_kernels_that_refuse_it() {
        let region = "0x000000008b800000 0x000000009fffffff direct\n";
        let host = SavedHost::intel();
        host.file("sys/kernel/iommu_groups/16/reserved_regions", region);
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "0000:03:00.0 can't be assigned: the firmware claims memory through it\n  \
             why: group 16 has the range 0x8b800000-0x9fffffff of type 'direct' (RMRR or IVMD); the \
             kernel won't hand it over\n  \
             fix: turn Pre-boot or Kernel DMA Protection off in the firmware setup, or update the \
             firmware"
        );

        let older = SavedHost::amd();
        older.file("sys/kernel/iommu_groups/16/reserved_regions", region);
        older.file("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n");
        assert_eq!(older.problems(&[NIC.0], &FakeLimits::generous()), []);

        let relaxable = region.replace("direct", "direct-relaxable");
        host.file("sys/kernel/iommu_groups/16/reserved_regions", relaxable);
        assert_eq!(host.problems(&[NIC.0], &FakeLimits::generous()), []);
    }
}
