//! A guest that tells of its own crash.

use super::Control;
use crate::events::{Event, PanicConsequence, PanicKind};
use crate::machine::Outcome;
use crate::spec::PanicPolicy;
use devices::machine::Notice;

impl Control {
    /// The guest panicked and does not go on. Gives how that ends the run, unless it is to be booted again.
    pub(super) fn panicked(&self) -> Option<Outcome> {
        let spec = &self.machine.spec;
        let reboot = spec.on_panic == PanicPolicy::Reboot && !spec.no_reboot;
        let (then, outcome) = match reboot {
            true => (PanicConsequence::Reboot, None),
            false => (PanicConsequence::Stop, Some(Outcome::Panicked)),
        };
        if reboot {
            log::warn!("the guest's kernel panicked");
        }
        let what = PanicKind::Panicked;
        self.events.tell(&Event::Panic { what, then });
        outcome
    }

    /// What the guest has told of itself, and goes on.
    pub(super) fn hear_notices(&self) {
        for notice in self.machine.context.mailbox.take_notices() {
            let what = match notice {
                Notice::Panicked => {
                    log::warn!("the guest's kernel panicked");
                    PanicKind::Panicked
                }
                Notice::CrashLoaded => {
                    log::warn!("the guest's kernel crashed, and its crash kernel takes over");
                    PanicKind::CrashLoaded
                }
            };
            let then = PanicConsequence::Report;
            self.events.tell(&Event::Panic { what, then });
        }
    }
}
