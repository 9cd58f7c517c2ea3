//! Which IOVAs the IOMMU can't map for a device, as far as the kernel tells before the device is opened.

use super::group::{ReservedRegion, ReservedRegionType};
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;
use std::fmt;
use std::ops::RangeInclusive;

/// A range of IOVAs that can't be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedIova {
    /// The range.
    pub range: RangeInclusive<u64>,
    /// Why.
    pub cause: ReservedCause,
    /// The first device that has it.
    pub sbdf: HostSbdf,
    /// Its group.
    pub group: u32,
}

/// Why IOVAs can't be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedCause {
    /// The group's `reserved_regions` has them.
    Region(ReservedRegionType),
    /// They are beyond this address width of the IOMMU.
    Width(u8),
}

impl fmt::Display for ReservedIova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sbdf, group, .. } = self;
        match self.cause {
            ReservedCause::Region(kind) => write!(
                f,
                "{:#x}-{:#x} is a reserved region ({kind}) of group {group}, {sbdf}",
                self.range.start(),
                self.range.end()
            ),
            ReservedCause::Width(bits) => {
                write!(
                    f,
                    "the IOMMU of {sbdf} (group {group}) has {bits} address bits"
                )
            }
        }
    }
}

/// Capability Register of VT-d, bits 21:16 (VT-d specification, section 11.4.2): Maximum Guest Address Width less one.
const VTD_CAP_MGAW_SHIFT: u32 = 16;
const VTD_CAP_MGAW_MASK: u64 = 0x3f;

impl HostRoot {
    /// What the IOMMUs of `devices` can't map. Functions without a group have nothing to say.
    ///
    /// # Errors
    /// [`HostError`] when a file can't be read or understood.
    pub fn reserved_iovas(&self, devices: &[HostSbdf]) -> Result<Vec<ReservedIova>, HostError> {
        let mut found: Vec<ReservedIova> = Vec::new();
        for sbdf in devices {
            let Some(group) = self.function(*sbdf)?.group else {
                continue;
            };
            let regions = self.reserved_regions(group)?;
            let regions = regions
                .into_iter()
                // VFIO maps over what a driver needs only until it takes over.
                .filter(|region| region.kind != ReservedRegionType::DirectRelaxable)
                .map(|ReservedRegion { start, end, kind }| {
                    (start..=end, ReservedCause::Region(kind))
                });
            let width = self.iommu_width(*sbdf)?;
            let beyond = width.map(|bits| {
                let first = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
                (first..=u64::MAX, ReservedCause::Width(bits))
            });
            for (range, cause) in regions.chain(beyond) {
                if !found.iter().any(|known| known.range == range) {
                    found.push(ReservedIova {
                        range,
                        cause,
                        sbdf: *sbdf,
                        group,
                    });
                }
            }
        }
        Ok(found)
    }

    /// The address width of a VT-d unit; AMD's have 64 bits in the page tables that Linux uses.
    fn iommu_width(&self, sbdf: HostSbdf) -> Result<Option<u8>, HostError> {
        let file = format!("sys/bus/pci/devices/{sbdf}/iommu/intel-iommu/cap");
        let Some(text) = self.text(&file)? else {
            return Ok(None);
        };
        let malformed = || HostError::Malformed {
            path: self.path(&file),
            text: text.clone(),
            expected: "a hexadecimal number",
        };
        let capability = u64::from_str_radix(&text, 16).map_err(|_| malformed())?;
        let width = (capability >> VTD_CAP_MGAW_SHIFT & VTD_CAP_MGAW_MASK) + 1;
        u8::try_from(width).map(Some).map_err(|_| malformed())
    }

    /// How many mappings a VFIO container takes; `None` where the kernel doesn't limit them.
    ///
    /// # Errors
    /// [`HostError`] when the file can't be read or understood.
    pub fn dma_entry_limit(&self) -> Result<Option<u64>, HostError> {
        self.count("sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{GPU, GPU_AUDIO, NIC, SavedHost, sbdf};

    fn texts(host: &SavedHost, devices: &[&str]) -> Vec<String> {
        let devices: Vec<_> = devices.iter().map(|text| sbdf(text)).collect();
        let found = host.root().reserved_iovas(&devices).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn regions_of_all_groups_are_told_once_and_relaxable_ones_not_at_all() {
        let host = SavedHost::intel();
        host.file(
            "sys/kernel/iommu_groups/14/reserved_regions",
            "0x000000008b800000 0x000000009fffffff direct-relaxable\n\
             0x00000000000e0000 0x00000000000fffff reserved\n\
             0x00000000fee00000 0x00000000feefffff msi\n",
        );
        assert_eq!(
            texts(&host, &[NIC.0, GPU.0, GPU_AUDIO.0]),
            [
                "0xfee00000-0xfeefffff is a reserved region (msi) of group 16, 0000:03:00.0",
                "0xe0000-0xfffff is a reserved region (reserved) of group 14, 0000:01:00.0",
            ]
        );
    }

    #[test]
    fn width_of_a_vtd_unit_is_read_from_its_capabilities() {
        let host = SavedHost::intel();
        // A client's of 39 bits.
        let cap = format!("sys/bus/pci/devices/{}/iommu/intel-iommu/cap", NIC.0);
        host.file(&cap, "1c0000c40660462\n");
        let found = host.root().reserved_iovas(&[sbdf(NIC.0)]).unwrap();
        let last = found.last().unwrap();
        assert_eq!(last.range, 1 << 39..=u64::MAX);
        assert_eq!(
            last.to_string(),
            "the IOMMU of 0000:03:00.0 (group 16) has 39 address bits"
        );
        host.file(&cap, "nonsense\n");
        assert!(host.root().reserved_iovas(&[sbdf(NIC.0)]).is_err());
    }

    #[test]
    fn limit_on_mappings_is_the_modules_parameter() {
        let host = SavedHost::intel();
        assert_eq!(host.root().dma_entry_limit().unwrap(), None);
        host.file(
            "sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
            "65535\n",
        );
        assert_eq!(host.root().dma_entry_limit().unwrap(), Some(65535));
    }
}
