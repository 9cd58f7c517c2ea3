//! The assigned devices and the IOMMU context that they share.

use super::MachineError;
use super::addresses::check_entries;
use super::bus_reset::HeldGroups;
use crate::kvm::{GsiRouting, Vm};
use crate::spec::{DeviceSpec, MachineSpec};
use arch::x86_64::layout::{self, PAGE_SIZE};
use devices::memory::{MemoryRegion, RegionKind};
use devices::pci::PciFunction;
use devices::vfio::{
    OpenedDevice, PassthroughPlan, PassthroughSpec, VfioContext, VfioPciDevice, VfioProbe,
};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

/// Where the kernel lists PCI functions.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// An assigned device and what the user said of it.
pub(super) struct Assigned {
    /// The user's words.
    pub spec: DeviceSpec,
    /// The device.
    pub device: Arc<VfioPciDevice>,
    /// Uncorrectable errors that it has reported.
    pub errors: u64,
}

impl Assigned {
    /// The device as a PCI function.
    #[must_use]
    pub(super) fn function(&self) -> Arc<dyn PciFunction> {
        Arc::clone(&self.device) as Arc<dyn PciFunction>
    }
}

/// A device that is open, and what it is like.
pub(super) type Probed = (OpenedDevice, VfioProbe);

/// The devices of a machine that has or had any.
pub(super) struct AssignedDevices {
    /// In the user's order.
    ///
    /// Invariant: dropped before the context, whose container they are in.
    pub devices: Vec<Assigned>,
    context: Arc<VfioContext>,
}

impl AssignedDevices {
    /// Opens every device; the host's kernel resets each as it does.
    ///
    /// # Errors
    /// [`MachineError`].
    pub(super) fn open(
        spec: &MachineSpec,
        vm: &Vm,
        routing: &GsiRouting,
    ) -> Result<Self, MachineError> {
        let observer = vm.vfio_device()?;
        let context = VfioContext::new(Some(observer), spec.peer_to_peer, spec.passed.clone())?;
        let mut assigned = Self::none(Arc::new(context));
        // All of them have their interrupt lines while the last is probed: two that can't share one are told apart now.
        let probed = spec
            .devices
            .iter()
            .map(|spec| probe(spec, &assigned.context))
            .collect::<Result<Vec<_>, _>>()?;
        assigned.devices = assigned.realise(&spec.devices, probed, routing)?;
        Ok(assigned)
    }

    /// No device, in a context that is there.
    #[must_use]
    pub(super) fn none(context: Arc<VfioContext>) -> Self {
        Self {
            devices: Vec::new(),
            context,
        }
    }

    /// Makes devices of what was opened, to join those that are there. Slots are whole in `specs`.
    ///
    /// # Errors
    /// [`MachineError`].
    pub(super) fn realise(
        &self,
        specs: &[DeviceSpec],
        probed: Vec<Probed>,
        routing: &GsiRouting,
    ) -> Result<Vec<Assigned>, MachineError> {
        let present = self.devices.iter().map(|assigned| &assigned.spec);
        let all: Vec<_> = present.chain(specs).cloned().collect();
        let groups = HeldGroups::of(&all);
        let mut devices = Vec::with_capacity(specs.len());
        for (spec, (opened, probe)) in specs.iter().zip(probed) {
            let slot = spec.guest.device();
            let multifunction = specs
                .iter()
                .any(|other| other.guest.device() == slot && other.guest.function() > 0);
            let wanted = PassthroughSpec {
                name: spec.id.clone(),
                sbdf: spec.host,
                guest: spec.guest,
                multifunction,
                intx_gsi: Some(layout::intx_gsi(slot, 0)),
                rom: spec.rom.clone(),
                resets: groups.reset_facts(&probe),
                page_size: PAGE_SIZE,
            };
            devices.push(Assigned {
                spec: spec.clone(),
                device: realise(opened, &probe, &wanted, routing)?,
                errors: 0,
            });
        }
        Ok(devices)
    }

    /// The devices as PCI functions.
    #[must_use]
    pub(super) fn functions(&self) -> Vec<Arc<dyn PciFunction>> {
        self.devices.iter().map(Assigned::function).collect()
    }

    /// The IOMMU context of all of them.
    #[must_use]
    pub(super) fn context(&self) -> &Arc<VfioContext> {
        &self.context
    }
}

/// Opens a device and reads all about it.
///
/// # Errors
/// [`MachineError::Device`].
pub(super) fn probe(spec: &DeviceSpec, context: &VfioContext) -> Result<Probed, MachineError> {
    let failed = |source| MachineError::Device {
        host: spec.host,
        source,
    };
    let opened = OpenedDevice::open(Path::new(PCI_DEVICES), spec.host, context).map_err(failed)?;
    let probe = VfioProbe::read(&opened).map_err(failed)?;
    Ok((opened, probe))
}

fn realise(
    opened: OpenedDevice,
    probe: &VfioProbe,
    wanted: &PassthroughSpec,
    routing: &GsiRouting,
) -> Result<Arc<VfioPciDevice>, MachineError> {
    let plan = PassthroughPlan::new(probe, wanted)?;
    for line in plan.describe() {
        log::info!("{line}");
    }
    opened.release_line();
    let (msi, intx) = (Arc::new(routing.clone()), Arc::new(routing.clone()));
    let host = wanted.sbdf;
    VfioPciDevice::realise(opened, plan, msi, intx)
        .map_err(|source| MachineError::Device { host, source })
}

/// The RAM that devices reach.
pub(super) fn device_regions(ram: &[MemoryRegion]) -> impl Iterator<Item = &MemoryRegion> {
    ram.iter().filter(|region| region.kind == RegionKind::Ram)
}

/// Whether the IOMMU can map guest RAM where it is. That is known for sure only when a device is open: the kernel tells its
/// ranges of a container that has one.
///
/// # Errors
/// [`MachineError::Iova`], [`MachineError::DmaEntries`].
pub(super) fn check_reachable(
    context: &VfioContext,
    ram: &[MemoryRegion],
) -> Result<(), MachineError> {
    match context.limits() {
        Ok(limits) => {
            if let Some(available) = limits.mappings_available {
                check_entries(device_regions(ram).count(), available.into())?;
            }
            check_ranges(ram, &limits.iova_ranges)
        }
        Err(error) => {
            log::warn!("the IOMMU does not tell its limits: {error}");
            Ok(())
        }
    }
}

/// An IOMMU that tells no ranges is old and maps everything.
fn check_ranges(ram: &[MemoryRegion], usable: &[RangeInclusive<u64>]) -> Result<(), MachineError> {
    if usable.is_empty() {
        return Ok(());
    }
    for region in device_regions(ram) {
        let last = region.guest_address + (region.host.len() as u64 - 1);
        let inside = |range: &RangeInclusive<u64>| {
            range.contains(&region.guest_address) && range.contains(&last)
        };
        if !usable.iter().any(inside) {
            return Err(MachineError::Iova {
                ram: region.guest_address..=last,
                usable: usable.to_vec(),
            });
        }
    }
    Ok(())
}
