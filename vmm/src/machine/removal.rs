//! Which slots are to lose their devices, and until when the guest may give them up itself.

use crate::spec::{DeviceSpec, ErrorPolicy};
use crate::stats::RemovedReport;
use devices::host::Problem;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Slots whose ejection the guest was asked for.
#[derive(Default)]
pub(super) struct Removals {
    deadlines: BTreeMap<u8, Instant>,
}

impl Removals {
    /// Notes that `slot` is to be empty `patience` after `now`. A slot that was asked for already keeps an earlier deadline.
    pub(super) fn ask(&mut self, slot: u8, now: Instant, patience: Duration) {
        // A century is for ever.
        let patience = patience.min(Duration::from_secs(100 * 365 * 86400));
        let deadline = now + patience;
        let kept = self.deadlines.entry(slot).or_insert(deadline);
        *kept = deadline.min(*kept);
    }

    /// Whether the guest was asked to eject `slot` and has not done so.
    #[must_use]
    pub(super) fn asked(&self, slot: u8) -> bool {
        self.deadlines.contains_key(&slot)
    }

    /// Notes that `slot` is empty.
    pub(super) fn done(&mut self, slot: u8) {
        self.deadlines.remove(&slot);
    }

    /// The slots for which the guest's time is over.
    #[must_use]
    pub(super) fn overdue(&self, now: Instant) -> Vec<u8> {
        let overdue = self.deadlines.iter().filter(|(_, at)| **at <= now);
        overdue.map(|(slot, _)| *slot).collect()
    }

    /// How long from `now` to the next deadline; `None` without one.
    #[must_use]
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let next = self.deadlines.values().min()?;
        Some(next.saturating_duration_since(now))
    }
}

/// Devices that have left.
#[derive(Default)]
pub(super) struct Departed {
    latest: VecDeque<RemovedReport>,
    count: u64,
}

impl Departed {
    /// How many are remembered: devices may come and go for as long as the guest lives.
    const KEPT: usize = 64;

    /// One more has left.
    pub(super) fn push(&mut self, report: RemovedReport) {
        if self.latest.len() == Self::KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(report);
        self.count += 1;
    }

    /// The latest of them, in their order.
    #[must_use]
    pub(super) fn latest(&self) -> Vec<RemovedReport> {
        self.latest.iter().cloned().collect()
    }

    /// How many have left.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

/// What follows from an uncorrectable error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ErrorResponse {
    /// The guest ends.
    Stop(Problem),
    /// The device leaves at once: it can't be trusted with the guest's memory while a driver says goodbye to it.
    TakeAway,
    /// Nothing.
    GoOn,
}

/// What the user wants to follow from an uncorrectable error of a device.
#[must_use]
pub(super) fn respond(spec: &DeviceSpec) -> ErrorResponse {
    match spec.removal.on_error {
        ErrorPolicy::Stop => ErrorResponse::Stop(failed(spec)),
        ErrorPolicy::Unplug => ErrorResponse::TakeAway,
        ErrorPolicy::Report => ErrorResponse::GoOn,
    }
}

fn failed(spec: &DeviceSpec) -> Problem {
    Problem::new(
        format!("{} reported an uncorrectable error", spec.host),
        "what it last did to the guest's memory is not known, so the guest was stopped (on-error=stop)",
        "see what the host knows of it: sudo dmesg | grep -i aer; on-error=unplug lets a guest go on without the device",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RemovalSpec;
    use crate::stats::Departure;
    use devices::pci::GuestBdf;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_repeated_request_does_not_put_the_deadline_off() {
        let now = Instant::now();
        let mut removals = Removals::default();
        removals.ask(3, now, seconds(10));
        removals.ask(3, now + seconds(9), seconds(10));
        assert!(removals.overdue(now + seconds(9)).is_empty());
        assert_eq!(removals.overdue(now + seconds(10)), [3]);
        assert_eq!(removals.next(now + seconds(4)), Some(seconds(6)));
    }

    #[test]
    fn the_most_impatient_function_of_a_slot_decides() {
        let now = Instant::now();
        let mut removals = Removals::default();
        removals.ask(3, now, seconds(10));
        removals.ask(3, now, seconds(2));
        assert_eq!(removals.overdue(now + seconds(2)), [3]);
    }

    #[test]
    fn slots_have_deadlines_of_their_own() {
        let now = Instant::now();
        let mut removals = Removals::default();
        removals.ask(3, now, seconds(10));
        removals.ask(4, now, seconds(5));
        assert_eq!(removals.next(now), Some(seconds(5)));
        assert_eq!(removals.overdue(now + seconds(7)), [4]);
        removals.done(4);
        assert!(removals.asked(3) && !removals.asked(4));
        removals.done(3);
        assert_eq!(removals.next(now), None);
    }

    #[test]
    fn of_devices_that_have_left_the_latest_are_remembered_and_all_counted() {
        let mut departed = Departed::default();
        for number in 0..100 {
            departed.push(RemovedReport {
                id: number.to_string(),
                host: String::new(),
                guest: String::new(),
                errors: 0,
                how: Departure::Ejected,
            });
        }
        let latest = departed.latest();
        let (first, last) = (latest.first().unwrap(), latest.last().unwrap());
        assert_eq!((&*first.id, &*last.id), ("36", "99"));
        assert_eq!((latest.len(), departed.count()), (64, 100));
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_no_deadline() {
        let mut removals = Removals::default();
        removals.ask(3, Instant::now(), Duration::MAX);
        assert!(
            removals
                .overdue(Instant::now() + seconds(1 << 30))
                .is_empty()
        );
    }

    #[test]
    fn an_error_stops_takes_away_or_is_reported_as_the_user_chose() {
        let respond_to = |on_error| {
            respond(&DeviceSpec {
                host: "0000:01:00.0".parse().unwrap(),
                id: "nic".to_owned(),
                guest: GuestBdf::new(3, 0).unwrap(),
                rom: Default::default(),
                removal: RemovalSpec {
                    on_error,
                    ..RemovalSpec::default()
                },
            })
        };
        assert_eq!(respond_to(ErrorPolicy::Unplug), ErrorResponse::TakeAway);
        assert_eq!(respond_to(ErrorPolicy::Report), ErrorResponse::GoOn);
        let ErrorResponse::Stop(problem) = respond_to(ErrorPolicy::Stop) else {
            panic!("not stopped");
        };
        assert_eq!(problem.what, "0000:01:00.0 reported an uncorrectable error");
    }
}
