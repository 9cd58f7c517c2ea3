//! Resets of a whole bus, for devices that can't be reset alone.

use super::assigned::Assigned;
use super::builder::chain;
use crate::spec::DeviceSpec;
use devices::host::{HostRoot, ResetFacts};
use devices::vfio::{AffectedFunction, VfioProbe};

/// The IOMMU groups that a machine holds.
pub(super) struct HeldGroups(Vec<u32>);

impl HeldGroups {
    /// Those of these devices.
    #[must_use]
    pub(super) fn of(specs: &[DeviceSpec]) -> Self {
        let root = HostRoot::system();
        let group = |spec: &DeviceSpec| root.function(spec.host).ok()?.group;
        Self(specs.iter().filter_map(group).collect())
    }

    /// What the host says of the resets of a device, seen from a machine that holds these.
    #[must_use]
    pub(super) fn reset_facts(&self, probe: &VfioProbe) -> ResetFacts {
        let address = |function: &AffectedFunction| (function.sbdf, function.group);
        let affected: Vec<_> = probe.bus_reset.iter().map(address).collect();
        HostRoot::system().reset_facts(probe.sbdf, &affected, &self.0)
    }
}

/// Resets the buses of those devices that can't be reset alone, each bus once. All devices are quiet.
pub(super) fn reset_buses(devices: &[Assigned]) {
    let mut done: Vec<&[AffectedFunction]> = Vec::new();
    for Assigned { device, spec, .. } in devices {
        let bus = device.shares_reset_with();
        if bus.is_empty() || done.contains(&bus) {
            continue;
        }
        if let Err(error) = device.reset_bus() {
            log::warn!("{}: not reset with its bus: {}", spec.id, chain(&error));
        }
        done.push(bus);
    }
}
