//! Which functions `ferry bind` takes from the host, and which it leaves there.

use super::binding::BindingObstacle;
use super::function::{self, HostFunction};
use super::iommu::{self, IommuObstacle};
use super::problem::Problem;
use super::root::{HostError, HostRoot};
use super::usage::HostUse;
use crate::pci::HostSbdf;

/// Base class of bridges (PCI Code and ID Assignment Specification, section 1).
const BRIDGE: u32 = 0x06;

/// What is to be taken from the host.
#[derive(Clone, Copy, Debug)]
pub struct BindRequest<'a> {
    /// The functions named.
    pub functions: &'a [HostSbdf],
    /// With them the members of their groups that keep VFIO from owning these.
    pub groups: bool,
    /// Even what the host itself uses.
    pub force: bool,
}

/// Why a function can't be taken from the host.
#[derive(Debug, thiserror::Error)]
pub enum BindRefusal {
    /// It isn't there, or a fact about it can't be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It is a bridge.
    #[error(transparent)]
    Binding(#[from] BindingObstacle),
    /// It has no IOMMU group.
    #[error(transparent)]
    Iommu(#[from] IommuObstacle),
    /// The host uses it.
    #[error("{function} is in use by the host")]
    InUse {
        /// The function.
        function: HostFunction,
        /// What for; not empty.
        uses: Vec<HostUse>,
    },
    /// It has virtual functions, which go with its driver; one that a guest has would be waited for.
    #[error("{function} has virtual functions, which would go with its driver")]
    HasVirtualFunctions {
        /// The physical function.
        function: HostFunction,
        /// How many.
        count: u64,
    },
}

/// The functions that have to be on vfio-pci for a request, each once, as given and then the others of
/// their groups; those that are there already among them.
///
/// # Errors
/// Every reason to leave them all where they are.
pub fn bindable(
    root: &HostRoot,
    request: &BindRequest<'_>,
) -> Result<Vec<HostFunction>, Vec<BindRefusal>> {
    let mut wanted: Vec<HostFunction> = Vec::new();
    let mut refusals = Vec::new();
    for (index, sbdf) in request.functions.iter().enumerate() {
        let earlier = request.functions.get(..index).unwrap_or_default();
        if earlier.contains(sbdf) {
            continue;
        }
        match endpoint(root, *sbdf) {
            Ok(function) => wanted.push(function),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if request.groups {
        match others_of_groups(root, &wanted) {
            Ok(others) => wanted.extend(others),
            Err(error) => refusals.push(error.into()),
        }
    }
    for function in wanted.iter().filter(|function| !function.on_vfio()) {
        refusals.extend(needed(root, function, request.force).err());
    }
    if refusals.is_empty() {
        Ok(wanted)
    } else {
        Err(refusals)
    }
}

/// A function that VFIO can take: no bridge, and in a group.
fn endpoint(root: &HostRoot, sbdf: HostSbdf) -> Result<HostFunction, BindRefusal> {
    let function = root.function(sbdf)?;
    if function.on_vfio() {
        return Ok(function);
    }
    let header_type = root.header_type(sbdf)?;
    // A host bridge has the header of an endpoint.
    if header_type != 0 || function.class >> 16 == BRIDGE {
        return Err(BindRefusal::Binding(BindingObstacle::Bridge {
            function,
            header_type,
        }));
    }
    let Some(group) = function.group else {
        return Err(iommu::explain_absence(root, sbdf)?.into());
    };
    if let Some(obstacle) = iommu::check_group(root, sbdf, group)? {
        return Err(obstacle.into());
    }
    Ok(function)
}

/// Whether the host can do without a function's driver.
fn needed(root: &HostRoot, function: &HostFunction, force: bool) -> Result<(), BindRefusal> {
    let attribute = function::directory(function.sbdf).join("sriov_numvfs");
    let count = root.count(attribute)?.unwrap_or(0);
    if count > 0 {
        return Err(BindRefusal::HasVirtualFunctions {
            function: function.clone(),
            count,
        });
    }
    if force {
        return Ok(());
    }
    let uses = root.host_uses_by_processes(function.sbdf)?;
    if uses.is_empty() {
        return Ok(());
    }
    Err(BindRefusal::InUse {
        function: function.clone(),
        uses,
    })
}

/// Members whose drivers keep VFIO from the groups of `wanted`. Those without a driver, or with one that
/// leaves DMA alone, stay as they are, and so do bridges.
fn others_of_groups(
    root: &HostRoot,
    wanted: &[HostFunction],
) -> Result<Vec<HostFunction>, HostError> {
    let asked: Vec<_> = wanted.iter().map(|function| function.sbdf).collect();
    let mut groups: Vec<_> = wanted
        .iter()
        .filter_map(|function| function.group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let mut others = Vec::new();
    for id in groups {
        for offender in root.group(id)?.offenders(&asked) {
            if root.header_type(offender.sbdf)? == 0 && !offender.is_bridge() {
                others.push(offender);
            }
        }
    }
    Ok(others)
}

impl BindRefusal {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Host(error) => error.problem(),
            Self::Binding(obstacle) => obstacle.problem(),
            Self::Iommu(obstacle) => obstacle.problem(),
            Self::InUse { function, uses } => {
                let why: Vec<_> = uses.iter().map(HostUse::to_string).collect();
                Problem::new(self.to_string(), why.join("; "), free(function.sbdf, uses))
            }
            Self::HasVirtualFunctions { function, count } => Problem::new(
                self.to_string(),
                format!("it has {count} now"),
                format!(
                    "give a guest one of them, or take them away first: sudo ferry vf set {} 0",
                    function.sbdf
                ),
            ),
        }
    }
}

/// How the host stops using a function.
fn free(sbdf: HostSbdf, uses: &[HostUse]) -> String {
    let commands: Vec<_> = uses
        .iter()
        .filter_map(|host_use| match host_use {
            HostUse::Disk { mount_point, .. } => Some(format!("umount '{mount_point}'")),
            HostUse::Swap { device } => Some(format!("swapoff /dev/{device}")),
            HostUse::Open { holder, .. } => Some(format!("kill {}", holder.pid)),
            HostUse::MountedElsewhere {
                mount_point,
                holder,
                ..
            } => Some(format!(
                "nsenter --mount --target {} umount '{mount_point}'",
                holder.pid
            )),
            HostUse::BootVga | HostUse::DefaultRoute { .. } => None,
        })
        .collect();
    let runs_from_it = uses.iter().any(
        |host_use| matches!(host_use, HostUse::Disk { mount_point, .. } if mount_point == "/"),
    );
    if runs_from_it {
        "give the guest another disk; this host runs from that one".to_owned()
    } else if !commands.is_empty() {
        format!("stop using it: sudo {}", commands.join(" && sudo "))
    } else {
        format!("if the host can do without it: sudo ferry bind --force {sbdf}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::{GPU, GPU_AUDIO, NIC, ROOT_PORT, SavedHost, sbdf};
    use super::*;

    fn request<'a>(functions: &'a [HostSbdf]) -> BindRequest<'a> {
        BindRequest {
            functions,
            groups: false,
            force: false,
        }
    }

    /// Addresses of what is to be bound, or the refusals as a user sees them.
    fn bindable(host: &SavedHost, request: &BindRequest<'_>) -> Result<Vec<String>, Vec<String>> {
        match super::bindable(&host.root(), request) {
            Ok(functions) => Ok(functions.iter().map(|f| f.sbdf.to_string()).collect()),
            Err(refusals) => Err(refusals.iter().map(|r| r.problem().to_string()).collect()),
        }
    }

    fn refusal(host: &SavedHost, address: &str) -> String {
        let mut refusals = bindable(host, &request(&[sbdf(address)])).unwrap_err();
        assert_eq!(refusals.len(), 1, "{refusals:#?}");
        refusals.remove(0)
    }

    #[test]
    fn group_brings_the_members_that_the_host_drives_and_no_others() {
        let host = SavedHost::intel();
        let idle = ("0000:01:00.2", "10de:1ad8", "0x0c0330");
        host.function(idle, None, Some(14));
        let gpu = [sbdf(GPU.0), sbdf(GPU.0)];
        assert_eq!(bindable(&host, &request(&gpu)).unwrap(), [GPU.0]);
        let with_group = BindRequest {
            groups: true,
            ..request(&gpu)
        };
        assert_eq!(
            bindable(&host, &with_group).unwrap(),
            [GPU.0, GPU_AUDIO.0],
            "the root port and the function without a driver stand in nobody's way"
        );
    }

    #[test]
    fn bridges_are_left_to_the_host() {
        let host = SavedHost::intel();
        host.function(("0000:00:00.0", "8086:29c0", "0x060000"), None, Some(0));
        for address in [ROOT_PORT.0, "0000:00:00.0"] {
            let text = refusal(&host, address);
            assert!(
                text.contains("is a bridge and can't be assigned\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn function_that_no_iommu_translates_is_left_to_the_host() {
        let host = SavedHost::intel();
        host.function(("0000:04:00.0", "8086:10d3", "0x020000"), None, None);
        let text = refusal(&host, "0000:04:00.0");
        assert!(text.contains("IOMMU"), "{text}");
    }

    #[test]
    fn function_that_the_host_uses_is_left_to_it_unless_forced() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        host.file("sys/bus/pci/devices/0000:03:00.0/net/enp3s0/mtu", "1500");
        host.file("proc/net/route", "enp3s0 0 0 0003 0 0 0 0 0 0 0\n");
        assert_eq!(
            refusal(&host, NIC.0),
            "Ethernet controller 0000:03:00.0 [8086:10c9] is in use by the host\n  \
             why: enp3s0 carries the default route\n  \
             fix: if the host can do without it: sudo ferry bind --force 0000:03:00.0"
        );
        let [nic, root_port] = [[sbdf(NIC.0)], [sbdf(ROOT_PORT.0)]];
        let forced = BindRequest {
            force: true,
            ..request(&nic)
        };
        assert_eq!(bindable(&host, &forced).unwrap(), [NIC.0]);
        // Force is for uses, not for what can't work.
        let port = BindRequest {
            force: true,
            ..request(&root_port)
        };
        assert!(bindable(&host, &port).is_err());
    }

    #[test]
    fn physical_function_keeps_its_driver_while_it_has_virtual_ones() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        let attribute = "sys/bus/pci/devices/0000:03:00.0/sriov_numvfs";
        host.file(attribute, "2\n");
        let nic = [sbdf(NIC.0)];
        let forced = BindRequest {
            force: true,
            ..request(&nic)
        };
        let refusals = bindable(&host, &forced).unwrap_err();
        assert_eq!(
            refusals,
            [
                "Ethernet controller 0000:03:00.0 [8086:10c9] has virtual functions, which would go with its \
                 driver\n  \
                 why: it has 2 now\n  \
                 fix: give a guest one of them, or take them away first: sudo ferry vf set 0000:03:00.0 0"
            ]
        );
        host.file(attribute, "0\n");
        assert_eq!(bindable(&host, &forced).unwrap(), [NIC.0]);
    }

    #[test]
    fn member_of_the_group_that_the_host_uses_keeps_all_of_it() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:01:00.1/net/enp1s0/mtu", "1500");
        host.file("proc/net/route", "enp1s0 0 0 0003 0 0 0 0 0 0 0\n");
        let gpu = [sbdf(GPU.0)];
        let with_group = BindRequest {
            groups: true,
            ..request(&gpu)
        };
        let refusals = bindable(&host, &with_group).unwrap_err();
        assert!(refusals.concat().starts_with("audio device 0000:01:00.1"));
    }

    #[test]
    fn use_of_a_disk_ends_by_the_command() {
        let disk = |mount_point: &str| HostUse::Disk {
            device: "sda1".to_owned(),
            mount_point: mount_point.to_owned(),
        };
        let swap = HostUse::Swap {
            device: "sda2".to_owned(),
        };
        let nic = sbdf(NIC.0);
        assert_eq!(
            free(nic, &[disk("/data"), swap.clone()]),
            "stop using it: sudo umount '/data' && sudo swapoff /dev/sda2"
        );
        assert_eq!(
            free(nic, &[disk("/"), swap]),
            "give the guest another disk; this host runs from that one"
        );
    }

    #[test]
    fn every_refusal_is_told_at_once() {
        let host = SavedHost::intel();
        let functions = [sbdf(ROOT_PORT.0), sbdf("77:00.0"), sbdf(NIC.0)];
        let refusals = bindable(&host, &request(&functions)).unwrap_err();
        assert_eq!(refusals.len(), 2, "{refusals:#?}");
    }
}
