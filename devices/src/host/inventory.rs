//! Every function of the host with what decides whether a guest can have it.

use super::function::{self, HostFunction};
use super::group::IommuGroup;
use super::iommu;
use super::root::{HostError, HostRoot};
use super::usage::HostUse;
use crate::pci::capability::{self, CapabilityId};
use crate::pci::msi::MsiLayout;
use crate::pci::msix::MsixCapability;
use crate::pci::{HostSbdf, header};
use std::collections::BTreeMap;
use std::fmt;

/// A function as `ferry devices` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFunction {
    /// Its identity, driver and group.
    pub function: HostFunction,
    /// The other members of its group.
    pub members: Vec<HostSbdf>,
    /// Reset methods in the kernel's order.
    pub reset: Vec<String>,
    /// Its interrupts; `None` when its configuration space can't be read that far, which only root may.
    pub vectors: Option<Vectors>,
    /// Its virtual functions, if it can have any.
    pub virtual_functions: Option<VirtualFunctions>,
    /// Whether a guest can have it.
    pub standing: Standing,
}

/// How many interrupts a function has of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors {
    /// Entries of the MSI-X Table.
    pub msix: u16,
    /// Vectors by MSI.
    pub msi: u16,
    /// Whether it has an interrupt pin.
    pub intx: bool,
}

/// SR-IOV: virtual functions of a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualFunctions {
    /// How many there are.
    pub enabled: u64,
    /// How many there may be.
    pub total: u64,
}

/// Whether a guest can have a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it is.
    Now,
    /// Once vfio-pci has it.
    AfterBind,
    /// Once vfio-pci has it and these others of its group.
    AfterBindOfGroup(Vec<HostSbdf>),
    /// Once the host does without it; `--force` says so.
    InUse(Vec<HostUse>),
    /// It can't be given to a guest at all.
    Never(Hindrance),
}

/// Why a function can't be given to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It is no endpoint.
    Bridge,
    /// No IOMMU translates it.
    NoIommu,
    /// The kernel keeps its group from VFIO.
    Withheld,
    /// A bridge of its group has a driver of the host's that VFIO doesn't get along with.
    BridgeInGroup,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "a bridge, which stays with the host",
            Self::NoIommu => "no IOMMU translates it",
            Self::Withheld => "the kernel keeps its IOMMU group from VFIO; ferry check tells why",
            Self::BridgeInGroup => "its IOMMU group has a bridge that a driver of the host has",
        })
    }
}

impl HostRoot {
    /// Every function, in order of address.
    ///
    /// # Errors
    /// The first file that could not be read.
    pub fn inventory(&self) -> Result<Vec<ListedFunction>, HostError> {
        let functions = self.functions()?;
        let mut groups: BTreeMap<u32, Vec<HostFunction>> = BTreeMap::new();
        for function in &functions {
            if let Some(group) = function.group {
                groups.entry(group).or_default().push(function.clone());
            }
        }
        let listed = functions.into_iter().map(|function| {
            let members = function.group.and_then(|id| groups.get(&id));
            let members = members.cloned().unwrap_or_default();
            self.listed(function, members)
        });
        listed.collect()
    }

    fn listed(
        &self,
        function: HostFunction,
        members: Vec<HostFunction>,
    ) -> Result<ListedFunction, HostError> {
        let sbdf = function.sbdf;
        let others = members.iter().map(|member| member.sbdf);
        Ok(ListedFunction {
            members: others.filter(|other| *other != sbdf).collect(),
            reset: self.reset_methods(sbdf)?,
            vectors: self.vectors(sbdf),
            virtual_functions: self.virtual_functions(sbdf)?,
            standing: self.standing(&function, members)?,
            function,
        })
    }

    fn standing(
        &self,
        function: &HostFunction,
        members: Vec<HostFunction>,
    ) -> Result<Standing, HostError> {
        // A host bridge has the header of an endpoint.
        if function.is_bridge() || self.header_type(function.sbdf)? != 0 {
            return Ok(Standing::Never(Hindrance::Bridge));
        }
        let Some(id) = function.group else {
            return Ok(Standing::Never(Hindrance::NoIommu));
        };
        if iommu::check_group(self, function.sbdf, id)?.is_some() {
            return Ok(Standing::Never(Hindrance::Withheld));
        }
        // A vfio driver has it, and the host nothing of it.
        if !function.on_vfio() {
            let uses = self.host_uses(function.sbdf)?;
            if !uses.is_empty() {
                return Ok(Standing::InUse(uses));
            }
        }
        let offenders = IommuGroup { id, members }.offenders(&[function.sbdf]);
        if offenders.iter().any(HostFunction::is_bridge) {
            return Ok(Standing::Never(Hindrance::BridgeInGroup));
        }
        let offenders: Vec<_> = offenders.iter().map(|offender| offender.sbdf).collect();
        Ok(match (offenders.is_empty(), function.on_vfio()) {
            (true, true) => Standing::Now,
            (true, false) => Standing::AfterBind,
            (false, _) => Standing::AfterBindOfGroup(offenders),
        })
    }

    /// How many interrupts a function has; `None` when its configuration space can't be read that far.
    pub(super) fn vectors(&self, sbdf: HostSbdf) -> Option<Vectors> {
        // What a user other than root gets: no capabilities.
        const HEADER: usize = 64;
        let config = self.config(sbdf).ok()?;
        if config.len() <= HEADER {
            return None;
        }
        let find = |id| capability::find(&config, id).map(|found| found.offset);
        let msi = find(CapabilityId::MSI).and_then(|at| MsiLayout::parse(&config, at));
        let msix = find(CapabilityId::MSI_X).and_then(|at| MsixCapability::parse(&config, at));
        Some(Vectors {
            msix: msix.map_or(0, |msix| msix.entries),
            msi: msi.map_or(0, |msi| u16::from(msi.capable())),
            intx: config
                .get(usize::from(header::INTERRUPT_PIN))
                .is_some_and(|pin| *pin != 0),
        })
    }

    /// The virtual functions of a physical one, in the order of their numbers.
    ///
    /// # Errors
    /// When the function's folder can't be read.
    pub fn virtual_functions_of(&self, sbdf: HostSbdf) -> Result<Vec<HostSbdf>, HostError> {
        let directory = function::directory(sbdf);
        let names = self.names(&directory)?;
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|name| name.strip_prefix("virtfn")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut found = Vec::new();
        for number in numbers {
            let target = self.link_name(directory.join(format!("virtfn{number}")))?;
            found.extend(target.and_then(|name| name.parse::<HostSbdf>().ok()));
        }
        Ok(found)
    }

    /// The physical function of a virtual one.
    ///
    /// # Errors
    /// When the link can't be read.
    pub fn physical_function(&self, sbdf: HostSbdf) -> Result<Option<HostSbdf>, HostError> {
        let target = self.link_name(function::directory(sbdf).join("physfn"))?;
        Ok(target.and_then(|name| name.parse().ok()))
    }

    /// SR-IOV of a physical function; `None` if it is none.
    ///
    /// # Errors
    /// When a count can't be read.
    pub fn virtual_functions(&self, sbdf: HostSbdf) -> Result<Option<VirtualFunctions>, HostError> {
        let directory = function::directory(sbdf);
        let Some(total) = self.count(directory.join("sriov_totalvfs"))? else {
            return Ok(None);
        };
        let enabled = self.count(directory.join("sriov_numvfs"))?.unwrap_or(0);
        Ok(Some(VirtualFunctions { enabled, total }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::{GPU, GPU_AUDIO, NIC, ROOT_PORT, SavedHost, sbdf};
    use super::*;

    const HOST_BRIDGE: (&str, &str, &str) = ("0000:00:00.0", "8086:29c0", "0x060000");

    fn listed(host: &SavedHost, address: &str) -> ListedFunction {
        let all = host.root().inventory().unwrap();
        let found = all.into_iter().find(|f| f.function.sbdf == sbdf(address));
        found.unwrap()
    }

    #[test]
    fn a_function_alone_on_vfio_pci_can_be_given_now() {
        let nic = listed(&SavedHost::intel(), NIC.0);
        assert_eq!(nic.standing, Standing::Now);
        assert_eq!(nic.members, []);
    }

    #[test]
    fn a_function_on_its_host_driver_can_be_given_after_bind() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        assert_eq!(listed(&host, NIC.0).standing, Standing::AfterBind);
    }

    #[test]
    fn what_the_host_uses_is_told_until_vfio_pci_has_it() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        host.file("sys/bus/pci/devices/0000:03:00.0/boot_vga", "1\n");
        let uses = vec![HostUse::BootVga];
        assert_eq!(listed(&host, NIC.0).standing, Standing::InUse(uses));
        host.function(NIC, Some("vfio-pci"), Some(16));
        assert_eq!(listed(&host, NIC.0).standing, Standing::Now);
    }

    #[test]
    fn members_that_the_host_drives_have_to_be_bound_too() {
        let gpu = listed(&SavedHost::intel(), GPU.0);
        // The port above may keep its driver.
        let offenders = vec![sbdf(GPU_AUDIO.0)];
        assert_eq!(gpu.standing, Standing::AfterBindOfGroup(offenders));
        assert_eq!(gpu.members, [sbdf(ROOT_PORT.0), sbdf(GPU_AUDIO.0)]);
    }

    #[test]
    fn a_group_with_a_bridge_that_the_host_drives_can_never_be_given() {
        let host = SavedHost::intel();
        host.function(
            ("0000:01:00.2", "8086:2918", "0x060100"),
            Some("lpc_ich"),
            Some(14),
        );
        let never = Standing::Never(Hindrance::BridgeInGroup);
        assert_eq!(listed(&host, GPU.0).standing, never);
    }

    #[test]
    fn bridges_and_what_no_iommu_translates_can_never_be_given() {
        let host = SavedHost::intel();
        host.function(HOST_BRIDGE, None, Some(0));
        host.function(("0000:04:00.0", "8086:10d3", "0x020000"), None, None);
        let standing = |address| listed(&host, address).standing;
        assert_eq!(standing(ROOT_PORT.0), Standing::Never(Hindrance::Bridge));
        assert_eq!(standing(HOST_BRIDGE.0), Standing::Never(Hindrance::Bridge));
        assert_eq!(
            standing("0000:04:00.0"),
            Standing::Never(Hindrance::NoIommu)
        );
    }

    #[test]
    fn interrupts_are_read_where_configuration_space_is_whole() {
        let host = SavedHost::intel();
        assert_eq!(listed(&host, NIC.0).vectors, None);
        let mut config = [0_u8; 256];
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        config[0x3d] = 1;
        // MSI with 4 vectors, then MSI-X with 10.
        config[0x40..0x44].copy_from_slice(&[0x05, 0x60, 0x04, 0x00]);
        config[0x60..0x64].copy_from_slice(&[0x11, 0x00, 0x09, 0x00]);
        host.file("sys/bus/pci/devices/0000:03:00.0/config", config);
        let vectors = Vectors {
            msix: 10,
            msi: 4,
            intx: true,
        };
        assert_eq!(listed(&host, NIC.0).vectors, Some(vectors));
    }

    #[test]
    fn a_physical_function_tells_of_its_virtual_ones() {
        let host = SavedHost::intel();
        assert_eq!(listed(&host, NIC.0).virtual_functions, None);
        let directory = "sys/bus/pci/devices/0000:03:00.0";
        host.file(&format!("{directory}/sriov_totalvfs"), "7\n");
        host.file(&format!("{directory}/sriov_numvfs"), "2\n");
        let some = VirtualFunctions {
            enabled: 2,
            total: 7,
        };
        assert_eq!(listed(&host, NIC.0).virtual_functions, Some(some));
    }
}
