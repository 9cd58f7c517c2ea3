//! What a client can ask the control thread for.

use super::answer::Answer;
use crate::spec::DeviceRequest;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A request that makes sense, whatever becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Is there somebody?
    Ping,
    /// What the guest is made of, and its state.
    Info,
    /// Counters, as numbers in two levels of names.
    Counters,
    /// The figures of `--stats`.
    Stats,
    /// Take the vCPUs out of the guest.
    Pause,
    /// Let them in again.
    Resume,
    /// Reset the machine, as if the guest had.
    Reboot,
    /// Press the power button.
    PowerButton,
    /// End the guest, and Ferry with it.
    Shutdown,
    /// Wait for the end.
    Wait,
    /// Give the guest a device.
    AddDevice(NewDevice),
    /// Give it several, all or none: functions of one slot come together.
    AddDevices(Vec<NewDevice>),
    /// Take a device from it.
    RemoveDevice {
        /// The device.
        id: String,
        /// How.
        how: RemovalRequest,
    },
}

/// A device to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDevice {
    /// The device.
    pub device: DeviceRequest,
    /// Whether it is bound to vfio-pci first, and given back afterwards.
    pub managed: bool,
}

/// When a removal is answered, and what follows if the guest does not let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalRequest {
    /// Answered as soon as the guest was asked; it may take as long as it likes.
    Ask,
    /// Answered when the device has left, or the guest has not let go of it in time.
    Await {
        /// How long the guest may take, if not as long as the device's own timeout says.
        timeout: Option<Duration>,
        /// Whether the device is taken from it then; with a timeout of none at once.
        force: bool,
    },
}

/// Where an answer is awaited. Dropped without one, the client is told that the guest has ended.
#[derive(Debug)]
pub struct Reply {
    sender: SyncSender<Answer>,
    client: Weak<()>,
}

impl Reply {
    /// A reply, its other end, and what lasts as long as the client does.
    pub(crate) fn new() -> (Self, Receiver<Answer>, Arc<()>) {
        let (sender, answers) = mpsc::sync_channel(1);
        let present = Arc::new(());
        let client = Arc::downgrade(&present);
        (Self { sender, client }, answers, present)
    }

    /// Answers. A client that has gone does not matter.
    pub fn send(self, answer: Answer) {
        let _ = self.sender.try_send(answer);
    }

    /// Whether nobody waits any longer.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.client.strong_count() == 0
    }
}

/// A command and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// The command.
    pub command: Command,
    /// Where the answer goes.
    pub reply: Reply,
}
