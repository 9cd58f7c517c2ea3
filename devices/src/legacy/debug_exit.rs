//! A port that ends the machine with an exit code, for tests that run in the guest.

use crate::bus::BusDevice;
use crate::machine::{MachineControl, MachineEvent};
use std::sync::Arc;

/// The debug-exit port: a write of 1, 2 or 4 bytes ends the machine with the lowest byte.
pub struct DebugExit {
    machine: Arc<dyn MachineControl>,
}

impl DebugExit {
    /// The port's customary address.
    pub const PORT: u64 = 0xf4;
    /// How many ports it takes: a dword write is one access.
    pub const LEN: u64 = 4;

    /// A port that tells `machine`.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineControl>) -> Self {
        Self { machine }
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, &[value] | &[value, _] | &[value, _, _, _]) = (offset, data) {
            self.machine.notify(MachineEvent::DebugExit { value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::recorder::Recorder;

    #[test]
    fn a_write_of_any_port_width_exits_with_its_low_byte() {
        let machine = Arc::new(Recorder::default());
        let port = DebugExit::new(machine.clone());
        port.write(0, &[0x10]);
        port.write(0, &[0x11, 0xff]);
        port.write(0, &[0x12, 0xff, 0xff, 0xff]);
        let exit = |value| MachineEvent::DebugExit { value };
        assert_eq!(machine.take(), [exit(0x10), exit(0x11), exit(0x12)]);
    }

    #[test]
    fn other_widths_other_offsets_and_reads_do_not_exit() {
        let machine = Arc::new(Recorder::default());
        let port = DebugExit::new(machine.clone());
        port.write(0, &[]);
        port.write(0, &[1, 2, 3]);
        port.write(1, &[1]);
        let mut data = [0; 4];
        port.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(machine.take(), []);
    }
}
