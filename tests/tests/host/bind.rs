//! Devices that go to vfio-pci and come back.

use crate::{HOST_SET_UP, driver_override, ferry, is_back, quietly, record, tells};
use std::fs;
use tests::site::{self, Kernel};
use tests::{Attempt, HostDevice, MOMENT, Rebound, Run, load_driver, shell};

const VFIO_PCI: &str = "vfio-pci";

/// `igb -> vfio-pci, /dev/vfio/9`
fn gone(device: &HostDevice, driver: &str) -> String {
    format!("{driver} -> {VFIO_PCI}, {}", device.node().display())
}

/// `already on vfio-pci, /dev/vfio/9`
fn there(device: &HostDevice) -> String {
    format!("already on {VFIO_PCI}, {}", device.node().display())
}

#[track_caller]
fn on_vfio(device: &HostDevice) {
    assert_eq!(device.driver().as_deref(), Some(VFIO_PCI));
    assert!(device.node().exists());
}

/// Boots a guest that has the device and powers off.
#[track_caller]
fn boots_with(device: &HostDevice) {
    let device = format!("host={}", device.address());
    let run = Run::new(Kernel::Elf).without_input().command("true");
    run.option("--device", device).start().finish();
}

#[test]
fn network_card_goes_to_a_guest_and_comes_back() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let interface = nic.interface();
    let _back = Rebound(nic.clone());

    let output = quietly(&["bind", nic.short_address()]);
    tells(output.trim_end(), &nic, &gone(&nic, &driver));
    on_vfio(&nic);
    let kept = fs::read_to_string(record(&nic)).unwrap();
    let former = format!("former-driver={driver}");
    assert!(kept.lines().any(|line| line == former), "{kept}");

    // Said again, it changes nothing: not what is remembered either.
    let output = quietly(&["bind", nic.address()]);
    tells(output.trim_end(), &nic, &there(&nic));
    assert_eq!(fs::read_to_string(record(&nic)).unwrap(), kept);
    boots_with(&nic);

    let output = quietly(&["unbind", nic.short_address()]);
    tells(output.trim_end(), &nic, &format!("{VFIO_PCI} -> {driver}"));
    is_back(&nic, &driver);
    assert_eq!(nic.interface(), interface);
}

#[test]
fn disk_and_card_go_and_come_back_together() {
    let (nic, disk) = (site::device("nic"), site::device("disk"));
    let drivers = [&nic, &disk].map(|device| device.driver().unwrap());
    let _back = [&nic, &disk].map(|device| Rebound(device.clone()));
    let output = quietly(&["bind", disk.address(), nic.address(), disk.address()]);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    tells(lines[0], &disk, &gone(&disk, &drivers[1]));
    tells(lines[1], &nic, &gone(&nic, &drivers[0]));
    quietly(&["unbind", nic.address(), disk.address()]);
    is_back(&nic, &drivers[0]);
    is_back(&disk, &drivers[1]);
}

#[test]
fn pair_behind_a_bridge_goes_as_a_group() {
    let pair = site::devices("conventional");
    let [first, second] = pair.as_slice() else {
        panic!("two devices of one group are needed");
    };
    for device in &pair {
        load_driver(device, "e1000 8139cp");
    }
    let drivers = [first, second].map(|device| device.driver().unwrap());
    let _back = [first, second].map(|device| Rebound(device.clone()));

    // One alone is of no use, and Ferry says so.
    let (output, errors) = ferry(&["bind", first.address()]);
    tells(output.trim_end(), first, &gone(first, &drivers[0]));
    let command = format!("ferry bind {}\n", second.short_address());
    assert!(errors.ends_with(&command), "{errors}");
    assert_eq!(second.driver().as_ref(), Some(&drivers[1]));
    // Who has typed sudo has to type it again.
    let by_sudo = Attempt::ferry(&["bind", first.address()]).through(&["env", "SUDO_UID=1000"]);
    let (code, _, errors) = by_sudo.end(MOMENT);
    assert_eq!(code, 0, "{errors}");
    assert!(errors.ends_with(&format!(": sudo {command}")), "{errors}");

    let output = quietly(&["bind", "--group", first.address()]);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 2, "the bridge stays: {output}");
    tells(lines[0], first, &there(first));
    tells(lines[1], second, &gone(second, &drivers[1]));
    on_vfio(second);
    boots_with(first);

    quietly(&["unbind", first.address(), second.address()]);
    is_back(first, &drivers[0]);
    is_back(second, &drivers[1]);
}

#[test]
fn missing_module_is_loaded() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    shell("modprobe -r vfio_pci vfio_iommu_type1");
    let output = quietly(&["bind", nic.address()]);
    tells(output.trim_end(), &nic, &gone(&nic, &driver));
    boots_with(&nic);
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}

/// Loads what a test has unloaded.
struct Loaded;

impl Drop for Loaded {
    fn drop(&mut self) {
        shell("modprobe -a vfio_pci vfio_iommu_type1");
    }
}

#[test]
fn module_that_can_not_be_loaded_is_told() {
    let nic = site::device("nic");
    let _loaded = Loaded;
    shell("modprobe -r vfio_pci vfio_iommu_type1");
    let attempt = Attempt::ferry(&["bind", nic.address()]);
    let problem = attempt
        .after("mount -t tmpfs none /lib/modules")
        .refused_for_one(HOST_SET_UP);
    problem.tells(
        "the module vfio-pci can't be loaded",
        "exit status: 1",
        "modinfo vfio-pci",
    );
}

#[test]
fn nothing_is_bound_if_one_can_not_be() {
    let (nic, disk) = (site::device("nic"), site::device("disk"));
    let attempt = Attempt::ferry(&["bind", nic.address(), disk.address()]);
    // Refused is what has changed nothing.
    let problem = attempt
        .after("mount --bind /dev/full /sys/bus/pci/drivers/nvme/unbind")
        .refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("{} [", disk.address()),
        "No space left on device (os error 28); every device is as it was before",
        "dmesg",
    );
    for device in [&nic, &disk] {
        assert_eq!(driver_override(device), None);
        assert!(!record(device).exists());
    }
}
