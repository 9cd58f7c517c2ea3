//! Power-off and reset of a hardware-reduced ACPI platform (ACPI 6.5 sections 4.8.3.6 and 4.8.3.7).

use crate::bus::BusDevice;
use crate::machine::{MachineControl, MachineEvent, ResetSource};
use std::sync::Arc;

/// The `SLP_TYPx` value of S5, which the DSDT's `_S5` package tells the guest.
pub const S5_SLEEP_TYPE: u8 = 5;

/// FADT `SLEEP_CONTROL_REG`, 1 byte; write only.
const SLEEP_CONTROL: u64 = 0;
/// FADT `SLEEP_STATUS_REG`, 1 byte.
const SLEEP_STATUS: u64 = 1;
/// FADT `RESET_REG`, 1 byte; write only.
const RESET: u64 = 2;

/// Sleep Control: `SLP_TYPx`, 3 bits.
const SLEEP_TYPE_SHIFT: u8 = 2;
/// Sleep Control: width of `SLP_TYPx`.
const SLEEP_TYPE_BITS: u8 = 0b111;
/// Sleep Control: `SLP_EN`; reads as zero.
const SLEEP_ENABLE: u8 = 1 << 5;

/// The three registers as one block of [`AcpiPower::LEN`] bytes, each reached by byte accesses.
///
/// Sleep Status always reads zero: `WAK_STS` (bit 7) tells of a wake-up, and the only sleeping state
/// is S5, from which nothing wakes.
pub struct AcpiPower {
    machine: Arc<dyn MachineControl>,
}

impl AcpiPower {
    /// Size of the block in bytes.
    pub const LEN: u64 = 3;
    /// Offset of the register that FADT `SLEEP_CONTROL_REG` names.
    pub const SLEEP_CONTROL_OFFSET: u64 = SLEEP_CONTROL;
    /// Offset of the register that FADT `SLEEP_STATUS_REG` names.
    pub const SLEEP_STATUS_OFFSET: u64 = SLEEP_STATUS;
    /// Offset of the register that FADT `RESET_REG` names.
    pub const RESET_OFFSET: u64 = RESET;
    /// What FADT `RESET_VALUE` says.
    pub const RESET_VALUE: u8 = 1;

    /// Registers that tell `machine`.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineControl>) -> Self {
        Self { machine }
    }
}

impl BusDevice for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (SLEEP_CONTROL..=RESET, [byte]) => *byte = 0,
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else {
            return;
        };
        let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_BITS;
        match offset {
            SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && sleep_type == S5_SLEEP_TYPE => {
                self.machine.notify(MachineEvent::PowerOff);
            }
            RESET if value == Self::RESET_VALUE => {
                self.machine.notify(MachineEvent::Reset(ResetSource::Acpi));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::recorder::Recorder;

    #[test]
    fn sleep_enable_with_the_s5_type_powers_off() {
        let machine = Arc::new(Recorder::default());
        let power = AcpiPower::new(machine.clone());
        power.write(0, &[5 << 2 | 1 << 5]);
        assert_eq!(machine.take(), [MachineEvent::PowerOff]);
    }

    #[test]
    fn sleep_without_enable_or_of_another_type_does_nothing() {
        let machine = Arc::new(Recorder::default());
        let power = AcpiPower::new(machine.clone());
        power.write(0, &[5 << 2]);
        power.write(0, &[4 << 2 | 1 << 5]);
        power.write(0, &[0xff, 0x34]);
        power.write(1, &[5 << 2 | 1 << 5]);
        assert_eq!(machine.take(), []);
    }

    #[test]
    fn only_the_reset_value_resets() {
        let machine = Arc::new(Recorder::default());
        let power = AcpiPower::new(machine.clone());
        power.write(2, &[0]);
        power.write(2, &[3]);
        assert_eq!(machine.take(), []);
        power.write(2, &[1]);
        assert_eq!(machine.take(), [MachineEvent::Reset(ResetSource::Acpi)]);
    }

    #[test]
    fn wake_status_reads_zero_and_the_rest_ones() {
        let power = AcpiPower::new(Arc::new(Recorder::default()));
        let mut byte = [0xa5];
        power.read(1, &mut byte);
        assert_eq!(byte, [0]);
        let mut word = [0; 2];
        power.read(1, &mut word);
        assert_eq!(word, [0xff; 2]);
        power.read(3, &mut byte);
        assert_eq!(byte, [0xff]);
    }
}
