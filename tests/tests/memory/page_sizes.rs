//! What KVM has mapped for a guest, by the size of the pages.

use std::fs;
use std::path::PathBuf;
use tests::Guest;

/// Numbers of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSizes {
    pub(crate) of_4k: u64,
    pub(crate) of_2m: u64,
    pub(crate) of_1g: u64,
}

impl PageSizes {
    /// Those of a guest, now.
    pub(crate) fn of(guest: &Guest) -> Self {
        // Named after the process and the descriptor of the VM.
        let start = format!("{}-", guest.ferry().pid());
        let folder = fs::read_dir("/sys/kernel/debug/kvm")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(&start)
            });
        let folder: PathBuf = folder.unwrap();
        let count = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            text.trim().parse().unwrap()
        };
        Self {
            of_4k: count("pages_4k"),
            of_2m: count("pages_2m"),
            of_1g: count("pages_1g"),
        }
    }
}
