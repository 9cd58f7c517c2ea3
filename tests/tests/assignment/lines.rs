//! Interrupt lines of the host that several devices share.

use std::fs;
use std::process::Command;
use tests::{Attempt, HostDevice, load_driver, shell, site};

/// The host can't run this guest.
const HOST_SET_UP: i32 = 4;

/// vfio-pci as it treats devices whose Interrupt Disable doesn't work. Dropping it brings the driver back as it was.
struct Unmaskable;

impl Unmaskable {
    fn load() -> Self {
        // Devices would be torn from the driver.
        let bound = fs::read_dir("/sys/bus/pci/drivers/vfio-pci").unwrap();
        let devices = bound.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(':')
        });
        assert_eq!(devices.count(), 0, "devices are on vfio-pci");
        shell("modprobe -r vfio_pci && modprobe vfio_pci nointxmask=1");
        Self
    }
}

impl Drop for Unmaskable {
    fn drop(&mut self) {
        let reload = "modprobe -r vfio_pci && modprobe vfio_pci";
        let _ = Command::new("sh").args(["-c", reload]).status();
    }
}

fn irq(device: &HostDevice) -> String {
    let text = fs::read_to_string(device.folder().join("irq")).unwrap();
    text.trim().to_owned()
}

/// Both are the guest's, so no driver of the host is in the way.
#[test]
fn two_assigned_devices_that_cannot_share_their_line_are_refused_before_the_guest_starts() {
    let unmaskable = Unmaskable::load();
    let first = site::device("e1000").assign();
    let group: Vec<_> = site::devices("conventional")
        .iter()
        .map(HostDevice::assign)
        .collect();
    let second = group.iter().find(|device| irq(device) == irq(&first));
    let second = second.unwrap_or_else(|| panic!("no other device on IRQ {}", irq(&first)));
    let wanted = [&first, second].map(|device| format!("host={}", device.address()));
    let options = ["--device", &wanted[0], "--device", &wanted[1]];
    let problem = Attempt::run(&options).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!(
            "{} can't be assigned: it can't share its interrupt line",
            second.address()
        ),
        "another assigned device uses the line",
        "another slot",
    );
    drop((first, group));
    drop(unmaskable);
}

#[test]
fn a_device_that_cannot_share_its_line_is_refused_with_the_line_and_its_users() {
    let sharing = site::devices("conventional").remove(1);
    load_driver(&sharing, "8139cp");
    let interface = sharing.interface();
    shell(&format!("ip link set {interface} up"));
    let unmaskable = Unmaskable::load();
    let device = site::device("e1000").assign();
    let wanted = format!("host={}", device.address());
    let problem = Attempt::run(&["--device", &wanted]).refused_for_one(HOST_SET_UP);
    let line = irq(&sharing);
    problem.tells(
        &format!(
            "{} can't be assigned: it can't share its interrupt line",
            device.address()
        ),
        &format!("IRQ {line} is also used by {interface}, and the device has no Interrupt Disable"),
        &format!("grep ' {line}:' /proc/interrupts"),
    );
    drop(device);
    drop(unmaskable);
}
