//! What can be seen of a device that leaves: in the guest, in Ferry's figures, in its process.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tests::{Guest, HostDevice, MOMENT};

/// For the kernel's command line: what drivers say of a device that is gone must not come between the answers.
pub(crate) const QUIET: &str = "loglevel=1";

/// What Ferry holds for its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Open devices.
    pub(crate) devices: usize,
    /// Open groups.
    pub(crate) groups: usize,
    pub(crate) memslots: u64,
    pub(crate) gsis: u64,
}

impl Holdings {
    pub(crate) fn of(guest: &Guest) -> Self {
        let folder = format!("/proc/{}/fd", guest.ferry().pid());
        let links: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        let count =
            |wanted: &dyn Fn(&str) -> bool| links.iter().filter(|link| wanted(link)).count();
        let figures = guest.figures();
        Self {
            // Two descriptors each.
            devices: count(&|link| link == "anon_inode:[vfio-device]") / 2,
            groups: count(&|link| {
                // The node is gone once the group has no device for VFIO; a descriptor of it may still be open.
                let node = link.trim_end_matches(" (deleted)");
                let number = node.strip_prefix("/dev/vfio/");
                number.is_some_and(|number| number.parse::<u32>().is_ok())
            }),
            memslots: figures.number("/kvm/memslots"),
            gsis: figures.number("/kvm/gsis"),
        }
    }
}

/// How devices have left, by their ids.
pub(crate) fn departures(guest: &Guest) -> Vec<(String, String)> {
    let figures = guest.figures();
    let word = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let removed = figures.list("/removed").iter();
    removed
        .map(|entry| (word(entry, "id"), word(entry, "how")))
        .collect()
}

/// Takes a device from vfio-pci, as a user does who wants it back; how long that took.
///
/// # Panics
/// When the host's kernel is kept waiting.
#[track_caller]
pub(crate) fn unbind(device: &HostDevice) -> Duration {
    let (sender, ended) = mpsc::channel();
    let address = device.address().to_owned();
    let started = Instant::now();
    thread::spawn(move || {
        let result = fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", address);
        sender.send(result)
    });
    let result = ended.recv_timeout(MOMENT);
    assert!(
        matches!(result, Ok(Ok(()))),
        "unbinding {}: {result:?}",
        device.address()
    );
    started.elapsed()
}

/// Has the guest read its disk for as long as it lives. [`reads`] says how often it did.
pub(crate) fn read_disk_for_ever(guest: &mut Guest) {
    guest.ok(
        "(while dd if=/dev/nvme0n1 of=/dev/null bs=65536 count=16 iflag=direct 2>/dev/null; \
         do echo >> /tmp/reads; done) &",
    );
    until_read(guest);
}

/// Waits until the guest has read its disk once more.
#[track_caller]
pub(crate) fn until_read(guest: &mut Guest) {
    guest.ok("n=$(wc -l < /tmp/reads 2>/dev/null || echo 0); i=0; \
         while [ \"$(wc -l < /tmp/reads 2>/dev/null || echo 0)\" = \"$n\" ]; \
         do usleep 50000; i=$((i+1)); [ $i -lt 400 ] || exit 1; done");
}

/// Waits until the host has lost a device.
#[track_caller]
pub(crate) fn until_gone(folder: &Path, limit: Duration) -> Duration {
    let started = Instant::now();
    tests::until("the end of the device on the host", limit, || {
        (!folder.exists()).then_some(())
    });
    started.elapsed()
}
