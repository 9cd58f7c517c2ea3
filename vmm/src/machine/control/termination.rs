//! SIGTERM: the guest is asked to power itself off, and stopped if it doesn't.

use super::Control;
use crate::machine::mailbox::StopCause;
use event_manager::EventOps;
use std::time::{Duration, Instant};

/// How long a guest may take to ask which button was pressed. One that doesn't has no ACPI, or hangs.
const HEARING: Duration = Duration::from_secs(1);

/// A guest that was asked to power itself off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Termination {
    /// When it must have heard of it.
    heard: Instant,
    /// When it must be off.
    off: Instant,
}

impl Termination {
    fn new(now: Instant, patience: Duration) -> Self {
        let off = now.checked_add(patience).unwrap_or(now);
        Self {
            heard: now + HEARING.min(patience),
            off,
        }
    }

    /// How long from `now` to the next look at the guest.
    pub(super) fn next(&self, now: Instant) -> Duration {
        let next = if now < self.heard {
            self.heard
        } else {
            self.off
        };
        next.saturating_duration_since(now)
    }

    /// Why the guest is stopped now, if it is.
    fn over(&self, now: Instant, unheard: bool) -> Option<&'static str> {
        match () {
            () if now >= self.off => Some("has not powered itself off in time"),
            () if now >= self.heard && unheard => Some("does not heed its power button"),
            () => None,
        }
    }
}

impl Control {
    /// `count` SIGTERMs have come.
    pub(super) fn terminate(&mut self, count: usize, ops: &mut EventOps<'_>) {
        let patience = self.machine.spec.stop_timeout;
        let again = self.termination.is_some() || count > 1;
        // One that stands still hears no button.
        if again || self.paused.is_some() || patience.is_zero() {
            return self.stopped(StopCause::Stopped, ops);
        }
        log::info!("the guest is to power itself off");
        self.termination = Some(Termination::new(Instant::now(), patience));
        self.machine.hotplug.press_power_button();
        self.set_timer();
    }

    /// Stops a guest that was to be off by now.
    pub(super) fn end_termination(&mut self, ops: &mut EventOps<'_>) {
        let unheard = self.machine.hotplug.power_button_unheard();
        let over = |termination: Termination| termination.over(Instant::now(), unheard);
        if let Some(why) = self.termination.and_then(over) {
            log::warn!("the guest {why} and is stopped");
            self.stopped(StopCause::Stopped, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_not_hear_is_not_waited_for() {
        let now = Instant::now();
        let termination = Termination::new(now, Duration::from_secs(30));
        assert_eq!(termination.next(now), HEARING);
        assert!(termination.over(now, true).is_none());
        assert!(termination.over(now + HEARING, true).is_some());
    }

    #[test]
    fn a_guest_that_hears_has_until_the_deadline() {
        let now = Instant::now();
        let termination = Termination::new(now, Duration::from_secs(30));
        let later = now + HEARING;
        assert!(termination.over(later, false).is_none());
        assert_eq!(termination.next(later), Duration::from_secs(29));
        assert!(
            termination
                .over(now + Duration::from_secs(30), false)
                .is_some()
        );
    }
}
