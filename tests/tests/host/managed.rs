//! Devices that are bound for one run: `--device …,managed=on`.

use crate::{HOST_SET_UP, is_back, quietly, record};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use tests::site::{self, Kernel};
use tests::{
    AS_USER, Attempt, BOOT, Guest, HostDevice, Lent, MOMENT, Rebound, Run, USER, shell, until,
};

/// A signal has stopped it.
const STOPPED: i32 = 10;

fn managed(device: &HostDevice) -> String {
    format!("host={},managed=on", device.address())
}

#[test]
fn a_device_is_the_guests_for_the_run_and_the_hosts_after_it() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = Run::new(Kernel::Elf).option("--device", managed(&nic));
    let mut guest = run.modules("igb").boot();
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
    run.boot().ferry_mut().kill();
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    let listed = quietly(&["devices"]);
    let rows: Vec<_> = listed.split(nic.short_address()).collect();
    let note = "left by a ferry run that was killed: ferry unbind --stale";
    assert_eq!(listed.matches(note).count(), 1, "{listed}");
    assert!(rows[1].contains(note), "{listed}");
    quietly(&["unbind", "--stale"]);
    is_back(&nic, &driver);
    assert!(!quietly(&["devices"]).contains(note));
    assert_eq!(quietly(&["unbind", "--stale"]), "Nothing was left.\n");
}

/// What `ferry devices` says by text and by JSON, of the card, to a user without rights, after a script.
fn listed_for_a_user(nic: &HostDevice, script: &str) -> (String, Value) {
    let script = format!("{script}; set -- {} \"$@\"", AS_USER.join(" "));
    let said = |words: &[&str]| {
        let (code, output, errors) = Attempt::ferry(words).after(&script).end(MOMENT);
        assert_eq!((code, &*errors), (0, ""));
        output
    };
    let all: Vec<Value> = serde_json::from_str(&said(&["devices", "--json"])).unwrap();
    let card = all.iter().find(|one| one["address"] == nic.address());
    (said(&["devices"]), card.unwrap()["left"].clone())
}

const LEFT: &str = "left by a ferry run that was killed";
const UNSEEN: &str =
    "Only root can see whether a ferry run that was killed has left devices bound.\n";

#[test]
fn a_user_is_told_of_what_is_left_as_far_as_he_may_see_it() {
    let nic = site::device("nic");
    let _back = Rebound(nic.clone());
    shell("rm -rf /run/ferry");
    let run = Run::new(Kernel::Elf).option("--device", managed(&nic));
    let guest = Guest::of(
        run.through(&["sh", "-c", "umask 077; exec \"$@\"", "sh"])
            .start(),
    );
    let (text, left) = listed_for_a_user(&nic, "true");
    assert_eq!(left, false);
    assert!(!text.contains(LEFT) && !text.contains(UNSEEN), "{text}");
    for hidden in [
        "mount -t proc -o hidepid=2 proc /proc",
        "mount -t tmpfs -o mode=700 none /run",
    ] {
        let (text, left) = listed_for_a_user(&nic, hidden);
        assert_eq!(left, Value::Null, "{hidden}");
        assert!(!text.contains(LEFT) && text.ends_with(UNSEEN), "{text}");
    }

    // Its parent, this test, has not waited for it.
    guest.ferry().signal(Signal::KILL);
    let stat = format!("/proc/{}/stat", guest.ferry().pid());
    until("a zombie", MOMENT, || {
        let stat = fs::read_to_string(&stat).ok()?;
        stat.contains(") Z ").then_some(())
    });
    let (text, left) = listed_for_a_user(&nic, "true");
    assert_eq!(left, true);
    assert!(text.contains(LEFT) && !text.contains(UNSEEN), "{text}");
    quietly(&["unbind", "--stale"]);
    drop(guest);
    assert!(!record(&nic).exists());
}

#[test]
fn a_run_takes_over_what_a_killed_one_has_left() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = || Run::new(Kernel::Elf).option("--device", managed(&nic));
    run().boot().ferry_mut().kill();
    run().without_input().command("true").start().finish();
    is_back(&nic, &driver);
}

/// A script that sends the process a signal once vfio-pci has the card, and only then lets it go on: the node of the group
/// is not there before.
fn signalled_while_it_binds(nic: &HostDevice, signal: &str) -> String {
    let driver = format!("readlink {}/driver", nic.folder().display());
    let node = nic.node();
    let number = format!("/sys/class/vfio/{}/dev", nic.group());
    format!(
        "mount -t tmpfs none /dev/vfio; mknod -m 666 /dev/vfio/vfio c 10 196; \
         (until {driver} | grep -q vfio-pci; do sleep 0.01; done; kill -{signal} $$; \
         mknod {node} c $(tr : ' ' < {number})) & true",
        node = node.display()
    )
}

#[test]
fn a_signal_between_bind_and_start_ends_the_run_and_the_device_goes_back() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    for signal in ["TERM", "INT"] {
        let script = signalled_while_it_binds(&nic, signal);
        let attempt = Attempt::run(&["--device", &managed(&nic)]);
        let (code, _, errors) = attempt.after(&script).end(BOOT);
        assert_eq!((code, &*errors), (STOPPED, ""), "{signal}");
        is_back(&nic, &driver);
    }
}

#[test]
fn a_signal_while_the_device_is_given_back_does_not_keep_it() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let run = Run::new(Kernel::Elf).without_input().flag("-v");
    let run = run.option("--device", managed(&nic));
    let mut ferry = run.command("echo booted").start();
    ferry.wait_for(0, "booted", BOOT);
    let lock = fs::File::open("/run/ferry/bound/lock").unwrap();
    lock.try_lock().unwrap();
    let waits = "waiting for another ferry";
    let heard = ferry.errors().wait_for(0, waits, BOOT);
    heard.unwrap();
    assert!(record(&nic).exists());
    ferry.signal(Signal::TERM);
    drop(lock);
    assert_eq!(ferry.exit(BOOT), 0, "{}", ferry.state());
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
    for (words, moved) in [
        (["--memory", "size=1G,hugepages=1G"], false),
        (["--initramfs", "/nonexistent/initrd"], true),
    ] {
        let attempt = Attempt::run(&["-v", "--device", &device]).and(&words);
        let (code, _, errors) = attempt.end(BOOT);
        assert_eq!(code, HOST_SET_UP, "{errors}");
        assert_eq!(
            errors.contains("is on vfio-pci for this run"),
            moved,
            "{errors}"
        );
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
    problems[0].tells(
        "managed=on needs root",
        &format!("user {USER}"),
        "sudo ferry run",
    );
}
