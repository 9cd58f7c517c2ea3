//! The generic event device: tells a guest that something happened (ACPI 6.5 section 5.6.9).

use crate::bus::BusDevice;
use crate::interrupt::IrqLine;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What can happen, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericEvent {
    /// Slots of the PCI bus change: [`super::PciHotplug`] says which and how.
    PciHotplug = 1,
    /// The power button was pressed.
    PowerButton = 2,
}

/// The event register: a byte, cleared by reading it. The line is asserted while a bit is set, so that an event that comes
/// before the guest listens is not lost.
pub struct GenericEventDevice {
    events: Mutex<u8>,
    line: Box<dyn IrqLine>,
}

impl GenericEventDevice {
    /// Size of the register in bytes.
    pub const LEN: u64 = 1;

    /// A device that interrupts through `line`.
    #[must_use]
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Self {
            events: Mutex::default(),
            line,
        }
    }

    /// Tells the guest of `event`.
    pub fn raise(&self, event: GenericEvent) {
        let mut events = self.lock();
        *events |= event as u8;
        self.drive(true);
    }

    /// Whether the guest has not yet been told of `event`.
    #[must_use]
    pub fn pending(&self, event: GenericEvent) -> bool {
        *self.lock() & event as u8 != 0
    }

    /// Forgets what the guest was not told yet.
    pub fn reset(&self) {
        self.take();
    }

    fn take(&self) -> u8 {
        let mut events = self.lock();
        self.drive(false);
        std::mem::take(&mut events)
    }

    fn drive(&self, asserted: bool) {
        if let Err(error) = self.line.set_level(asserted) {
            log::error!("the ACPI event interrupt can't be set to {asserted}: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, u8> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for GenericEventDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (0, [byte]) => *byte = self.take(),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::line::FakeLine;

    fn read(device: &GenericEventDevice) -> u8 {
        let mut byte = [0xa5];
        device.read(0, &mut byte);
        byte[0]
    }

    #[test]
    fn an_event_keeps_the_line_asserted_until_it_is_read() {
        let line = FakeLine::default();
        let device = GenericEventDevice::new(Box::new(line.clone()));
        assert!(!line.asserted());
        device.raise(GenericEvent::PciHotplug);
        device.raise(GenericEvent::PciHotplug);
        assert!(line.asserted());
        assert_eq!(read(&device), GenericEvent::PciHotplug as u8);
        assert!(!line.asserted());
        assert_eq!(read(&device), 0);
    }

    #[test]
    fn events_of_two_kinds_are_told_together() {
        let line = FakeLine::default();
        let device = GenericEventDevice::new(Box::new(line.clone()));
        device.raise(GenericEvent::PciHotplug);
        device.raise(GenericEvent::PowerButton);
        assert!(device.pending(GenericEvent::PowerButton));
        assert_eq!(read(&device), 3);
        assert!(!device.pending(GenericEvent::PowerButton));
        assert!(!line.asserted());
    }

    #[test]
    fn a_reset_forgets_events() {
        let line = FakeLine::default();
        let device = GenericEventDevice::new(Box::new(line.clone()));
        device.raise(GenericEvent::PciHotplug);
        device.reset();
        assert!(!line.asserted());
        assert_eq!(read(&device), 0);
    }

    #[test]
    fn accesses_of_other_widths_read_ones_and_clear_nothing() {
        let line = FakeLine::default();
        let device = GenericEventDevice::new(Box::new(line.clone()));
        device.raise(GenericEvent::PciHotplug);
        let mut dword = [0; 4];
        device.read(0, &mut dword);
        assert_eq!(dword, [0xff; 4]);
        let mut byte = [0];
        device.read(1, &mut byte);
        assert_eq!(byte, [0xff]);
        device.write(0, &[0xff]);
        assert!(line.asserted());
    }
}
