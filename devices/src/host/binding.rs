//! Which driver holds a function, and what that means for its group.

use std::fmt::Write;

use super::function::{self, HostFunction};
use super::group::IommuGroup;
use super::problem::{Problem, shell_word};
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

/// Why a function, or its group, can't be handed to VFIO as it is bound now.
#[derive(Debug, thiserror::Error)]
pub enum BindingObstacle {
    /// The same function was asked for twice.
    #[error("{sbdf} is given twice")]
    Duplicate {
        /// The function.
        sbdf: HostSbdf,
    },
    /// Header type 1 or 2: VFIO takes endpoints only.
    #[error("{function} is a bridge and can't be assigned")]
    Bridge {
        /// The bridge.
        function: HostFunction,
        /// Its header type.
        header_type: u8,
    },
    /// Some driver of the host, or none, has it.
    #[error("{function} is not bound to vfio-pci")]
    NotOnVfio {
        /// The function; `driver` says who has it.
        function: HostFunction,
        /// What the host knows it as: network interfaces, NVMe controllers.
        used_as: Vec<String>,
        /// Whether the vfio-pci module is loaded.
        vfio_pci_loaded: bool,
    },
    /// A bridge of the group, which can't be bound to vfio-pci, has a driver that keeps VFIO from the group.
    #[error("IOMMU group {group} of {sbdf} has a bridge that the host drives")]
    BridgeInGroup {
        /// The group.
        group: u32,
        /// The function asked for.
        sbdf: HostSbdf,
        /// The bridge with its driver.
        bridge: HostFunction,
    },
    /// Other members of the group are driven by the host.
    #[error("IOMMU group {group} of {sbdf} is shared with devices the host drives")]
    GroupNotViable {
        /// The group.
        group: u32,
        /// The function asked for.
        sbdf: HostSbdf,
        /// The members that stand in the way.
        offenders: Vec<HostFunction>,
        /// What the host knows these as.
        used_as: Vec<String>,
    },
}

/// Whether VFIO can own a group with a member bound to `driver`: the drivers that promise to leave
/// DMA alone (`driver_managed_dma`), which are the vfio drivers, pci-stub and pcieport.
fn leaves_dma_alone(driver: &str) -> bool {
    matches!(driver, "pci-stub" | "pcieport") || is_vfio(driver)
}

/// vfio-pci and its variants for one kind of device (`mlx5_vfio_pci`, `nvgrace-gpu-vfio-pci`, …).
#[must_use]
pub fn is_vfio(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}

impl HostFunction {
    /// Whether its class is that of a bridge: to the host, to ISA and so on. Those have the header of an endpoint.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        function::is_bridge_class(self.class)
    }

    /// Whether a vfio driver holds it, so that it can be opened through its group.
    #[must_use]
    pub fn on_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(is_vfio)
    }
}

impl IommuGroup {
    /// Members whose drivers keep VFIO from owning the group, without `asked`, which are judged on
    /// their own.
    #[must_use]
    pub fn offenders(&self, asked: &[HostSbdf]) -> Vec<HostFunction> {
        self.members
            .iter()
            .filter(|member| !asked.contains(&member.sbdf))
            .filter(|member| {
                let driver = member.driver.as_deref();
                driver.is_some_and(|driver| !leaves_dma_alone(driver))
            })
            .cloned()
            .collect()
    }
}

impl HostRoot {
    /// The header type of a bridge; `None` for an endpoint.
    pub(super) fn bridge_header(&self, function: &HostFunction) -> Result<Option<u8>, HostError> {
        let header_type = self.header_type(function.sbdf)?;
        Ok(Some(header_type).filter(|header_type| *header_type != 0 || function.is_bridge()))
    }
}

/// Whether `function` is an endpoint held by a vfio driver.
pub(super) fn check(
    root: &HostRoot,
    function: &HostFunction,
) -> Result<Option<BindingObstacle>, HostError> {
    // A function on vfio-pci is an endpoint: its probe refuses all others.
    if function.on_vfio() {
        return Ok(None);
    }
    if let Some(header_type) = root.bridge_header(function)? {
        return Ok(Some(BindingObstacle::Bridge {
            function: function.clone(),
            header_type,
        }));
    }
    Ok(Some(BindingObstacle::NotOnVfio {
        function: function.clone(),
        used_as: used_as(root, function.sbdf)?,
        vfio_pci_loaded: root.exists("sys/bus/pci/drivers/vfio-pci"),
    }))
}

/// Whether members of a group that are not `asked` for keep VFIO from owning it.
pub(super) fn check_group(
    root: &HostRoot,
    sbdf: HostSbdf,
    group: u32,
    asked: &[HostSbdf],
) -> Result<Option<BindingObstacle>, HostError> {
    let offenders = root.group(group)?.offenders(asked);
    if offenders.is_empty() {
        return Ok(None);
    }
    if let Some(bridge) = driven_bridge(&offenders) {
        let bridge = bridge.clone();
        return Ok(Some(BindingObstacle::BridgeInGroup {
            group,
            sbdf,
            bridge,
        }));
    }
    let names: Result<Vec<_>, _> = offenders
        .iter()
        .map(|offender| used_as(root, offender.sbdf))
        .collect();
    Ok(Some(BindingObstacle::GroupNotViable {
        group,
        sbdf,
        offenders,
        used_as: names?.concat(),
    }))
}

/// The bridge among the members that stand in the way, which no binding of others gets out of it.
pub(super) fn driven_bridge(offenders: &[HostFunction]) -> Option<&HostFunction> {
    offenders.iter().find(|offender| offender.is_bridge())
}

fn used_as(root: &HostRoot, sbdf: HostSbdf) -> Result<Vec<String>, HostError> {
    let directory = function::directory(sbdf);
    let mut names = root.names(directory.join("net"))?;
    names.extend(root.names(directory.join("nvme"))?);
    Ok(names)
}

/// The command that gives functions to vfio-pci.
fn bind_command(functions: &[HostFunction]) -> String {
    let sbdfs: Vec<_> = functions.iter().map(|f| f.sbdf.to_string()).collect();
    format!("sudo ferry bind {}", sbdfs.join(" "))
}

/// The command that takes a bridge off its driver.
fn release_command(bridge: &HostFunction) -> String {
    let driver = bridge.driver.as_deref().unwrap_or_default();
    let file = format!("/sys/bus/pci/drivers/{driver}/unbind");
    format!(
        "if the host can do without that driver: echo {} | sudo tee {}",
        bridge.sbdf,
        shell_word(&file)
    )
}

impl BindingObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::Duplicate { sbdf } => (
                "a function can be in the guest once".to_owned(),
                format!("leave one '--device host={sbdf}' out"),
            ),
            Self::Bridge {
                function,
                header_type: 0,
            } => (
                format!(
                    "its class code {:06x} is that of a bridge, which stays with the host",
                    function.class
                ),
                "choose another device, as they are listed by: ferry devices".to_owned(),
            ),
            Self::Bridge { header_type, .. } => (
                format!("its header type is {header_type}; VFIO hands over endpoints (type 0)"),
                "assign the devices behind it: lspci -tv shows them".to_owned(),
            ),
            Self::BridgeInGroup { bridge, .. } => (
                format!(
                    "{}, and while it is, the kernel gives the group to no guest",
                    driven(bridge)
                ),
                release_command(bridge),
            ),
            Self::NotOnVfio {
                function,
                used_as,
                vfio_pci_loaded,
            } => (
                held_by(function, used_as, *vfio_pci_loaded),
                bind_command(std::slice::from_ref(function)),
            ),
            Self::GroupNotViable {
                offenders, used_as, ..
            } => {
                let names: Vec<_> = offenders.iter().map(driven).collect();
                let mut names = names.join("; ");
                if !used_as.is_empty() {
                    // Writing to a String can't fail.
                    let _ = write!(names, "; the host will lose {}", used_as.join(", "));
                }
                (
                    format!("the IOMMU can't tell them apart, so all go together: {names}"),
                    bind_command(offenders),
                )
            }
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

fn driven(function: &HostFunction) -> String {
    match &function.driver {
        Some(driver) => format!("{function} is on driver {driver}"),
        None => format!("{function} has no driver"),
    }
}

fn held_by(function: &HostFunction, used_as: &[String], vfio_pci_loaded: bool) -> String {
    let mut text = match &function.driver {
        Some(driver) => format!("its driver is {driver}"),
        None => "no driver holds it".to_owned(),
    };
    if !used_as.is_empty() {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            ", the host uses it as {} and will lose that",
            used_as.join(", ")
        );
    }
    if !vfio_pci_loaded {
        text.push_str("; the vfio-pci module is not loaded");
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{FakeLimits, GPU, NIC, ROOT_PORT, SavedHost};

    #[test]
    fn igb_on_its_host_driver_gets_the_command_and_the_interface_it_costs() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        host.file("sys/bus/pci/devices/0000:03:00.0/net/enp3s0/mtu", "1500");
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "Ethernet controller 0000:03:00.0 [8086:10c9] is not bound to vfio-pci\n  \
             why: its driver is igb, the host uses it as enp3s0 and will lose that\n  \
             fix: sudo ferry bind 0000:03:00.0"
        );
    }

    #[test]
    fn function_without_a_driver_and_the_missing_module_are_told() {
        let host = SavedHost::intel();
        host.remove("sys/bus/pci/devices/0000:03:00.0/driver");
        host.remove("sys/bus/pci/drivers/vfio-pci");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(
            text.contains("why: no driver holds it; the vfio-pci module is not loaded\n"),
            "{text}"
        );
    }

    #[test]
    fn bridge_is_refused_even_with_its_own_group() {
        let host = SavedHost::intel();
        host.function(ROOT_PORT, Some("pcieport"), Some(2));
        assert_eq!(
            host.problem(&[ROOT_PORT.0], &FakeLimits::generous()),
            "PCI bridge 0000:00:01.0 [8086:460d] is a bridge and can't be assigned\n  \
             why: its header type is 1; VFIO hands over endpoints (type 0)\n  \
             fix: assign the devices behind it: lspci -tv shows them"
        );
    }

    #[test]
    fn foreign_member_is_named_and_the_root_port_is_not() {
        let host = SavedHost::intel();
        host.function(GPU, Some("vfio-pci"), Some(14));
        host.file("dev/vfio/14", "");
        assert_eq!(
            host.problem(&[GPU.0], &FakeLimits::generous()),
            "IOMMU group 14 of 0000:01:00.0 is shared with devices the host drives\n  \
             why: the IOMMU can't tell them apart, so all go together: audio device 0000:01:00.1 \
             [10de:22ba] is on driver snd_hda_intel\n  \
             fix: sudo ferry bind 0000:01:00.1"
        );
    }

    #[test]
    fn bridge_of_the_group_that_the_host_drives_is_named_and_never_to_be_bound() {
        let host = SavedHost::intel();
        host.function(GPU, Some("vfio-pci"), Some(14));
        host.file("dev/vfio/14", "");
        let bridge = ("0000:01:00.2", "8086:2918", "0x060100");
        host.function(bridge, Some("lpc_ich"), Some(14));
        assert_eq!(
            host.problem(&[GPU.0], &FakeLimits::generous()),
            "IOMMU group 14 of 0000:01:00.0 has a bridge that the host drives\n  \
             why: ISA bridge 0000:01:00.2 [8086:2918] is on driver lpc_ich, and while it is, the kernel gives the group to \
             no guest\n  \
             fix: if the host can do without that driver: echo 0000:01:00.2 | sudo tee /sys/bus/pci/drivers/lpc_ich/unbind"
        );
    }

    #[test]
    fn several_foreign_members_are_bound_by_one_command() {
        let host = SavedHost::intel();
        host.function(GPU, Some("vfio-pci"), Some(14));
        host.file("dev/vfio/14", "");
        host.function(
            ("0000:01:00.2", "10de:1ad8", "0x0c0330"),
            Some("xhci_hcd"),
            Some(14),
        );
        host.file("sys/bus/pci/devices/0000:01:00.2/net/usb0/mtu", "1500");
        let text = host.problem(&[GPU.0], &FakeLimits::generous());
        assert!(text.contains("; the host will lose usb0\n"), "{text}");
        assert!(
            text.ends_with("fix: sudo ferry bind 0000:01:00.1 0000:01:00.2"),
            "{text}"
        );
        assert!(text.contains("snd_hda_intel; USB controller 0000:01:00.2"));
    }

    #[test]
    fn drivers_that_leave_dma_alone_do_not_spoil_a_group() {
        for driver in [
            "pci-stub",
            "mlx5_vfio_pci",
            "nvgrace-gpu-vfio-pci",
            "pcieport",
        ] {
            let host = SavedHost::intel();
            host.function(NIC, Some("vfio-pci"), Some(16));
            host.function(
                ("0000:03:00.1", "8086:10c9", "0x020000"),
                Some(driver),
                Some(16),
            );
            let problems = host.problems(&[NIC.0], &FakeLimits::generous());
            assert_eq!(problems, [], "{driver}");
        }
    }
}
