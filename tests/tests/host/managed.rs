//! Devices that are bound for one run: `--device …,managed=on`.

use crate::{HOST_SET_UP, is_back, quietly, record};
use rustix::process::Signal;
use tests::site::{self, Kernel};
use tests::{AS_USER, Attempt, BOOT, Guest, HostDevice, Lent, Rebound, Run};

fn managed(device: &HostDevice) -> String {
    format!("host={},managed=on", device.address())
}

#[test]
fn a_device_is_the_guests_for_the_run_and_the_hosts_after_it() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = Run::new(Kernel::Elf).option("--device", managed(&nic));
    let mut guest = Guest::of(run.modules("igb").start());
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    assert!(record(&nic).exists());
    guest.ok("ls /sys/class/net/eth0");
    assert_eq!(guest.power_off(), 0);
    is_back(&nic, &driver);
}

#[test]
fn what_a_killed_run_has_left_is_listed_and_repaired() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = Run::new(Kernel::Elf).option("--device", managed(&nic));
    let guest = Guest::of(run.start());
    guest.ferry().signal(Signal::KILL);
    drop(guest);
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    let listed = quietly(&["devices"]);
    let rows: Vec<_> = listed.split(nic.short_address()).collect();
    let note = "left by a ferry run that was killed: sudo ferry unbind --stale";
    assert_eq!(listed.matches(note).count(), 1, "{listed}");
    assert!(rows[1].contains(note), "{listed}");
    quietly(&["unbind", "--stale"]);
    is_back(&nic, &driver);
    assert!(!quietly(&["devices"]).contains(note));
    assert_eq!(quietly(&["unbind", "--stale"]), "Nothing was left.\n");
}

#[test]
fn a_run_takes_over_what_a_killed_one_has_left() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = || Run::new(Kernel::Elf).option("--device", managed(&nic));
    let guest = Guest::of(run().start());
    guest.ferry().signal(Signal::KILL);
    drop(guest);
    run().without_input().command("true").start().finish();
    is_back(&nic, &driver);
}

#[test]
fn a_device_that_was_bound_for_good_meanwhile_stays_bound() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let mut guest = Guest::of(
        Run::new(Kernel::Elf)
            .option("--device", managed(&nic))
            .start(),
    );
    let problem = Attempt::ferry(&["unbind", nic.address()]).refused_for_one(HOST_SET_UP);
    problem.tells("is in use", "ferry", "kill");
    quietly(&["bind", nic.address()]);
    assert_eq!(guest.power_off(), 0);
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}

#[test]
fn a_run_that_is_refused_leaves_the_device_with_its_driver() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let device = managed(&nic);
    // Known before the device would move, and known after.
    for words in [
        ["--memory", "1023T"],
        ["--initramfs", "/nonexistent/initrd"],
    ] {
        let attempt = Attempt::run(&["--device", &device]).and(&words);
        let (code, _, errors) = attempt.end(BOOT);
        assert_eq!(code, HOST_SET_UP, "{errors}");
        is_back(&nic, &driver);
    }
    is_told_to_be_root(&nic);
    is_back(&nic, &driver);
}

#[track_caller]
fn is_told_to_be_root(nic: &HostDevice) {
    let _opened = Lent::with_mode("/dev/kvm", 0o666);
    let attempt = Attempt::run(&["--device", &managed(nic)]).through(&AS_USER);
    let problems = attempt.refused(HOST_SET_UP);
    problems[0].tells("managed=on needs root", "user 1000", "sudo ferry run");
}
