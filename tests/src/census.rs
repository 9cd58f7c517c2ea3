//! What a Ferry holds of its host.

use crate::Guest;
use std::fs;

/// What the process has, for comparing two moments at which the guest does the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// File descriptors.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Memory mappings.
    pub mappings: usize,
    /// Parts of guest memory that KVM knows.
    pub memslots: u64,
    /// GSIs of message-signalled interrupts.
    pub gsis: u64,
    /// What VFIO accounts for the memory that it pins for DMA, in KiB.
    pub pinned: u64,
    /// Resident memory of its own, which guest RAM and files are not, in KiB.
    pub resident: u64,
}

impl Census {
    /// Counts.
    ///
    /// # Panics
    /// When procfs does not tell.
    #[must_use]
    #[track_caller]
    pub fn of(guest: &Guest) -> Self {
        let figures = guest.figures();
        let process = format!("/proc/{}", guest.ferry().pid());
        let entries = |name: &str| match fs::read_dir(format!("{process}/{name}")) {
            Ok(entries) => entries.count(),
            Err(error) => panic!("{process}/{name}: {error}"),
        };
        Self {
            files: entries("fd"),
            threads: entries("task"),
            mappings: read(&format!("{process}/maps")).lines().count(),
            memslots: figures.number("/kvm/memslots"),
            gsis: figures.number("/kvm/gsis"),
            pinned: kib(&format!("{process}/status"), "VmLck:"),
            // The quicker figure of status is off by what each CPU has not added up yet.
            resident: kib(&format!("{process}/smaps_rollup"), "Anonymous:"),
        }
    }
}

#[track_caller]
fn read(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => panic!("{path}: {error}"),
    }
}

/// The figure behind `name` in a file of procfs.
#[track_caller]
fn kib(path: &str, name: &str) -> u64 {
    let text = read(path);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    match word.and_then(|word| word.parse().ok()) {
        Some(kib) => kib,
        None => panic!("no {name} in {text}"),
    }
}

/// Fails the test when there is more of anything than there was. The allocator may take a little more memory.
#[track_caller]
pub fn assert_no_growth(before: &Census, after: &Census) {
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
