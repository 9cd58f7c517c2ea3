//! The registers by which a guest learns that PCI slots change, and by which it gives them up.

use super::{GenericEvent, GenericEventDevice};
use crate::bus::BusDevice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slots that the guest is to look into, a bit each; reading clears.
const FILLED: u64 = 0;
/// Slots that the guest is to eject, a bit each; reading clears.
const EJECT_REQUESTS: u64 = 4;
/// Write only: the slots that the guest has let go of.
const EJECT: u64 = 8;

/// Takes devices from slots; implemented by the machine.
pub trait SlotPower: Send + Sync {
    /// The guest has let go of every function in the slots whose bits are set. They are off the bus when this returns, so that
    /// a guest that looks again finds the slots empty.
    ///
    /// Called on a vCPU thread.
    fn eject(&self, slots: u32);
}

/// The registers, [`PciHotplug::LEN`] bytes reached by dword accesses.
pub struct PciHotplug {
    filled: AtomicU32,
    requests: AtomicU32,
    events: Arc<GenericEventDevice>,
    power: Arc<dyn SlotPower>,
}

impl PciHotplug {
    /// Size of the registers in bytes.
    pub const LEN: u64 = 12;
    /// Offset of the register of [`PciHotplug::announce`].
    pub const FILLED_OFFSET: u64 = FILLED;
    /// Offset of the register of [`PciHotplug::request_eject`].
    pub const EJECT_REQUESTS_OFFSET: u64 = EJECT_REQUESTS;
    /// Offset of the register that leads to [`SlotPower::eject`].
    pub const EJECT_OFFSET: u64 = EJECT;

    /// Registers that interrupt through `events`.
    #[must_use]
    pub fn new(events: Arc<GenericEventDevice>, power: Arc<dyn SlotPower>) -> Self {
        Self {
            filled: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            events,
            power,
        }
    }

    /// Tells the guest that there is a device in `slot` now.
    pub fn announce(&self, slot: u8) {
        self.filled.fetch_or(bit(slot), Ordering::SeqCst);
        self.events.raise(GenericEvent::PciHotplug);
    }

    /// Whether the guest has not yet heard all it was told and asked for of `slot`.
    #[must_use]
    pub fn unheard(&self, slot: u8) -> bool {
        let both = self.filled.load(Ordering::SeqCst) | self.requests.load(Ordering::SeqCst);
        both & bit(slot) != 0
    }

    /// Asks the guest to eject `slot`. It may be asked again.
    pub fn request_eject(&self, slot: u8) {
        self.requests.fetch_or(bit(slot), Ordering::SeqCst);
        self.events.raise(GenericEvent::PciHotplug);
    }

    /// Asks no longer for `slot` to be ejected, if the guest has not heard of it.
    pub fn withdraw_request(&self, slot: u8) {
        self.requests.fetch_and(!bit(slot), Ordering::SeqCst);
    }

    /// Forgets what the guest was told and asked for of `slot`, as far as it has not heard of it.
    pub fn forget(&self, slot: u8) {
        self.withdraw_request(slot);
        self.filled.fetch_and(!bit(slot), Ordering::SeqCst);
    }

    /// Forgets what the guest was told and asked for.
    pub fn reset(&self) {
        self.filled.store(0, Ordering::SeqCst);
        self.requests.store(0, Ordering::SeqCst);
    }
}

fn bit(slot: u8) -> u32 {
    1_u32.checked_shl(slot.into()).unwrap_or(0)
}

impl BusDevice for PciHotplug {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match (offset, data.len()) {
            (FILLED, 4) => self.filled.swap(0, Ordering::SeqCst),
            (EJECT_REQUESTS, 4) => self.requests.swap(0, Ordering::SeqCst),
            _ => return data.fill(0xff),
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (EJECT, Ok(bytes)) = (offset, data.try_into()) {
            // A guest that has not heard of what is in a slot means what was there before.
            let unheard = self.filled.load(Ordering::SeqCst);
            self.power.eject(u32::from_le_bytes(bytes) & !unheard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::line::FakeLine;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Slots(Mutex<Vec<u32>>);

    impl SlotPower for Slots {
        fn eject(&self, slots: u32) {
            self.0.lock().unwrap().push(slots);
        }
    }

    fn registers() -> (PciHotplug, FakeLine, Arc<Slots>) {
        let line = FakeLine::default();
        let events = Arc::new(GenericEventDevice::new(Box::new(line.clone())));
        let slots = Arc::new(Slots::default());
        let registers = PciHotplug::new(events, slots.clone());
        (registers, line, slots)
    }

    fn read(registers: &PciHotplug, offset: u64) -> u32 {
        let mut bytes = [0xa5; 4];
        registers.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn requests_of_several_slots_are_told_together_and_once() {
        let (registers, line, _) = registers();
        registers.request_eject(3);
        registers.request_eject(31);
        assert!(line.asserted());
        let offset = PciHotplug::EJECT_REQUESTS_OFFSET;
        assert_eq!(read(&registers, offset), 1 << 3 | 1 << 31);
        assert_eq!(read(&registers, offset), 0);
        registers.request_eject(3);
        assert_eq!(read(&registers, offset), 1 << 3);
    }

    #[test]
    fn a_filled_slot_is_told_once_and_unheard_until_then() {
        let (registers, line, _) = registers();
        registers.announce(5);
        assert!(line.asserted());
        assert!(registers.unheard(5) && !registers.unheard(4));
        assert_eq!(read(&registers, PciHotplug::EJECT_REQUESTS_OFFSET), 0);
        assert_eq!(read(&registers, PciHotplug::FILLED_OFFSET), 1 << 5);
        assert!(!registers.unheard(5));
        assert_eq!(read(&registers, PciHotplug::FILLED_OFFSET), 0);
    }

    #[test]
    fn a_request_that_was_not_heard_can_be_withdrawn() {
        let (registers, ..) = registers();
        registers.request_eject(3);
        registers.request_eject(4);
        registers.withdraw_request(3);
        assert!(!registers.unheard(3));
        assert_eq!(read(&registers, PciHotplug::EJECT_REQUESTS_OFFSET), 1 << 4);
    }

    #[test]
    fn a_late_eject_does_not_meet_what_the_guest_has_not_heard_of() {
        let (registers, _, slots) = registers();
        registers.announce(3);
        let eject = |slots: u32| registers.write(PciHotplug::EJECT_OFFSET, &slots.to_le_bytes());
        eject(1 << 3 | 1 << 4);
        read(&registers, PciHotplug::FILLED_OFFSET);
        eject(1 << 3);
        assert_eq!(*slots.0.lock().unwrap(), [1 << 4, 1 << 3]);
    }

    #[test]
    fn nothing_unheard_is_left_of_a_slot_that_is_empty() {
        let (registers, ..) = registers();
        registers.announce(3);
        registers.request_eject(3);
        registers.request_eject(4);
        registers.forget(3);
        assert_eq!(read(&registers, PciHotplug::FILLED_OFFSET), 0);
        assert_eq!(read(&registers, PciHotplug::EJECT_REQUESTS_OFFSET), 1 << 4);
    }

    #[test]
    fn a_reset_forgets_requests() {
        let (registers, ..) = registers();
        registers.request_eject(3);
        registers.announce(4);
        registers.reset();
        assert_eq!(read(&registers, PciHotplug::FILLED_OFFSET), 0);
        assert_eq!(read(&registers, PciHotplug::EJECT_REQUESTS_OFFSET), 0);
    }

    #[test]
    fn only_a_dword_written_to_the_eject_register_ejects() {
        let (registers, _, slots) = registers();
        let offset = PciHotplug::EJECT_OFFSET;
        registers.write(offset, &[8]);
        registers.write(offset, &[8, 0]);
        registers.write(offset - 4, &[8, 0, 0, 0]);
        registers.write(offset + 1, &[8, 0, 0, 0]);
        assert!(slots.0.lock().unwrap().is_empty());
        registers.write(offset, &[8, 0, 0, 0x80]);
        assert_eq!(*slots.0.lock().unwrap(), [1 << 3 | 1 << 31]);
    }

    #[test]
    fn what_is_no_register_reads_ones_and_takes_no_request() {
        let (registers, ..) = registers();
        registers.request_eject(3);
        assert_eq!(read(&registers, PciHotplug::EJECT_OFFSET), u32::MAX);
        assert_eq!(read(&registers, 5), u32::MAX);
        let mut word = [0; 2];
        registers.read(PciHotplug::EJECT_REQUESTS_OFFSET, &mut word);
        assert_eq!(word, [0xff; 2]);
        assert_eq!(read(&registers, PciHotplug::EJECT_REQUESTS_OFFSET), 1 << 3);
    }
}
