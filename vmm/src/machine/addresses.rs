//! What lies where in the guest's address space, around what CPU and IOMMUs can't address.

use super::MachineError;
use crate::spec::{MachineSpec, SerialSpec};
use arch::platform::{MemoryRange, PciWindow, PlatformDescription};
use arch::x86_64::layout::{
    self, AddressLimits, BarSpace, LayoutError, PAGE_SIZE, RamPlacement, pci_window_64, place_ram,
};
use devices::host::{HostRoot, HugePageSize, ReservedIova};
use devices::pci::HostSbdf;

/// The guest's addresses.
pub(super) struct AddressPlan {
    limits: AddressLimits,
    ram: RamPlacement,
}

impl AddressPlan {
    /// Places guest RAM. `phys_bits` is the CPU's address width.
    ///
    /// # Errors
    /// [`MachineError::RamPlace`], [`MachineError::Host`], and [`MachineError::DmaEntries`] when there would be more ranges
    /// than an IOMMU context takes.
    pub(super) fn new(
        spec: &MachineSpec,
        phys_bits: u8,
        host: &HostRoot,
    ) -> Result<Self, MachineError> {
        let devices: Vec<HostSbdf> = spec.devices.iter().map(|device| device.host).collect();
        let reserved = host.reserved_iovas(&devices)?;
        let limits = AddressLimits {
            phys_bits,
            reserved: reserved.iter().map(|iova| iova.range.clone()).collect(),
        };
        let page = spec.huge_pages.map_or(PAGE_SIZE, HugePageSize::bytes);
        let ram = place_ram(spec.memory.bytes(), page, &limits).map_err(|source| {
            MachineError::RamPlace {
                in_the_way: in_the_way(&source, &reserved),
                source,
            }
        })?;
        for range in &ram.ranges {
            log::info!("guest RAM: {:#x}-{:#x}", range.start, range.end() - 1);
        }
        if let Some(only) = ram.cpu_only {
            log::info!(
                "no device reaches {:#x}-{:#x}, which an IOMMU can't map",
                only.start,
                only.end() - 1
            );
        }
        if let Some(available) = host.dma_entry_limit()?
            && !devices.is_empty()
        {
            check_entries(
                ram.ranges.len() + usize::from(ram.cpu_only.is_some()),
                available,
            )?;
        }
        Ok(Self { limits, ram })
    }

    /// Where RAM is.
    #[must_use]
    pub(super) fn ram(&self) -> &RamPlacement {
        &self.ram
    }

    /// What the guest is told of its machine; 64-bit BARs of that size have to fit.
    ///
    /// # Errors
    /// [`MachineError::Layout`].
    pub(super) fn describe(
        &self,
        spec: &MachineSpec,
        bars_64: BarSpace,
    ) -> Result<PlatformDescription, MachineError> {
        let ram_end = self.ram.ranges.last().map_or(0, MemoryRange::end);
        Ok(PlatformDescription {
            cpus: spec.cpus.get(),
            ram: self.ram.ranges.clone(),
            pci_window_32: PciWindow {
                base: layout::PCI_WINDOW_32_BASE,
                len: layout::PCI_WINDOW_32_LEN,
            },
            pci_window_64: pci_window_64(ram_end, bars_64, &self.limits)?,
            pci_window_io: (layout::PCI_WINDOW_IO_BASE, layout::PCI_WINDOW_IO_LEN),
            serial: spec.serial != SerialSpec::Absent,
            unmappable: self.limits.reserved.clone(),
        })
    }
}

/// Whether an IOMMU context takes `needed` more mappings.
///
/// # Errors
/// [`MachineError::DmaEntries`].
pub(super) fn check_entries(needed: usize, available: u64) -> Result<(), MachineError> {
    if available < needed as u64 {
        return Err(MachineError::DmaEntries { needed, available });
    }
    Ok(())
}

/// What keeps RAM from its place: where one range does, that; else what makes the IOMMU narrower than the CPU.
fn in_the_way(error: &LayoutError, reserved: &[ReservedIova]) -> Option<ReservedIova> {
    let last = |iova: &&ReservedIova| *iova.range.end() == u64::MAX;
    match error {
        LayoutError::FirstPage { reserved: hole, .. } => {
            // The part in the legacy hole was cut off, the end is the range's own.
            reserved.iter().find(|iova| iova.range.end() == hole.end())
        }
        _ => reserved
            .iter()
            .filter(last)
            .min_by_key(|iova| *iova.range.start()),
    }
    .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::request;
    use crate::spec::{CpuCount, MemorySize, place};
    use devices::vfio::PassedDescriptors;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const GIB: u64 = 1 << 30;

    /// A host with one device in group 7.
    fn host(folder: &Path, reserved: &str, iommu_cap: &str) -> HostRoot {
        let file = |name: &str, text: &[u8]| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let device = "sys/bus/pci/devices/0000:01:00.0";
        for (name, text) in [
            ("vendor", "0x8086"),
            ("device", "0x10c9"),
            ("class", "0x020000"),
        ] {
            file(&format!("{device}/{name}"), text.as_bytes());
        }
        file(&format!("{device}/config"), &[0; 64]);
        file(
            &format!("{device}/iommu/intel-iommu/cap"),
            iommu_cap.as_bytes(),
        );
        let group = "sys/kernel/iommu_groups/7";
        symlink(
            "../../../../kernel/iommu_groups/7",
            folder.join(device).join("iommu_group"),
        )
        .unwrap();
        file(&format!("{group}/reserved_regions"), reserved.as_bytes());
        file(&format!("{group}/devices/0000:01:00.0"), b"");
        file(
            "sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
            b"2\n",
        );
        HostRoot::at(folder)
    }

    fn plan(memory: u64, reserved: &str) -> Result<AddressPlan, MachineError> {
        let folder = tempfile::tempdir().unwrap();
        let devices = place(&[request("01:00.0", None)]);
        let spec = MachineSpec {
            kernel: "kernel".into(),
            initramfs: None,
            cmdline: String::new(),
            cpus: CpuCount::new(1).unwrap(),
            memory: MemorySize::new(memory).unwrap(),
            huge_pages: None,
            devices: devices.unwrap(),
            passed: PassedDescriptors::default(),
            peer_to_peer: true,
            serial: SerialSpec::Absent,
            stats: None,
            no_reboot: false,
            on_panic: Default::default(),
            stop_timeout: Default::default(),
        };
        // An IOMMU of 39 bits under a CPU of 46.
        AddressPlan::new(
            &spec,
            46,
            &host(folder.path(), reserved, "1c0000c40660462\n"),
        )
    }

    fn refusal(memory: u64, reserved: &str) -> String {
        match plan(memory, reserved) {
            Ok(plan) => panic!("{:?}", plan.ram),
            Err(error) => error.problem().to_string(),
        }
    }

    #[test]
    fn ram_goes_around_what_the_group_reserves() {
        let plan = plan(2 * GIB, "0x40000000 0x4fffffff reserved\n").unwrap();
        let ranges: Vec<_> = plan
            .ram()
            .ranges
            .iter()
            .map(|range| (range.start, range.len))
            .collect();
        assert_eq!(ranges, [(0, GIB), (0x5000_0000, GIB)]);
    }

    #[test]
    fn range_that_ram_can_not_avoid_is_named_with_its_device_and_group() {
        assert_eq!(
            refusal(GIB, "0x1000 0x8fff reserved\n"),
            "guest RAM can't lie where an IOMMU reaches it\n  \
             why: 0x1000-0x8fff is a reserved region (reserved) of group 7, 0000:01:00.0; it lies in the first 2 MiB \
             of RAM, which can't be moved\n  \
             fix: don't assign 0000:01:00.0, or look for a firmware setting or update that frees the range"
        );
    }

    #[test]
    fn iommu_with_fewer_address_bits_than_ram_is_named() {
        let text = refusal(512 * GIB, "0xfee00000 0xfeefffff msi\n");
        assert!(
            text.contains("the IOMMU of 0000:01:00.0 (group 7) has 39 address bits")
                && text.ends_with("fix: give --memory 523264M or less"),
            "{text}"
        );
    }

    #[test]
    fn more_ranges_of_ram_than_a_container_takes_are_refused_before_it_is_opened() {
        let two = "0x40000000 0x4fffffff reserved\n0x60000000 0x6fffffff reserved\n";
        let text = refusal(3 * GIB, two);
        assert!(
            text.starts_with(
                "guest RAM can't be mapped for DMA: it takes 4 mappings, and 2 are left"
            ) && text.contains("dma_entry_limit"),
            "{text}"
        );
    }
}
