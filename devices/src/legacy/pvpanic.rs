//! The port by which a guest tells that it has crashed (QEMU, docs/specs/pvpanic.rst; Linux, drivers/misc/pvpanic).

use crate::bus::BusDevice;
use crate::machine::{MachineControl, MachineEvent, Notice};
use std::sync::Arc;

/// The guest's kernel has panicked.
const PANICKED: u8 = 1;
/// It has crashed, and a crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;

/// The port: a read gives the events that it takes, a write tells of them.
pub struct PvPanic {
    machine: Arc<dyn MachineControl>,
    panic_ends: bool,
}

impl PvPanic {
    /// How many ports it takes.
    pub const LEN: u64 = 1;

    /// A port that tells `machine`. Whether a guest that has panicked goes on is known beforehand, since the vCPU that tells of
    /// it would reset the guest next.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineControl>, panic_ends: bool) -> Self {
        Self {
            machine,
            panic_ends,
        }
    }
}

impl BusDevice for PvPanic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (0, [byte]) => *byte = PANICKED | CRASH_LOADED,
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (0, &[value]) = (offset, data) else {
            return;
        };
        // Bits that a read does not offer mean nothing.
        if value & CRASH_LOADED != 0 {
            self.machine.tell(Notice::CrashLoaded);
        }
        if value & PANICKED != 0 {
            match self.panic_ends {
                true => self.machine.notify(MachineEvent::Panicked),
                false => self.machine.tell(Notice::Panicked),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::recorder::Recorder;

    fn port(panic_ends: bool) -> (PvPanic, Arc<Recorder>) {
        let machine = Arc::new(Recorder::default());
        (PvPanic::new(machine.clone(), panic_ends), machine)
    }

    #[test]
    fn a_read_offers_panicked_and_crash_loaded() {
        let (port, machine) = port(true);
        let mut byte = [0];
        port.read(0, &mut byte);
        assert_eq!(byte, [0b11]);
        assert!(machine.take().is_empty() && machine.take_notices().is_empty());
    }

    #[test]
    fn a_panic_ends_the_guest_or_is_only_told() {
        let (ending, machine) = port(true);
        ending.write(0, &[PANICKED]);
        assert_eq!(machine.take(), [MachineEvent::Panicked]);
        assert!(machine.take_notices().is_empty());
        let (telling, machine) = port(false);
        telling.write(0, &[PANICKED]);
        assert!(machine.take().is_empty());
        assert_eq!(machine.take_notices(), [Notice::Panicked]);
    }

    #[test]
    fn a_crash_kernel_that_takes_over_ends_nothing() {
        let (port, machine) = port(true);
        port.write(0, &[CRASH_LOADED]);
        assert!(machine.take().is_empty());
        assert_eq!(machine.take_notices(), [Notice::CrashLoaded]);
    }

    #[test]
    fn other_bits_widths_and_offsets_tell_nothing() {
        let (port, machine) = port(true);
        port.write(0, &[!(PANICKED | CRASH_LOADED)]);
        port.write(0, &[]);
        port.write(0, &[PANICKED, 0]);
        port.write(1, &[PANICKED]);
        assert!(machine.take().is_empty() && machine.take_notices().is_empty());
        let mut wide = [0; 2];
        port.read(0, &mut wide);
        assert_eq!(wide, [0xff; 2]);
        let mut beyond = [0];
        port.read(1, &mut beyond);
        assert_eq!(beyond, [0xff]);
    }
}
