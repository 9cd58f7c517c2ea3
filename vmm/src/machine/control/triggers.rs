//! What the host signals of a device: errors, and that it wants the device back.

use super::Source;
use crate::machine::assigned::Assigned;
use crate::machine::{MachineError, platform};
use devices::pci::GuestBdf;
use event_manager::{EventOps, Events};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// Of one device.
struct Pair {
    error: EventFd,
    request: EventFd,
}

/// Of all devices.
#[derive(Default)]
pub(super) struct Triggers {
    pairs: BTreeMap<GuestBdf, Pair>,
}

impl Triggers {
    /// Has the host signal what it has to say of `devices`.
    ///
    /// # Errors
    /// [`MachineError::Process`] when an eventfd can't be made; nothing is signalled then.
    pub(super) fn of(devices: &[Assigned]) -> Result<Self, MachineError> {
        let mut pairs = BTreeMap::new();
        for assigned in devices {
            let (error, request) = (platform::eventfd()?, platform::eventfd()?);
            let device = &assigned.device;
            let host = assigned.spec.host;
            // Not every device has them; without them the host's wishes are not heard.
            for (what, set) in [
                ("error", device.set_error_trigger(&error)),
                ("request", device.set_request_trigger(&request)),
            ] {
                match set {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        log::debug!("{host} has no {what} interrupt");
                    }
                    Err(error) => {
                        log::warn!("{host}: its {what} interrupt won't be heard: {error}");
                    }
                    Ok(()) => {}
                }
            }
            pairs.insert(assigned.spec.guest, Pair { error, request });
        }
        Ok(Self { pairs })
    }

    /// Listens to these as well.
    pub(super) fn join(&mut self, others: Self, ops: &mut EventOps<'_>) {
        others.listen(ops);
        self.pairs.extend(others.pairs);
    }

    /// Puts all into epoll.
    pub(super) fn listen(&self, ops: &mut EventOps<'_>) {
        for (guest, Pair { error, request }) in &self.pairs {
            for (trigger, source) in [
                (error, Source::DeviceError(*guest)),
                (request, Source::DeviceRequest(*guest)),
            ] {
                let events = Events::with_data_raw(trigger.as_raw_fd(), source.tag(), EventSet::IN);
                if let Err(error) = ops.add(events) {
                    log::error!("{source:?} can't be waited for: {error}");
                }
            }
        }
    }

    /// Forgets those of `slot`, which are still open, so that epoll can be told.
    pub(super) fn leave(&mut self, slot: u8, ops: &mut EventOps<'_>) {
        let of_slot = |guest: &GuestBdf| guest.device() == slot;
        for (_, pair) in self.pairs.extract_if(.., |guest, _| of_slot(guest)) {
            for trigger in [&pair.error, &pair.request] {
                if let Err(error) = ops.remove(Events::empty(trigger)) {
                    log::debug!("an eventfd was not in epoll: {error}");
                }
            }
        }
    }

    /// Takes note of an error of the device at `guest`.
    pub(super) fn take_error(&self, guest: GuestBdf) {
        if let Some(pair) = self.pairs.get(&guest) {
            let _ = pair.error.read();
        }
    }

    /// Takes note of the host's wish for the device at `guest`.
    pub(super) fn take_request(&self, guest: GuestBdf) {
        if let Some(pair) = self.pairs.get(&guest) {
            let _ = pair.request.read();
        }
    }
}
