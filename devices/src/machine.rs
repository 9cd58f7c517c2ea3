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
    /// The guest's kernel panicked, and that is its end.
    Panicked,
}

/// What a guest tells of itself that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its kernel panicked. What follows is up to that kernel.
    Panicked,
    /// Its kernel crashed, and a crash kernel takes over.
    CrashLoaded,
}

/// The register by which a guest asked for a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetSource {
    /// ACPI FADT `RESET_REG`.
    Acpi,
    /// Keyboard controller command 0xFE.
    I8042,
}

/// Takes [`MachineEvent`]s and [`Notice`]s; implemented by the machine's control.
///
/// Called on a vCPU thread. The calls only note what they are given; after an event that vCPU does not enter the guest again
/// before it was dealt with.
pub trait MachineControl: Send + Sync {
    /// Notes `event`. The first event wins until the machine has dealt with it.
    fn notify(&self, event: MachineEvent);

    /// Notes `notice`. Its repetition in the same boot is nothing new.
    fn tell(&self, notice: Notice);
}

#[cfg(test)]
pub(crate) mod recorder {
    use super::{MachineControl, MachineEvent, Notice};
    use std::sync::Mutex;

    /// Keeps what it is told of.
    #[derive(Default)]
    pub(crate) struct Recorder(Mutex<Vec<MachineEvent>>, Mutex<Vec<Notice>>);

    impl Recorder {
        /// The events since the last call.
        pub(crate) fn take(&self) -> Vec<MachineEvent> {
            std::mem::take(&mut self.0.lock().unwrap())
        }

        /// The notices since the last call.
        pub(crate) fn take_notices(&self) -> Vec<Notice> {
            std::mem::take(&mut self.1.lock().unwrap())
        }
    }

    impl MachineControl for Recorder {
        fn notify(&self, event: MachineEvent) {
            self.0.lock().unwrap().push(event);
        }

        fn tell(&self, notice: Notice) {
            self.1.lock().unwrap().push(notice);
        }
    }
}
