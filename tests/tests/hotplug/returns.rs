//! Devices on their way back to the host.

use crate::{appears, bare, served};
use rustix::process::Signal;
use std::fs;
use std::process::Stdio;
use tests::site;
use tests::{Api, HostDevice, MOMENT, Rebound, load_driver, until};

/// Two devices of one IOMMU group, on drivers of the host.
fn pair() -> [HostDevice; 2] {
    let both = site::devices("conventional");
    let [first, second] = both.as_slice() else {
        unreachable!("two devices of one group are needed");
    };
    assert_eq!(first.group(), second.group());
    for device in [first, second] {
        load_driver(device, "e1000 8139cp");
        let _ = device.interface();
    }
    [first.clone(), second.clone()]
}

fn managed(device: &HostDevice, id: &str) -> String {
    format!("host={},id={id},managed=on", device.address())
}

#[test]
fn devices_of_one_group_go_back_when_the_last_of_them_has_left() {
    let [first, second] = pair();
    let drivers = [first.driver(), second.driver()];
    let _back = [Rebound(first.clone()), Rebound(second.clone())];
    let (mut guest, api) = served();
    api.ok(&[
        "add",
        &managed(&first, "first"),
        &managed(&second, "second"),
    ]);
    appears(&mut guest, "/sys/bus/pci/devices/0000:00:02.0");
    assert_eq!(guest.functions(), ["01.0", "02.0"]);
    api.ok(&["remove", "first"]);
    assert_eq!(guest.functions(), ["02.0"]);
    // A driver of the host can't have it while the guest has the other.
    assert_eq!(first.driver().as_deref(), Some("vfio-pci"));
    api.ok(&["remove", "second"]);
    assert_eq!([first.driver(), second.driver()], drivers);
    guest.stop();
}

#[test]
fn a_device_that_is_added_again_waits_until_it_is_back() {
    let disk = site::device("disk");
    let driver = disk.driver();
    let _back = Rebound(disk.clone());
    let (mut guest, api) = served();
    for _ in 0..3 {
        api.ok(&["add", &managed(&disk, "disk")]);
        appears(&mut guest, "/dev/nvme0n1");
        // As a client does that does not wait for the host's driver.
        let (status, _) = api.request("PUT", "vm.remove-device", r#"{"id": "disk"}"#);
        assert_eq!(status, 204);
        until("the guest to let go of its disk", MOMENT, || {
            let info = api.info();
            info["device_tree"]["disk"].is_null().then_some(())
        });
    }
    api.ok(&["add", &managed(&disk, "disk")]);
    api.ok(&["remove", "disk"]);
    assert_eq!(disk.driver(), driver);
    guest.stop();
}

#[test]
fn what_can_be_known_is_told_before_a_device_leaves_its_driver() {
    let [first, second] = pair();
    let number = |device: &HostDevice| {
        let interface = device.interface();
        fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).unwrap()
    };
    let before = number(&first);
    let (mut guest, api) = served();
    let told = api.ferry(&["add", &managed(&first, "first")]);
    assert!(told.errors.contains(second.address()), "{told:?}");
    // A driver that had lost it would have made another interface.
    assert_eq!(number(&first), before);
    guest.stop();
}

#[test]
fn a_guest_that_is_stopped_pins_nothing_for_a_device_that_was_to_come() {
    let disk = site::device("disk").assign();
    let api = Api::new();
    let mut guest = api.of(bare().memory("2G").flag("-v")).boot();
    let added = api
        .command(&["add", &format!("host={}", disk.address())])
        .stderr(Stdio::null())
        .spawn();
    let mut added = added.unwrap();
    until("guest RAM to be faulted in", MOMENT, || {
        let populated = api.info()["arriving"]["memory_populated"].as_u64();
        (populated > Some(0)).then_some(())
    });
    guest.ferry().signal(Signal::INT);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 10);
    assert!(!added.wait().unwrap().success());
    let errors = guest.ferry().errors().text();
    assert!(
        errors.contains("guest RAM are pinned for the first device"),
        "{errors}"
    );
    assert!(!errors.contains("guest RAM is pinned:"), "{errors}");
}
