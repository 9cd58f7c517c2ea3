//! The keyboard controller's reset line (Intel 8042, ports 60 and 64).

use crate::bus::BusDevice;
use crate::machine::{MachineControl, MachineEvent, ResetSource};
use std::sync::{Arc, Mutex, PoisonError};
use vm_superio::{I8042Device, Trigger};

/// Reset as vm-superio's controller triggers it.
struct ResetLine(Arc<dyn MachineControl>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.notify(MachineEvent::Reset(ResetSource::I8042));
        Ok(())
    }
}

/// A keyboard controller without keyboard: command FE at port 64 resets the machine.
///
/// The status register reads zero: both buffers are empty, so a guest's wait before it sends the
/// reset command ends at once, and a probe for a keyboard finds none.
pub struct I8042 {
    controller: Mutex<I8042Device<ResetLine>>,
}

impl I8042 {
    /// First of the controller's ports; the data port.
    pub const PORT: u64 = 0x60;
    /// How many ports it takes, from data to command. Those between are not decoded.
    pub const LEN: u64 = 5;

    const DATA: u64 = 0;
    const COMMAND: u64 = 4;

    /// A controller that tells `machine`.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineControl>) -> Self {
        Self {
            controller: Mutex::new(I8042Device::new(ResetLine(machine))),
        }
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, u8::try_from(offset), data) {
            (Self::DATA | Self::COMMAND, Ok(port), [byte]) => {
                let mut controller = self
                    .controller
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *byte = controller.read(port);
            }
            (_, _, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(port), &[value]) = (u8::try_from(offset), data) {
            let mut controller = self
                .controller
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match controller.write(port, value) {
                Ok(()) => {}
                Err(never) => match never {},
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::recorder::Recorder;

    #[test]
    fn command_fe_resets() {
        let machine = Arc::new(Recorder::default());
        let controller = I8042::new(machine.clone());
        controller.write(4, &[0xfe]);
        assert_eq!(machine.take(), [MachineEvent::Reset(ResetSource::I8042)]);
    }

    #[test]
    fn other_commands_and_data_do_not_reset() {
        let machine = Arc::new(Recorder::default());
        let controller = I8042::new(machine.clone());
        controller.write(4, &[0xaa]);
        controller.write(0, &[0xfe]);
        controller.write(4, &[0xfe, 0xfe]);
        controller.write(u64::MAX, &[0xfe]);
        assert_eq!(machine.take(), []);
    }

    #[test]
    fn input_buffer_full_is_never_set() {
        let controller = I8042::new(Arc::new(Recorder::default()));
        let mut status = [0xff];
        controller.read(4, &mut status);
        assert_eq!(status[0] & 0b11, 0);
        controller.read(1, &mut status);
        assert_eq!(status, [0xff]);
    }
}
