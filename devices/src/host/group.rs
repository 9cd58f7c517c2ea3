//! IOMMU groups: what the IOMMU can tell apart, and so what is assigned as one.

use std::fmt;
use std::path::PathBuf;

use super::function::HostFunction;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

const GROUPS: &str = "sys/kernel/iommu_groups";

/// A set of functions whose DMA the IOMMU can't tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number, as in `/dev/vfio/<id>`.
    pub id: u32,
    /// Its PCI functions, in order of address.
    pub members: Vec<HostFunction>,
}

/// A range of IOVAs a group can't map as memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// First byte.
    pub start: u64,
    /// Last byte, included.
    pub end: u64,
    /// What it is reserved for.
    pub kind: ReservedRegionType,
}

/// Types of `reserved_regions` (`iommu_group_resv_type_string` of drivers/iommu/iommu.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedRegionType {
    /// `direct`: must stay identity-mapped (an RMRR); VFIO refuses the device.
    Direct,
    /// `direct-relaxable`: identity-mapped until a driver takes over (USB, graphics); may be mapped.
    DirectRelaxable,
    /// `reserved`: can't be mapped.
    Reserved,
    /// `msi`: writes there are interrupts.
    Msi,
    /// A type newer than this list; treated as unmappable.
    Other,
}

impl ReservedRegionType {
    fn from_sysfs(name: &str) -> Self {
        match name {
            "direct" => Self::Direct,
            "direct-relaxable" => Self::DirectRelaxable,
            "reserved" => Self::Reserved,
            "msi" => Self::Msi,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for ReservedRegionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::DirectRelaxable => "direct-relaxable",
            Self::Reserved => "reserved",
            Self::Msi => "msi",
            Self::Other => "of an unknown type",
        })
    }
}

pub(super) fn directory(group: u32) -> PathBuf {
    PathBuf::from(format!("{GROUPS}/{group}"))
}

impl HostRoot {
    /// A group with its members.
    ///
    /// # Errors
    /// [`HostError::NoSuchGroup`], or what could not be read of a member.
    pub fn group(&self, id: u32) -> Result<IommuGroup, HostError> {
        if !self.exists(directory(id)) {
            return Err(HostError::NoSuchGroup { group: id });
        }
        // Platform devices can share a group; only PCI functions carry an address.
        let mut sbdfs: Vec<HostSbdf> = self
            .names(directory(id).join("devices"))?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        sbdfs.sort();
        let members: Result<_, _> = sbdfs.into_iter().map(|sbdf| self.function(sbdf)).collect();
        Ok(IommuGroup {
            id,
            members: members?,
        })
    }

    /// IOVA ranges the group can't map, as the kernel lists them.
    ///
    /// # Errors
    /// When the file can't be read or a line is not `start end type`.
    pub fn reserved_regions(&self, group: u32) -> Result<Vec<ReservedRegion>, HostError> {
        let relative = directory(group).join("reserved_regions");
        let text = self.text(&relative)?.unwrap_or_default();
        text.lines()
            .map(|line| {
                reserved_region(line).ok_or_else(|| HostError::Malformed {
                    path: self.path(&relative),
                    text: line.to_owned(),
                    expected: "start, end and type",
                })
            })
            .collect()
    }
}

fn reserved_region(line: &str) -> Option<ReservedRegion> {
    let address = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let mut fields = line.split_whitespace();
    Some(ReservedRegion {
        start: address(fields.next()?)?,
        end: address(fields.next()?)?,
        kind: ReservedRegionType::from_sysfs(fields.next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::{ReservedRegion, ReservedRegionType};
    use crate::host::HostError;
    use crate::host::saved::SavedHost;

    #[test]
    fn group_lists_its_members_in_order() {
        let group = SavedHost::intel().root().group(14).unwrap();
        let members: Vec<_> = group.members.iter().map(|m| m.sbdf.to_string()).collect();
        assert_eq!(members, ["0000:00:01.0", "0000:01:00.0", "0000:01:00.1"]);
        let error = SavedHost::intel().root().group(99).unwrap_err();
        assert!(matches!(error, HostError::NoSuchGroup { group: 99 }));
    }

    #[test]
    fn reserved_regions_keep_their_type() {
        let host = SavedHost::intel();
        let file = "sys/kernel/iommu_groups/16/reserved_regions";
        host.file(
            file,
            "0x0000000000000000 0x0000000000ffffff direct-relaxable\n\
             0x00000000fee00000 0x00000000feefffff msi\n\
             0x000000fd00000000 0x000000ffffffffff reserved\n\
             0x0000000100000000 0x0000000100000fff tomorrow\n",
        );
        let regions = host.root().reserved_regions(16).unwrap();
        let kinds: Vec<_> = regions.iter().map(|region| region.kind).collect();
        assert_eq!(
            kinds,
            [
                ReservedRegionType::DirectRelaxable,
                ReservedRegionType::Msi,
                ReservedRegionType::Reserved,
                ReservedRegionType::Other
            ]
        );
        assert_eq!(
            regions.get(1),
            Some(&ReservedRegion {
                start: 0xfee0_0000,
                end: 0xfeef_ffff,
                kind: ReservedRegionType::Msi
            })
        );
        host.file(file, "0xfee00000 msi\n");
        assert!(matches!(
            host.root().reserved_regions(16),
            Err(HostError::Malformed { .. })
        ));
    }
}
