//! Devices that leave the running guest: because it has ejected them, because the host or a client of the API wants them, or
//! because the guest's time is over.

use super::Control;
use super::returns::Leaving;
use crate::api::{Done, Refusal, RefusalKind, RemovalRequest, Reply};
use crate::events::EjectReason;
use crate::machine::assigned::Assigned;
use crate::machine::removal::Removals;
use crate::spec::DeviceSpec;
use crate::stats::{Departure, RemovedReport};
use devices::host::Problem;
use devices::pci::GuestBdf;
use event_manager::EventOps;
use std::time::{Duration, Instant};

/// A client that waits for a device to leave.
struct Waiting {
    id: String,
    slot: u8,
    /// When it is told that the guest keeps the device, and how long that was from its request on; never when the device is
    /// taken away then.
    deadline: Option<(Instant, Duration)>,
    reply: Reply,
}

/// What is to leave, and what has left.
#[derive(Default)]
pub(super) struct Departures {
    /// Slots that are taken away when the guest's time is over.
    pub(super) removals: Removals,
    waiting: Vec<Waiting>,
    /// Slots that clients want to leave, however long that takes, who do not wait for it.
    wanted: Slots,
    /// Slots whose devices were taken and that the guest has not let go of.
    lost: Slots,
}

/// Slots of the guest's bus, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slots(u32);

impl Slots {
    fn bit(slot: u8) -> u32 {
        1_u32.checked_shl(slot.into()).unwrap_or(0)
    }

    fn add(&mut self, slot: u8) {
        self.0 |= Self::bit(slot);
    }

    fn remove(&mut self, slot: u8) {
        self.0 &= !Self::bit(slot);
    }

    fn has(self, slot: u8) -> bool {
        self.0 & Self::bit(slot) != 0
    }
}

impl Departures {
    /// Slots that can't be filled yet, a bit each.
    #[must_use]
    pub(super) fn lost(&self) -> u32 {
        self.lost.0
    }

    /// How long from `now` to the next deadline.
    #[must_use]
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let deadlines = self.waiting.iter().filter_map(|one| one.deadline);
        let left = deadlines.map(|(deadline, _)| deadline.saturating_duration_since(now));
        left.chain(self.removals.next(now)).min()
    }

    /// All slots that the guest was asked for.
    fn slots(&self) -> Vec<u8> {
        (0..32).filter(|slot| self.asked(*slot)).collect()
    }

    /// Whether anybody wants `slot` to leave.
    fn asked(&self, slot: u8) -> bool {
        self.removals.asked(slot) || self.is_clients_wish(slot)
    }

    fn is_clients_wish(&self, slot: u8) -> bool {
        self.wanted.has(slot) || self.waiting.iter().any(|one| one.slot == slot)
    }

    /// A client waits for `slot` from now on. Those that went away meanwhile do not.
    fn wait_for(&mut self, new: Waiting) {
        self.waiting.retain(|one| !one.reply.abandoned());
        self.waiting.push(new);
    }

    /// The devices of `slot` have left. Who waited for it.
    fn left(&mut self, slot: u8) -> Vec<Reply> {
        self.removals.done(slot);
        self.wanted.remove(slot);
        let waited = self.waiting.extract_if(.., |one| one.slot == slot);
        waited.map(|one| one.reply).collect()
    }
}

impl Control {
    /// The host wants a device back: the guest is to eject its slot. The host repeats itself until it has the device.
    pub(super) fn device_wanted(&mut self, guest: GuestBdf, ops: &mut EventOps<'_>) {
        self.triggers.take_request(guest);
        let Some(spec) = self.spec(guest) else { return };
        let slot = guest.device();
        self.tell_request(&spec);
        let patience = self.patience(slot);
        if patience.is_zero() {
            log::warn!("{} is wanted back by the host", spec.host);
            return self.take_away(slot, Departure::Taken, ops);
        }
        if !self.departures.removals.asked(slot) {
            log::warn!(
                "{} is wanted back by the host: the guest has {} s to eject it",
                spec.host,
                patience.as_secs()
            );
            self.tell_eject_request(slot, EjectReason::Host);
        }
        let removals = &mut self.departures.removals;
        removals.ask(slot, Instant::now(), patience);
        self.machine.hotplug.request_eject(slot);
        self.set_timer();
    }

    /// How long the guest may take to eject `slot`, all functions of which leave together.
    fn patience(&self, slot: u8) -> Duration {
        let devices = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let of_slot = devices.filter(|assigned| assigned.spec.guest.device() == slot);
        let timeouts = of_slot.map(|assigned| assigned.spec.removal.request_timeout);
        timeouts.min().unwrap_or_default()
    }

    /// A client wants the device `id` to leave, and with it all of its slot.
    pub(super) fn remove_device(
        &mut self,
        id: String,
        how: RemovalRequest,
        reply: Reply,
        ops: &mut EventOps<'_>,
    ) {
        let mut devices = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let Some(found) = devices.find(|assigned| assigned.spec.id == id) else {
            return reply.send(Err(unknown(&id)));
        };
        let slot = found.spec.guest.device();
        if self.paused.is_some() && matches!(how, RemovalRequest::Await { force: false, .. }) {
            return reply.send(Err(deaf()));
        }
        log::info!("{id} is to leave the guest");
        if !self.departures.asked(slot) {
            self.tell_eject_request(slot, EjectReason::Api);
        }
        match how {
            RemovalRequest::Ask => {
                self.departures.wanted.add(slot);
                reply.send(Ok(Done::Silently));
            }
            RemovalRequest::Await { timeout, force } => {
                let now = Instant::now();
                let time = timeout.unwrap_or_else(|| self.patience(slot));
                let deadline = now.checked_add(time).filter(|_| !force);
                if force {
                    self.departures.removals.ask(slot, now, time);
                }
                self.departures.wait_for(Waiting {
                    id,
                    slot,
                    deadline: deadline.map(|deadline| (deadline, time)),
                    reply,
                });
                // A guest that stands still can't let go.
                if force && (time.is_zero() || self.paused.is_some()) {
                    return self.take_away(slot, Departure::Taken, ops);
                }
            }
        }
        self.machine.hotplug.request_eject(slot);
        self.set_timer();
    }

    /// Does what is to follow when the guest's time for a slot is over.
    pub(super) fn end_patience(&mut self, ops: &mut EventOps<'_>) {
        let now = Instant::now();
        for slot in self.departures.removals.overdue(now) {
            self.take_away(slot, Departure::Taken, ops);
        }
        let over = |one: &mut Waiting| one.deadline.is_some_and(|(deadline, _)| deadline <= now);
        let given_up: Vec<_> = self.departures.waiting.extract_if(.., over).collect();
        for one in given_up {
            self.give_up(one);
        }
    }

    /// The guest keeps what it has not let go of, unless somebody else still wants it.
    fn give_up(&mut self, waited: Waiting) {
        let slot = waited.slot;
        let heard = self.departures.asked(slot) || !self.machine.hotplug.withdraw_request(slot);
        let (_, time) = waited.deadline.unwrap_or((Instant::now(), Duration::ZERO));
        let problem = kept(&waited.id, time, heard);
        log::warn!("{}: {}", problem.what, problem.why);
        let refusal = Refusal::new(RefusalKind::Failed, problem);
        waited.reply.send(Err(refusal));
    }

    /// Takes the devices of `slot` from the guest and sends them back to the host.
    pub(super) fn take_away(&mut self, slot: u8, how: Departure, ops: &mut EventOps<'_>) {
        // A user who wants a device to leave needs no warning that it has.
        let asked = self.departures.asked(slot) && !self.departures.is_clients_wish(slot);
        let replies = self.departures.left(slot);
        // Out of epoll while they are open.
        self.triggers.leave(slot, ops);
        let devices = self.machine.take_out(slot);
        for Assigned { spec, errors, .. } in &devices {
            tell(spec, how, asked);
            self.machine.removed.push(RemovedReport {
                id: spec.id.clone(),
                host: spec.host.to_string(),
                guest: spec.guest.to_string(),
                errors: *errors,
                how,
            });
        }
        if how == Departure::Taken {
            if !devices.is_empty() {
                self.departures.lost.add(slot);
            }
            // It is gone, but the guest's driver doesn't know.
            self.machine.hotplug.request_eject(slot);
        } else {
            self.departures.lost.remove(slot);
        }
        if devices.is_empty() && replies.is_empty() {
            return;
        }
        self.send_back(Leaving {
            devices,
            closed: Vec::new(),
            how,
            replies,
            answer: Ok(Done::Silently),
        });
    }

    pub(super) fn take_ejected(&mut self, ops: &mut EventOps<'_>) {
        for slot in self.machine.hotplug.take_ejected() {
            self.take_away(slot, Departure::Ejected, ops);
        }
        self.set_timer();
    }

    /// A guest that boots uses nothing yet: the best time for what is to leave anyway.
    pub(super) fn leave_at_reboot(&mut self, ops: &mut EventOps<'_>) {
        self.take_ejected(ops);
        for slot in self.departures.slots() {
            self.take_away(slot, Departure::Reboot, ops);
        }
        // What was lost is not there when it looks.
        self.departures.lost = Slots::default();
        self.set_timer();
    }
}

fn tell(spec: &DeviceSpec, how: Departure, asked: bool) {
    let host = spec.host;
    match how {
        Departure::Ejected if asked => log::warn!("{host} has left: the guest ejected it"),
        Departure::Ejected => log::info!("{host} has left: the guest ejected it"),
        Departure::Taken => log::warn!("{host} was taken from the guest"),
        Departure::Reboot => log::warn!("{host} has left as the guest booted again"),
    }
}

fn unknown(id: &str) -> Refusal {
    let problem = Problem::new(
        format!("{id} can't be removed"),
        "the guest has no device of this id",
        "see which it has: ferry info",
    );
    Refusal::new(RefusalKind::Unknown, problem)
}

fn deaf() -> Refusal {
    let problem = Problem::new(
        "the guest's state does not allow that",
        "the guest is paused and can't let go of a device",
        "let it run first: ferry resume; or take the device away: ferry remove --force",
    );
    Refusal::new(RefusalKind::State, problem)
}

fn kept(id: &str, time: Duration, heard: bool) -> Problem {
    let seconds = time.as_secs();
    let why = match heard {
        true => format!("the guest has not let go of it within {seconds} s"),
        false => format!(
            "the guest has not even heard within {seconds} s that it should: it has no ACPI hotplug, or hangs"
        ),
    };
    Problem::new(
        format!("{id} is still in the guest"),
        why,
        "see what the guest says of it; give it more time with --timeout SECONDS, or take the device away with --force",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_deadline_is_the_earliest_of_all() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut departures = Departures::default();
        assert_eq!(departures.next(now), None);
        departures.removals.ask(5, now, seconds(20));
        assert_eq!(departures.next(now), Some(seconds(20)));
        departures.removals.ask(6, now, seconds(2));
        assert_eq!(departures.next(now), Some(seconds(2)));
    }

    #[test]
    fn what_anybody_wants_leaves_once() {
        let mut departures = Departures::default();
        departures.removals.ask(5, Instant::now(), Duration::MAX);
        departures.wanted.add(5);
        departures.wanted.add(31);
        assert_eq!(departures.slots(), [5, 31]);
        departures.left(5);
        assert_eq!(departures.slots(), [31]);
    }
}
