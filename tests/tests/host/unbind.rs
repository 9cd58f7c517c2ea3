//! Devices that are given back, and those that can't be.

use crate::{HOST_SET_UP, driver_override, is_back, quietly, record, tells};
use std::fs;
use tests::site::{self, Kernel};
use tests::{Attempt, BOOT, HostDevice, MOMENT, Rebound, Run, shell};

#[test]
fn device_on_its_host_driver_is_not_unbound() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let problem = Attempt::ferry(&["unbind", nic.address()]).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("{} [", nic.address()),
        &format!("its driver is {driver}"),
        "ferry devices",
    );
    assert!(problem.what.ends_with("is not on vfio-pci"), "{problem:?}");
}

#[test]
fn device_that_another_bound_gets_its_default_driver() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _assigned = nic.assign();
    let output = quietly(&["unbind", nic.address()]);
    tells(output.trim_end(), &nic, &format!("vfio-pci -> {driver}"));
    is_back(&nic, &driver);
}

/// The first device behind the bridge, whose module `e1000` is not loaded.
fn without_module() -> HostDevice {
    let device = site::devices("conventional").remove(0);
    shell("modprobe -r e1000");
    assert_eq!(device.driver(), None);
    device
}

#[test]
fn module_of_a_device_that_another_bound_is_loaded() {
    let device = without_module();
    let _assigned = device.assign();
    let output = quietly(&["unbind", device.address()]);
    tells(output.trim_end(), &device, "vfio-pci -> e1000");
    is_back(&device, "e1000");
}

#[test]
fn device_that_no_driver_takes_is_told_so() {
    let device = without_module();
    let _assigned = device.assign();
    let attempt = Attempt::ferry(&["unbind", device.address()]);
    let (code, output, errors) = attempt
        .after("mount -t tmpfs none /lib/modules")
        .end(MOMENT);
    assert_eq!((code, &*errors), (0, ""));
    let end = "vfio-pci -> no driver, as none of this host takes it";
    tells(output.trim_end(), &device, end);
    assert_eq!(device.driver(), None);
}

/// vfio-pci has a list of IDs that it takes by itself; this one is off it when this is dropped.
struct Listed(String);

impl Listed {
    fn device(device: &HostDevice) -> Self {
        let digits = |file: &str| {
            let text = fs::read_to_string(device.folder().join(file)).unwrap();
            text.trim().trim_start_matches("0x").to_owned()
        };
        let id = format!("{} {}", digits("vendor"), digits("device"));
        fs::write("/sys/bus/pci/drivers/vfio-pci/new_id", &id).unwrap();
        Self(id)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let _ = fs::write("/sys/bus/pci/drivers/vfio-pci/remove_id", &self.0);
    }
}

#[test]
fn device_that_vfio_pci_takes_by_itself_is_given_back_after_the_command() {
    // Of two drivers that know a device the one that was loaded first gets it.
    let device = without_module();
    let _assigned = device.assign();
    let listed = Listed::device(&device);
    fs::write(device.folder().join("driver_override"), "\n").unwrap();
    let problem = Attempt::ferry(&["unbind", device.address()]).refused_for_one(HOST_SET_UP);
    let id = format!("[{}]", listed.0.replace(' ', ":"));
    problem.tells("is on vfio-pci again", &id, "take the ID");
    problem.paste();
    is_back(&device, "e1000");
}

#[test]
fn bind_that_was_cut_short_is_undone() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    quietly(&["bind", nic.address()]);
    // Between one driver and the other.
    fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", nic.address()).unwrap();
    assert_eq!(nic.driver(), None);
    assert_eq!(driver_override(&nic).as_deref(), Some("vfio-pci"));
    let output = quietly(&["unbind", nic.address()]);
    tells(output.trim_end(), &nic, &format!("no driver -> {driver}"));
    is_back(&nic, &driver);
}

#[test]
fn device_that_a_guest_has_is_left_to_it() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    quietly(&["bind", nic.address()]);
    let run = Run::new(Kernel::Elf)
        .without_input()
        .option("--device", format!("host={}", nic.address()))
        .option("--serial", "none")
        // A guest that has booted this far by then may power itself off.
        .option("--stop-timeout", "0");
    let mut holder = run.start();
    holder.wait_for_vcpus();

    let problem = Attempt::ferry(&["unbind", nic.address()]).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("{} [", nic.address()),
        &format!("ferry (pid {}) has", holder.pid()),
        "stop it first",
    );
    assert!(problem.what.ends_with("is in use"), "{problem:?}");
    assert!(record(&nic).exists());
    // To bind it again is no harm.
    quietly(&["bind", nic.address()]);

    problem.paste();
    assert_eq!(holder.exit(BOOT), 10, "{}", holder.state());
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}
