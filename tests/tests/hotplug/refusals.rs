//! What can't be added is refused in three lines, and the guest notices nothing.

use crate::{bare, served};
use serde_json::json;
use tests::site::{self, Kernel};
use tests::{Api, Census, Guest, Peer, Rebound, Run, Told, load_driver};

/// Exit code of `ferry add` that was refused.
const REFUSED: i32 = 4;

/// A guest that must not notice.
struct Unharmed {
    guest: Guest,
    api: Api,
    before: (Vec<String>, [u64; 4]),
}

/// What a device would be of the guest's, and of Ferry's.
fn traces(guest: &mut Guest) -> (Vec<String>, [u64; 4]) {
    let census = Census::of(guest);
    let files = census.files as u64;
    (
        guest.functions(),
        [files, census.memslots, census.gsis, census.pinned],
    )
}

impl Unharmed {
    fn new() -> Self {
        let (guest, api) = served();
        Self::of(guest, api)
    }

    fn of(mut guest: Guest, api: Api) -> Self {
        let before = traces(&mut guest);
        Self { guest, api, before }
    }

    /// What `ferry add` says of `device`, for which `vm.add-device` has `status`.
    #[track_caller]
    fn refuses(&mut self, device: &str, status: u16, words: [&str; 3]) {
        let Told {
            code,
            output,
            errors,
        } = self.api.ferry(&["add", device]);
        assert_eq!((code, &*output), (Some(REFUSED), ""), "{errors}");
        let [what, why, fix] = words;
        let lines: Vec<_> = errors.lines().collect();
        assert!(lines[0].contains(what), "{errors}");
        assert!(
            lines[1].starts_with("  why: ") && lines[1].contains(why),
            "{errors}"
        );
        assert!(
            lines[2].starts_with("  fix: ") && lines[2].contains(fix),
            "{errors}"
        );
        let keys = device.split(',').filter_map(|one| one.split_once('='));
        let body: serde_json::Map<_, _> = keys
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let (answered, problems) =
            self.api
                .request("PUT", "vm.add-device", &json!(body).to_string());
        assert_eq!(answered, status, "{problems}");
        assert!(problems[0].as_str().unwrap().contains(what), "{problems}");
    }

    #[track_caller]
    fn end(mut self) {
        assert_eq!(traces(&mut self.guest), self.before);
        self.guest.stop();
    }
}

#[test]
fn a_device_that_does_not_exist_is_refused() {
    let mut unharmed = Unharmed::new();
    unharmed.refuses(
        "host=ffff:ff:1f.7",
        404,
        [
            "no PCI device ffff:ff:1f.7",
            "no function on that bus",
            "ferry devices --all",
        ],
    );
    unharmed.end();
}

#[test]
fn a_device_that_a_driver_of_the_host_has_is_refused() {
    let nic = site::device("nic");
    let mut unharmed = Unharmed::new();
    let fix = format!("ferry bind {}", nic.address());
    unharmed.refuses(
        &format!("host={}", nic.address()),
        500,
        ["is not bound to vfio-pci", "igb", &fix],
    );
    assert_eq!(nic.driver().as_deref(), Some("igb"));
    unharmed.end();
}

#[test]
fn a_device_of_another_guest_is_refused_and_stays_its() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let mut other = Run::new(Kernel::Elf).modules("igb").device(&nic, "").boot();
    peer.set_up_guest(&mut other);
    let (guest, api) = served();
    let device = format!("host={}", nic.address());
    // KVM's device for VFIO is made when a group is about to be opened for the first time, and kept.
    assert_eq!(api.ferry(&["add", &device]).code, Some(REFUSED));
    let mut unharmed = Unharmed::of(guest, api);
    unharmed.refuses(
        &device,
        409,
        ["is already in use", "ferry (pid", "stop it first"],
    );
    unharmed.end();
    assert!(peer.ping(&mut other, 3).contains("3 packets received"));
    other.stop();
}

#[test]
fn a_group_that_the_host_uses_in_part_is_refused() {
    let both = site::devices("conventional");
    load_driver(&both[1], "e1000 8139cp");
    let one = both[0].assign();
    let mut unharmed = Unharmed::new();
    unharmed.refuses(
        &format!("host={}", one.address()),
        500,
        [
            "is shared with devices the host drives",
            both[1].address(),
            "ferry bind",
        ],
    );
    unharmed.end();
}

#[test]
fn names_and_places_that_are_taken_are_refused() {
    let (disk, edu) = (site::device("disk").assign(), site::device("edu").assign());
    let api = Api::new();
    let guest = api.of(bare().device(&disk, ",id=disk,addr=6")).boot();
    let mut unharmed = Unharmed::of(guest, api);
    let there = "these devices can't be in one guest";
    let host = format!("host={}", edu.address());
    let again = format!("host={}", disk.address());
    unharmed.refuses(&again, 409, [there, "the guest has", "ferry info"]);
    unharmed.refuses(
        &format!("{host},id=disk"),
        409,
        [there, "the id 'disk' is that of", "another id="],
    );
    unharmed.refuses(
        &format!("{host},addr=6.1"),
        409,
        [there, "slot 0x6 has", "another addr="],
    );
    unharmed.refuses(
        &format!("{host},addr=7.1"),
        400,
        [there, "no function 0", "addr=0x7"],
    );
    unharmed.end();
}

/// The second device is not on vfio-pci: the first, which is, does not come either, and a managed one goes back.
#[test]
fn of_several_devices_all_come_or_none() {
    let (nic, disk) = (site::device("nic"), site::device("disk"));
    let _back = Rebound(disk.clone());
    let driver = disk.driver();
    let mut unharmed = Unharmed::new();
    let devices = [
        format!("host={},managed=on", disk.address()),
        format!("host={}", nic.address()),
    ];
    let told = unharmed.api.ferry(&["add", &devices[0], &devices[1]]);
    assert_eq!(told.code, Some(REFUSED), "{told:?}");
    assert!(told.errors.contains("is not bound to vfio-pci"), "{told:?}");
    assert_eq!(disk.driver(), driver);
    assert_eq!(unharmed.guest.functions(), [""; 0]);
    unharmed.end();
}
