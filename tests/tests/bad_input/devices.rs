//! Devices that can't be assigned as the host has them now.

use crate::{HOST_SET_UP, NO_INITRAMFS, got_past};
use tests::site::{self, Kernel};
use tests::{Attempt, BOOT, HostDevice, Rebound, Run, Terminal, load_driver};

fn assigning(device: &HostDevice) -> Attempt {
    Attempt::run(&["--device", &format!("host={}", device.address())])
}

/// Boots a guest that has the device and powers off.
#[track_caller]
fn boots_with(device: &HostDevice) {
    let device = format!("host={}", device.address());
    let run = Run::new(Kernel::Elf).without_input().command("true");
    run.option("--device", device).start().finish();
}

/// The command that a host's owner is told for these devices, word for word.
fn bind_command(devices: &[&HostDevice]) -> String {
    let addresses: Vec<_> = devices.iter().map(|device| device.address()).collect();
    format!("ferry bind {}", addresses.join(" "))
}

#[test]
fn address_without_a_device_lists_what_the_bus_has() {
    let nic = site::device("nic");
    let bus = nic.address().rsplit_once(':').unwrap().0;
    let absent = format!("host={bus}:1f.7");
    let problem = Attempt::run(&["--device", &absent]).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("no PCI device {bus}:1f.7 on this host"),
        &format!("that bus holds only {}", nic.address()),
        "ferry devices --all",
    );
    let problem = Attempt::run(&["--device", "host=ffff:ff:1f.7"]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "no PCI device ffff:ff:1f.7",
        "no function on that bus at all",
        "ferry devices --all",
    );
}

#[test]
fn bridge_is_refused() {
    let nic = site::device("nic");
    let port = nic.folder().canonicalize().unwrap();
    let port = port
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let problem = assigning(&HostDevice::at(port)).refused_for_one(HOST_SET_UP);
    problem.tells(port, "its header type is 1", "assign the devices behind it");
}

#[test]
fn device_on_its_host_driver_is_bound_by_the_command() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let interface = nic.interface();
    let terminal = Terminal::open();
    let before = terminal.modes();
    let problem = assigning(&nic).on(&terminal).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("{} [", nic.address()),
        &format!("its driver is {driver}, the host uses it as {interface} and will lose that"),
        &bind_command(&[&nic]),
    );
    assert!(
        problem.what.ends_with("is not bound to vfio-pci"),
        "{problem:?}"
    );
    assert_eq!(terminal.modes(), before);

    let _back = Rebound(nic.clone());
    problem.paste();
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    boots_with(&nic);
}

#[test]
fn group_shared_with_the_host_is_freed_by_the_command() {
    let conventional = site::devices("conventional");
    let [first, second] = conventional.as_slice() else {
        panic!("two devices of one group are needed");
    };
    assert_eq!(first.group(), second.group());
    for device in [first, second] {
        load_driver(device, "e1000 8139cp");
    }
    let (driver, interface) = (second.driver().unwrap(), second.interface());
    let _first = first.assign();

    let problem = assigning(first).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("IOMMU group {} of {}", first.group(), first.address()),
        &format!("{} [", second.address()),
        &bind_command(&[second]),
    );
    let driven = format!("is on driver {driver}; the host will lose {interface}");
    assert!(problem.why.ends_with(&driven), "{problem:?}");
    // Bridges of the group stand in nobody's way.
    assert_eq!(
        problem.why.matches(" is on driver ").count(),
        1,
        "{problem:?}"
    );

    let _back = Rebound(second.clone());
    problem.paste();
    assert_eq!(second.driver().as_deref(), Some("vfio-pci"));
    boots_with(first);
}

#[test]
fn device_and_its_group_on_host_drivers_are_two_problems() {
    let conventional = site::devices("conventional");
    for device in &conventional {
        load_driver(device, "e1000 8139cp");
    }
    let problems = assigning(&conventional[0]).refused(HOST_SET_UP);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    problems[0].tells(conventional[0].address(), "its driver is", "ferry bind");
    problems[1].tells(
        "IOMMU group",
        conventional[1].address(),
        conventional[1].address(),
    );
    let _back = conventional
        .clone()
        .into_iter()
        .map(Rebound)
        .collect::<Vec<_>>();
    for problem in &problems {
        problem.paste();
    }
    got_past(assigning(&conventional[0]).and(&NO_INITRAMFS));
}

#[test]
fn several_problems_are_told_at_once_and_each_once() {
    let (nic, disk) = (site::device("nic"), site::device("disk"));
    let words = [nic.address(), disk.address(), "ffff:ff:1f.7"].map(|host| format!("host={host}"));
    let run = [
        "--device", &words[0], "--device", &words[1], "--device", &words[2],
    ];
    let problems = Attempt::run(&run).refused(HOST_SET_UP);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    problems[0].tells(nic.address(), "its driver is", "ferry bind");
    problems[1].tells(
        disk.address(),
        "its driver is nvme, the host uses it as nvme",
        "ferry bind",
    );
    problems[2].tells("no PCI device", "", "ferry devices --all");
}

#[test]
fn group_that_another_has_open_names_the_holder() {
    let nic = site::device("nic").assign();
    let run = Run::new(Kernel::Elf)
        .without_input()
        .device(&nic, "")
        .option("--serial", "none")
        // A guest that has booted this far by then may power itself off.
        .option("--stop-timeout", "0");
    let mut holder = run.start();
    holder.wait_for_vcpus();
    let terminal = Terminal::open();
    let before = terminal.modes();
    let problem = assigning(&nic).on(&terminal).refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!("IOMMU group {} is already in use", nic.group()),
        &format!(
            "ferry (pid {}) has {} open",
            holder.pid(),
            nic.node().display()
        ),
        "stop it first",
    );
    assert_eq!(terminal.modes(), before);
    assert_eq!(problem.command(), format!("kill {}", holder.pid()));
    problem.paste();
    assert_eq!(holder.exit(BOOT), 10, "{}", holder.state());
}
