//! Devices leave guests that run.

use crate::{appears, bare, served};
use std::time::{Duration, Instant};
use tests::site;
use tests::{Api, Guest, MOMENT, Peer, Told, figure, until};

/// What a guest is given that will not let go.
const TIME: &str = "2";

/// Exit code of `ferry remove` that did not.
const REFUSED: i32 = 4;

/// A guest that does not hear of slots, with a disk that it reads.
fn deaf() -> (Guest, Api) {
    let api = Api::new();
    let guest = api.of(bare().cmdline("acpiphp.disable=1")).boot();
    (guest, api)
}

#[test]
fn a_card_leaves_while_traffic_flows_and_comes_back() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let (mut guest, api) = served();
    let device = format!("host={},id=nic0", nic.address());
    for _ in 0..2 {
        api.ok(&["add", &device]);
        appears(&mut guest, "/sys/class/net/eth0");
        peer.set_up_guest(&mut guest);
        let flood = peer.flood(&mut guest);
        let sent = flood.sent();
        until("traffic", MOMENT, || (flood.sent() > sent).then_some(()));
        let started = Instant::now();
        api.ok(&["remove", "nic0"]);
        figure(&format!("left after {} ms", started.elapsed().as_millis()));
        assert_eq!(guest.functions(), [""; 0]);
        drop(flood);
    }
    guest.stop();
}

#[test]
fn a_guest_that_does_not_let_go_keeps_its_device_until_it_is_taken_by_force() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = deaf();
    let device = format!("host={},id=disk,addr=6", disk.address());
    api.ok(&["add", &device]);
    // It has no way to hear of a new device either: it looks by itself.
    guest.ok("echo 1 > /sys/bus/pci/rescan");
    appears(&mut guest, "/dev/nvme0n1");
    let started = Instant::now();
    let Told { code, errors, .. } = api.ferry(&["remove", "disk", "--timeout", TIME]);
    let took = started.elapsed();
    assert_eq!(code, Some(REFUSED), "{errors}");
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(10),
        "{took:?}"
    );
    assert!(errors.contains("disk is still in the guest"), "{errors}");
    assert!(
        errors.contains("why: the guest has not let go of it within 2 s"),
        "{errors}"
    );
    assert!(errors.contains("--force"), "{errors}");
    assert_eq!(guest.functions(), ["06.0"]);
    guest.ok("dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct");
    api.ok(&["remove", "disk", "--force", "--timeout", "0"]);
    assert_eq!(guest.figures().list("/removed")[0]["how"], "taken");
    // The guest's kernel still has it there.
    let Told { errors, .. } = api.ferry(&["add", &device]);
    assert!(
        errors.contains("has not let go of the device that was taken from slot 0x6"),
        "{errors}"
    );
    let said = api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    assert_eq!(said, "disk is at 0000:00:01.0 in the guest\n");
    // Nothing is left of it after a reboot.
    api.ok(&["remove", "disk", "--force", "--timeout", "0"]);
    api.ok(&["reboot"]);
    guest.wait_for_shell();
    api.ok(&["add", &device]);
    guest.ok("echo 1 > /sys/bus/pci/rescan");
    appears(&mut guest, "/dev/nvme0n1");
    guest.stop();
}

#[test]
fn a_guest_without_a_kernel_has_not_even_heard() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = served();
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    appears(&mut guest, "/dev/nvme0n1");
    api.ok(&["reboot"]);
    let Told { code, errors, .. } = api.ferry(&["remove", "disk", "--timeout", "0"]);
    assert_eq!(code, Some(REFUSED), "{errors}");
    assert!(errors.contains("has not even heard"), "{errors}");
    // What was not heard is not asked any more: the guest that boots keeps it.
    guest.wait_for_shell();
    appears(&mut guest, "/dev/nvme0n1");
    assert_eq!(guest.functions(), ["01.0"]);
    guest.stop();
}

#[test]
fn a_client_that_gives_up_takes_no_other_clients_wish_along() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = served();
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    appears(&mut guest, "/dev/nvme0n1");
    api.ok(&["reboot"]);
    // Nobody hears of either yet.
    let (status, _) = api.request("PUT", "vm.remove-device", r#"{"id": "disk"}"#);
    assert_eq!(status, 204);
    let told = api.ferry(&["remove", "disk", "--timeout", "0"]);
    assert_eq!(told.code, Some(REFUSED), "{told:?}");
    guest.wait_for_shell();
    until("the guest to let go of its disk", MOMENT, || {
        guest.functions().is_empty().then_some(())
    });
    guest.stop();
}

#[test]
fn a_paused_guest_is_not_asked_but_can_lose_a_device_by_force() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = served();
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    appears(&mut guest, "/dev/nvme0n1");
    api.ok(&["pause"]);
    let told = api.ferry(&["remove", "disk"]);
    assert!(
        told.errors.contains("the guest is paused and can't let go"),
        "{told:?}"
    );
    api.ok(&["remove", "disk", "--force"]);
    api.ok(&["resume"]);
    until("the guest to let go of what is gone", MOMENT, || {
        guest.functions().is_empty().then_some(())
    });
    guest.stop();
}

#[test]
fn a_reboot_lets_a_device_go_that_a_client_has_asked_for() {
    let disk = site::device("disk").assign();
    let (mut guest, api) = deaf();
    api.ok(&["add", &format!("host={},id=disk", disk.address())]);
    let (status, _) = api.request("PUT", "vm.remove-device", r#"{"id": "disk"}"#);
    assert_eq!(status, 204);
    assert_eq!(api.info()["config"]["devices"][0]["id"], "disk");
    api.ok(&["reboot"]);
    guest.wait_for_shell();
    assert_eq!(guest.functions(), [""; 0]);
    assert_eq!(guest.figures().list("/removed")[0]["how"], "reboot");
    guest.stop();
}

#[test]
fn what_is_not_there_cannot_be_removed() {
    let (mut guest, api) = served();
    let told = api.ferry(&["remove", "nic0"]);
    assert!(
        told.errors.contains("the guest has no device of this id"),
        "{told:?}"
    );
    let (status, _) = api.request("PUT", "vm.remove-device", r#"{"id": "nic0"}"#);
    assert_eq!(status, 404);
    guest.ok("true");
    guest.stop();
}
