//! How vCPU threads tell the control thread that the guest can't go on as before.

use devices::host::Problem;
use devices::machine::{MachineControl, MachineEvent, Notice};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why the vCPUs stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// A device's request.
    Device(MachineEvent),
    /// A vCPU shut down: a triple fault.
    TripleFault {
        /// Which vCPU.
        vcpu: u8,
    },
    /// KVM can't go on with the guest.
    Crash {
        /// Which vCPU.
        vcpu: u8,
        /// What KVM said.
        detail: String,
    },
    /// The host failed the machine.
    Host {
        /// Which vCPU.
        vcpu: u8,
        /// What failed.
        detail: String,
    },
    /// Guest RAM can't be made reachable for devices.
    Memory(Problem),
    /// The user or a signal asked Ferry to stop.
    Stopped,
}

/// Holds the first cause until the control thread takes it.
pub(super) struct Mailbox {
    cause: Mutex<Option<StopCause>>,
    notices: Mutex<Notices>,
    /// True from the first cause until the vCPUs are started again.
    stopping: AtomicBool,
    notified: EventFd,
}

/// What the guest tells of itself: each notice once a boot, so that a guest can't fill logs with it.
#[derive(Default)]
struct Notices {
    /// Those not taken yet, in their order.
    waiting: Vec<Notice>,
    /// Those of this boot.
    told: Vec<Notice>,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// The errno of `eventfd`.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            cause: Mutex::new(None),
            notices: Mutex::default(),
            stopping: AtomicBool::new(false),
            notified: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Becomes readable when a cause or a notice is there.
    #[must_use]
    pub(super) fn notified(&self) -> &EventFd {
        &self.notified
    }

    /// Notes `cause` unless one is there already.
    pub(super) fn post(&self, cause: StopCause) {
        let mut present = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if present.is_none() {
            *present = Some(cause);
        }
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.notified.write(1) {
            log::error!("the control thread can't be told of {present:?}: {error}");
        }
    }

    /// Whether vCPUs must not enter the guest.
    #[must_use]
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Makes vCPUs stay out of the guest, for the control thread's own reasons.
    pub(super) fn hold(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Takes the cause out.
    pub(super) fn take(&self) -> Option<StopCause> {
        // A spurious wake-up is harmless: there is no cause then.
        let _ = self.notified.read();
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.take()
    }

    /// Takes the notices out. Those that were told before a cause are there when that is.
    pub(super) fn take_notices(&self) -> Vec<Notice> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut notices.waiting)
    }

    /// Lets vCPUs enter the guest again that were held: a cause that came meanwhile keeps them out.
    pub(super) fn resume(&self) {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopping.store(cause.is_some(), Ordering::Release);
    }

    /// Lets vCPUs enter the guest. All are out of it now: a cause that came after the first one was
    /// taken is of the boot that ended, and must not end the next.
    pub(super) fn release(&self) {
        let _ = self.take();
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.told.clear();
        drop(notices);
        self.stopping.store(false, Ordering::Release);
    }
}

impl MachineControl for Mailbox {
    fn notify(&self, event: MachineEvent) {
        self.post(StopCause::Device(event));
    }

    fn tell(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.told.contains(&notice) {
            return;
        }
        notices.told.push(notice);
        notices.waiting.push(notice);
        drop(notices);
        if let Err(error) = self.notified.write(1) {
            log::error!("the control thread can't be told of {notice:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::machine::ResetSource;

    #[test]
    fn first_cause_wins() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.post(StopCause::TripleFault { vcpu: 1 });
        mailbox.notify(MachineEvent::PowerOff);
        assert!(mailbox.stopping());
        assert_eq!(mailbox.take(), Some(StopCause::TripleFault { vcpu: 1 }));
        assert_eq!(mailbox.take(), None);
    }

    #[test]
    fn a_panic_wins_over_the_reset_that_follows_it() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.notify(MachineEvent::Panicked);
        mailbox.notify(MachineEvent::Reset(ResetSource::Acpi));
        let panicked = StopCause::Device(MachineEvent::Panicked);
        assert_eq!(mailbox.take(), Some(panicked));
    }

    #[test]
    fn a_notice_stops_nobody_and_is_told_once_a_boot() {
        let mailbox = Mailbox::new().unwrap();
        for notice in [Notice::CrashLoaded, Notice::Panicked, Notice::CrashLoaded] {
            mailbox.tell(notice);
        }
        assert!(!mailbox.stopping());
        assert!(mailbox.notified().read().is_ok());
        let told = [Notice::CrashLoaded, Notice::Panicked];
        assert_eq!(mailbox.take_notices(), told);
        mailbox.tell(Notice::CrashLoaded);
        assert!(mailbox.take_notices().is_empty());
        assert_eq!(mailbox.take(), None);
        mailbox.release();
        mailbox.tell(Notice::CrashLoaded);
        assert_eq!(mailbox.take_notices(), [Notice::CrashLoaded]);
    }

    #[test]
    fn a_cause_that_comes_during_a_pause_is_kept() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.hold();
        mailbox.resume();
        assert!(!mailbox.stopping());
        mailbox.hold();
        mailbox.post(StopCause::Stopped);
        mailbox.resume();
        assert!(mailbox.stopping());
        assert_eq!(mailbox.take(), Some(StopCause::Stopped));
    }

    #[test]
    fn cause_of_the_boot_that_ended_does_not_end_the_next() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.post(StopCause::TripleFault { vcpu: 0 });
        mailbox.take();
        // Another vCPU, before it was taken out of the guest.
        mailbox.post(StopCause::TripleFault { vcpu: 1 });
        mailbox.release();
        assert!(!mailbox.stopping());
        assert!(mailbox.notified().read().is_err());
        assert_eq!(mailbox.take(), None);
    }
}
