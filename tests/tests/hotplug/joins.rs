//! Devices join guests that run.

use crate::{appears, bare, is_driven, served};
use serde_json::json;
use std::thread;
use tests::site;
use tests::{Api, Census, GUEST_RAM, Peer, figure};

#[test]
fn a_guest_without_devices_gets_a_card_uses_it_and_gives_it_back() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let (mut guest, api) = served();
    let before = Census::of(&guest);
    assert_eq!(before.pinned, 0);
    let said = api.ok(&["add", &format!("host={},id=nic0", nic.address())]);
    assert_eq!(said, "nic0 is at 0000:00:01.0 in the guest\n");
    appears(&mut guest, "/sys/class/net/eth0");
    peer.is_reached_by(&mut guest);
    let during = Census::of(&guest);
    assert_eq!(
        during.pinned,
        GUEST_RAM >> 10,
        "guest RAM is pinned, all of it"
    );
    assert_eq!(api.info()["device_tree"]["nic0"]["pci_bdf"], "0000:00:01.0");
    assert_eq!(api.ok(&["remove", "nic0"]), "nic0 has left the guest\n");
    assert_eq!(guest.functions(), [""; 0]);
    assert_eq!(guest.figures().list("/removed")[0]["how"], "ejected");
    let after = Census::of(&guest);
    assert_eq!(after.pinned, 0, "guest RAM is not pinned any more");
    assert_eq!((after.memslots, after.gsis), (before.memslots, before.gsis));
    // Its group can be had by others while the guest goes on.
    let nic = nic.give_back();
    peer.ping_from(&nic);
    guest.stop();
}

#[test]
fn functions_of_one_slot_come_and_go_together() {
    let (edu, disk) = (site::device("edu").assign(), site::device("disk").assign());
    let (mut guest, api) = served();
    let devices = [
        format!("host={},addr=5.1,id=edu", edu.address()),
        format!("host={},addr=5.0,id=disk", disk.address()),
    ];
    let said = api.ok(&["add", &devices[0], &devices[1]]);
    assert_eq!(
        said,
        "edu is at 0000:00:05.1 in the guest\ndisk is at 0000:00:05.0 in the guest\n"
    );
    appears(&mut guest, "/dev/nvme0n1");
    assert_eq!(guest.functions(), ["05.0", "05.1"]);
    guest.ok("dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct");
    api.ok(&["remove", "edu"]);
    assert_eq!(guest.functions(), [""; 0]);
    assert_eq!(guest.figures().list("/removed").len(), 2);
    guest.stop();
}

#[test]
fn a_device_joins_others_that_go_on() {
    let peer = Peer::up();
    let (nic, disk) = (site::device("nic").assign(), site::device("disk").assign());
    let api = Api::new();
    let mut guest = api.of(bare().device(&nic, ",id=nic0")).boot();
    peer.set_up_guest(&mut guest);
    let flood = peer.flood(&mut guest);
    let sent = flood.sent();
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    appears(&mut guest, "/dev/nvme0n1");
    guest.ok("dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct");
    assert_eq!(guest.functions(), ["01.0", "02.0"]);
    assert_eq!(api.ok(&["remove", "disk"]), "disk has left the guest\n");
    assert_eq!(guest.functions(), ["01.0"]);
    assert!(flood.sent() > sent);
    flood.stop(&mut guest);
    guest.stop();
}

#[test]
fn a_device_that_joined_is_there_after_a_reboot_and_can_leave_then() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = served();
    // As clients of Cloud Hypervisor's API do.
    let path = format!("/sys/bus/pci/devices/{}/", disk.address());
    let body = json!({"path": path, "id": "disk"}).to_string();
    let (status, added) = api.request("PUT", "vm.add-device", &body);
    let expected = json!({"id": "disk", "bdf": "0000:00:01.0"});
    assert_eq!((status, added), (200, expected));
    appears(&mut guest, "/dev/nvme0n1");
    api.ok(&["reboot"]);
    guest.wait_for_shell();
    appears(&mut guest, "/dev/nvme0n1");
    guest.ok("dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct");
    api.ok(&["remove", "disk"]);
    assert_eq!(guest.functions(), [""; 0]);
    guest.stop();
}

#[test]
fn a_device_that_is_added_while_the_guest_reboots_or_stands_still_is_found() {
    let (disk, edu) = (site::device("disk").assign(), site::device("edu").assign());
    let (mut guest, api) = served();
    api.ok(&["reboot"]);
    // Its kernel is not yet there.
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    guest.wait_for_shell();
    appears(&mut guest, "/dev/nvme0n1");
    api.ok(&["pause"]);
    api.ok(&["add", &format!("host={},id=edu,addr=9", edu.address())]);
    api.ok(&["resume"]);
    appears(&mut guest, "/sys/bus/pci/devices/0000:00:09.0");
    guest.stop();
}

#[test]
fn two_clients_at_once_add_and_remove_a_device_each() {
    let (nic, disk) = (site::device("nic").assign(), site::device("disk").assign());
    let (mut guest, api) = served();
    thread::scope(|scope| {
        for (device, id) in [(&nic, "nic0"), (&disk, "disk")] {
            let api = &api;
            scope.spawn(move || api.ok(&["add", &format!("host={},id={id}", device.address())]));
        }
    });
    is_driven(&mut guest, "01.0");
    is_driven(&mut guest, "02.0");
    thread::scope(|scope| {
        // Whoever comes second for the same device waits for the same end, or is told that it is gone.
        let removals = ["nic0", "nic0", "disk"].map(|id| {
            let api = &api;
            (id, scope.spawn(move || api.ferry(&["remove", id])))
        });
        for (id, removal) in removals {
            let told = removal.join().unwrap();
            let gone = told.errors.contains("the guest has no device of this id");
            assert!(told.code == Some(0) || (gone && id == "nic0"), "{told:?}");
        }
    });
    assert_eq!(guest.functions(), [""; 0]);
    figure("added and removed by two clients at once");
    guest.stop();
}
