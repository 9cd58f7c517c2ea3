//! What the control thread tells of devices, in the terms of [`crate::events`].

use super::Control;
use crate::events::{DeviceAddress, EjectReason, Event, Origin, RebootReason};
use crate::spec::DeviceSpec;
use crate::stats::Departure;

impl Control {
    /// The guest runs, with the devices that it has from the start.
    pub(super) fn tell_start(&self) {
        self.events.tell(&Event::started(&self.machine.spec));
        for assigned in self.machine.assigned.iter().flat_map(|all| &all.devices) {
            self.tell_added(&assigned.spec, Origin::Start);
        }
    }

    /// The guest has a device.
    pub(super) fn tell_added(&self, spec: &DeviceSpec, how: Origin) {
        let device = spec.into();
        self.events.tell(&Event::DeviceAdded { device, how });
    }

    /// A device is the host's again.
    pub(super) fn tell_removed(&self, spec: &DeviceSpec, errors: u64, how: Departure) {
        self.events.tell(&Event::DeviceRemoved {
            device: spec.into(),
            errors,
            how,
        });
    }

    /// The host wants a device back.
    pub(super) fn tell_request(&self, spec: &DeviceSpec) {
        let device = spec.into();
        self.events.tell(&Event::RequestInterrupt { device });
    }

    /// The guest is about to be booted again.
    pub(super) fn tell_reboot(&self, why: RebootReason) {
        let boots = self.machine.boots + 1;
        self.events.tell(&Event::GuestReboot { why, boots });
    }

    /// The guest was asked to let go of `slot`. Repetitions of that are not told.
    pub(super) fn tell_eject_request(&self, slot: u8, why: EjectReason) {
        let devices = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let of_slot = devices.filter(|assigned| assigned.spec.guest.device() == slot);
        let devices = of_slot.map(|assigned| DeviceAddress::from(&assigned.spec));
        let devices = devices.collect();
        self.events.tell(&Event::EjectRequested { devices, why });
    }

    /// A device reported an uncorrectable error, its `errors`th.
    pub(super) fn tell_error(&self, spec: &DeviceSpec, errors: u64) {
        self.events.tell(&Event::ErrorInterrupt {
            device: spec.into(),
            errors,
            then: spec.removal.on_error.into(),
        });
    }
}
