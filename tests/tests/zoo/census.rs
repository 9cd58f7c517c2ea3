//! What a Ferry holds of its host.

use std::fs;
use tests::{Figures, Guest};

/// What the process has, for comparing two moments at which the guest does the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// File descriptors.
    pub(crate) files: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Memory mappings.
    pub(crate) mappings: usize,
    /// Parts of guest memory that KVM knows.
    pub(crate) memslots: u64,
    /// GSIs of message-signalled interrupts.
    pub(crate) gsis: u64,
    /// Resident memory of its own, which guest RAM and files are not, in KiB.
    pub(crate) resident: u64,
}

impl Census {
    /// Counts.
    pub(crate) fn of(guest: &Guest) -> Self {
        let figures = guest.figures();
        let process = format!("/proc/{}", guest.ferry().pid());
        let entries = |name: &str| fs::read_dir(format!("{process}/{name}")).unwrap().count();
        let text = |name: &str| fs::read_to_string(format!("{process}/{name}")).unwrap();
        // The quicker /proc/PID/status is off by what each CPU has not added up yet.
        let rollup = text("smaps_rollup");
        let line = rollup.lines().find(|line| line.starts_with("Anonymous:"));
        let resident = line.unwrap().split_whitespace().nth(1).unwrap();
        let kvm = |name: &str| Figures::number(&figures, &format!("/kvm/{name}"));
        Self {
            files: entries("fd"),
            threads: entries("task"),
            mappings: text("maps").lines().count(),
            memslots: kvm("memslots"),
            gsis: kvm("gsis"),
            resident: resident.parse().unwrap(),
        }
    }
}

/// Fails the test when there is more of anything than there was. The allocator may take a little more memory.
#[track_caller]
pub(crate) fn assert_no_growth(before: &Census, after: &Census) {
    /// Less than one page for each time.
    const ALLOCATOR: u64 = 64;
    let same = Census {
        resident: after.resident,
        ..before.clone()
    };
    assert_eq!(*after, same);
    assert!(
        after.resident <= before.resident + ALLOCATOR,
        "resident: {} KiB, then {} KiB",
        before.resident,
        after.resident
    );
}
