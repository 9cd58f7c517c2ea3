//! What a device may ask of the machine as a whole.

/// An event after which the guest does not go on as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest entered S5 (ACPI sleep control register).
    PowerOff,
    /// The guest asked for a reset, through the named register.
    Reset(ResetSource),
    /// The guest wrote `value` to the debug-exit port.
    DebugExit {
        /// The byte that the guest wrote.
        value: u8,
    },
}

/// The register by which a guest asked for a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetSource {
    /// ACPI FADT `RESET_REG`.
    Acpi,
    /// Keyboard controller command 0xFE.
    I8042,
}

/// Takes [`MachineEvent`]s; implemented by the machine's control.
///
/// Called on a vCPU thread. The call only notes the event; that vCPU does not enter the guest again
/// before the event was dealt with.
pub trait MachineControl: Send + Sync {
    /// Notes `event`. The first event wins until the machine has dealt with it.
    fn notify(&self, event: MachineEvent);
}

#[cfg(test)]
pub(crate) mod recorder {
    use super::{MachineControl, MachineEvent};
    use std::sync::Mutex;

    /// Keeps the events it is told of.
    #[derive(Default)]
    pub(crate) struct Recorder(Mutex<Vec<MachineEvent>>);

    impl Recorder {
        /// The events since the last call.
        pub(crate) fn take(&self) -> Vec<MachineEvent> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl MachineControl for Recorder {
        fn notify(&self, event: MachineEvent) {
            self.0.lock().unwrap().push(event);
        }
    }
}
