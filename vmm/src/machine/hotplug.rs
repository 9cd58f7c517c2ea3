//! Slots whose devices leave while the guest runs: the registers that the guest sees, and what its writes do.
//!
//! A device leaves in two steps. First it is taken off the guest's bus ([`PciHost::withdraw`]), by the vCPU that ejects it or
//! by the control thread. Then the control thread, which owns it, takes it out ([`Machine::take_out`]) and sends it back to the host.

use super::MachineError;
use super::assigned::Assigned;
use super::builder::Machine;
use super::buses::{Buses, Space};
use super::pci_host::PciHost;
use super::platform::eventfd;
use crate::kvm::GsiRouting;
use arch::x86_64::layout;
use devices::acpi::{GenericEvent, GenericEventDevice, PciHotplug, SlotPower};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use vmm_sys_util::eventfd::EventFd;

// What the ACPI tables say of the registers is what the devices do.
const _: () = {
    assert!(
        layout::GED_PORTS as u64 == GenericEventDevice::LEN
            && layout::GED_EVENT_PCI_HOTPLUG == GenericEvent::PciHotplug as u8
            && layout::GED_EVENT_POWER_BUTTON == GenericEvent::PowerButton as u8
            && layout::PCI_HOTPLUG_PORTS as u64 == PciHotplug::LEN
            && PciHotplug::FILLED_OFFSET == 0
            && PciHotplug::EJECT_REQUESTS_OFFSET == 4
            && PciHotplug::EJECT_OFFSET == 8
    );
};

/// The registers for slots that change.
pub(super) struct Hotplug {
    events: Arc<GenericEventDevice>,
    registers: Arc<PciHotplug>,
    ejected: Arc<Ejected>,
}

/// What the guest has ejected and the control thread has not yet given back.
struct Ejected {
    /// The buses own the registers, so these don't own the host bridge.
    pci: Weak<PciHost>,
    slots: AtomicU32,
    notified: EventFd,
}

impl SlotPower for Ejected {
    fn eject(&self, slots: u32) {
        let Some(pci) = self.pci.upgrade() else {
            return;
        };
        each_slot(slots).for_each(|slot| pci.withdraw(slot));
        self.slots.fetch_or(slots, Ordering::SeqCst);
        if let Err(error) = self.notified.write(1) {
            log::error!("the control thread can't be told of an ejected slot: {error}");
        }
    }
}

/// The slots whose bits are set.
fn each_slot(slots: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |slot| slots >> slot & 1 != 0)
}

impl Hotplug {
    /// Puts the registers on `buses`.
    ///
    /// # Errors
    /// [`MachineError`].
    pub(super) fn attach(
        pci: &Arc<PciHost>,
        buses: &Buses,
        routing: &GsiRouting,
    ) -> Result<Self, MachineError> {
        let events = Arc::new(GenericEventDevice::new(routing.line(layout::GED_GSI)));
        let ejected = Arc::new(Ejected {
            pci: Arc::downgrade(pci),
            slots: AtomicU32::new(0),
            notified: eventfd()?,
        });
        let power = Arc::clone(&ejected) as Arc<dyn SlotPower>;
        let registers = Arc::new(PciHotplug::new(Arc::clone(&events), power));
        let ged = (layout::GED_PORT.into(), GenericEventDevice::LEN);
        buses.insert(Space::Port, ged, "acpi events", Arc::clone(&events) as _)?;
        let slots = (layout::PCI_HOTPLUG_PORT.into(), PciHotplug::LEN);
        buses.insert(
            Space::Port,
            slots,
            "pci hotplug",
            Arc::clone(&registers) as _,
        )?;
        Ok(Self {
            events,
            registers,
            ejected,
        })
    }

    /// Tells the guest that `slot` has been filled.
    pub(super) fn announce(&self, slot: u8) {
        self.registers.announce(slot);
    }

    /// Asks the guest to eject `slot`.
    pub(super) fn request_eject(&self, slot: u8) {
        self.registers.request_eject(slot);
    }

    /// Forgets what the guest was not told yet of `slot`, which is empty now.
    pub(super) fn emptied(&self, slot: u8) {
        self.registers.forget(slot);
    }

    /// Asks no longer for `slot` to be ejected; `false` if the guest has heard of it already.
    pub(super) fn withdraw_request(&self, slot: u8) -> bool {
        let unheard = self.registers.unheard(slot);
        self.registers.withdraw_request(slot);
        unheard
    }

    /// Presses the power button.
    pub(super) fn press_power_button(&self) {
        self.events.raise(GenericEvent::PowerButton);
    }

    /// Whether the guest has not yet asked which button was pressed.
    #[must_use]
    pub(super) fn power_button_unheard(&self) -> bool {
        self.events.pending(GenericEvent::PowerButton)
    }

    /// Becomes readable when the guest has ejected something.
    #[must_use]
    pub(super) fn notified(&self) -> &EventFd {
        &self.ejected.notified
    }

    /// The slots that the guest has ejected since the last call.
    pub(super) fn take_ejected(&self) -> impl Iterator<Item = u8> + use<> {
        let _ = self.ejected.notified.read();
        each_slot(self.ejected.slots.swap(0, Ordering::SeqCst))
    }

    /// Forgets what the guest was not told yet.
    pub(super) fn reset(&self) {
        self.registers.reset();
        self.events.reset();
    }
}

impl Machine {
    /// Takes whatever is in `slot` off the guest's bus, unless the guest has ejected it already. It is still open.
    pub(super) fn take_out(&mut self, slot: u8) -> Vec<Assigned> {
        self.pci.withdraw(slot);
        self.hotplug.emptied(slot);
        let Some(assigned) = &mut self.assigned else {
            return Vec::new();
        };
        let devices = &mut assigned.devices;
        let leaving = devices.extract_if(.., |one| one.spec.guest.device() == slot);
        leaving.collect()
    }
}
