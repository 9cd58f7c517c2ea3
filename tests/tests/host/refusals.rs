//! Devices that stay where they are.

use crate::{HOST_SET_UP, is_back, quietly};
use std::path::Path;
use std::process::{Child, Command};
use tests::{AS_USER, Attempt, Checked, HostDevice, MOMENT, Rebound, USER, shell, site, until};

#[test]
fn bridges_and_what_is_not_there_are_refused_at_once() {
    let nic = site::device("nic");
    let port = nic.folder().canonicalize().unwrap();
    let port = port.parent().unwrap().file_name().unwrap();
    let port = port.to_str().unwrap();
    let words = ["bind", "--force", port, "ffff:ff:1f.7", nic.address()];
    let problems = Attempt::ferry(&words).refused(HOST_SET_UP);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    problems[0].tells(port, "its header type is 1", "assign the devices behind it");
    problems[1].tells("no PCI device ffff:ff:1f.7", "", "");
}

#[test]
fn user_without_rights_is_told_to_be_root() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    for command in ["bind", "unbind"] {
        let attempt = Attempt::ferry(&[command, nic.address()]).through(&AS_USER);
        let problem = attempt.refused_for_one(HOST_SET_UP);
        problem.tells(&format!("ferry {command} needs root"), USER, "sudo");
        problem.paste_for(USER);
    }
    is_back(&nic, &driver);
}

#[test]
fn two_do_not_bind_at_once() {
    const LOCK: &str = "/run/ferry/bound/lock";
    let nic = site::device("nic");
    shell("mkdir -p /run/ferry/bound");
    for command in ["bind", "unbind"] {
        let attempt = Attempt::ferry(&[command, nic.address()]).through(&["flock", LOCK]);
        let problem = attempt.refused_for_one(HOST_SET_UP);
        problem.tells("another ferry binds or unbinds devices", LOCK, "fuser");
    }
}

#[test]
fn card_with_virtual_functions_is_bound_after_the_command() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let folder = nic.folder();
    let count = folder.join("sriov_numvfs");
    // No driver of the host's takes it.
    std::fs::write(folder.join("sriov_drivers_autoprobe"), "0").unwrap();
    std::fs::write(&count, "1").unwrap();
    let attempt = Attempt::ferry(&["bind", "--force", nic.address()]);
    let problem = attempt.refused_for_one(HOST_SET_UP);
    problem.tells(
        "has virtual functions, which would go with its driver",
        "1",
        "ferry vf set",
    );
    problem.paste();
    assert_eq!(std::fs::read_to_string(&count).unwrap().trim(), "0");
    std::fs::write(folder.join("sriov_drivers_autoprobe"), "1").unwrap();
    quietly(&["bind", nic.address()]);
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}

/// The disk is swap space as long as this is there.
struct Swap<'a>(&'a str);

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("swapoff").arg(self.0).output();
    }
}

#[test]
fn disk_that_is_swapped_to_is_bound_after_the_command() {
    let disk = site::device("disk");
    let driver = disk.driver().unwrap();
    let namespace = namespace(&disk);
    let _back = Rebound(disk.clone());
    let swap = Swap(&namespace);
    shell(&format!("mkswap {0} && swapon {0}", swap.0));

    let problem = Attempt::ferry(&["bind", disk.address()]).refused_for_one(HOST_SET_UP);
    problem.tells("is in use by the host", "is swap space", "stop using it");
    assert_eq!(problem.command(), format!("swapoff {namespace}"));
    problem.paste();
    quietly(&["bind", disk.address()]);
    quietly(&["unbind", disk.address()]);
    is_back(&disk, &driver);
}

/// The node of the disk's first namespace.
fn namespace(disk: &HostDevice) -> String {
    let controller = disk.folder().join("nvme");
    until("a disk", MOMENT, || {
        let name = only_entry(&controller)?;
        (1..10)
            .map(|number| format!("/dev/{name}n{number}"))
            .find(|node| Path::new(node).exists())
    })
}

fn only_entry(folder: &Path) -> Option<String> {
    let entry = std::fs::read_dir(folder).ok()?.next()?.ok()?;
    entry.file_name().into_string().ok()
}

/// A process that goes with the test.
struct Process(Child);

impl Process {
    /// A script that ends as `sleep`, which it is by now.
    fn of(script: &str) -> Self {
        let process = Self(Command::new("sh").args(["-c", script]).spawn().unwrap());
        let comm = format!("/proc/{}/comm", process.0.id());
        until("sleep", MOMENT, || {
            let comm = std::fs::read_to_string(&comm).ok()?;
            (comm == "sleep\n").then_some(())
        });
        process
    }

    /// As Ferry names it.
    fn named(&self) -> String {
        format!("sleep (pid {})", self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A read-only file system without any files, of the type romfs: it fits into 64 bytes.
fn empty_romfs() -> Vec<u8> {
    const LENGTH: u32 = 64;
    const DIRECTORY: u32 = 9;
    const HERE: u32 = 32;
    let name = |text: &[u8; 4]| [u32::from_be_bytes(*text), 0, 0, 0];
    let magic = [u32::from_be_bytes(*b"-rom"), u32::from_be_bytes(*b"1fs-")];
    let mut words = magic.to_vec();
    words.extend([LENGTH, 0]);
    words.extend(name(b"none"));
    words.extend([DIRECTORY, HERE, 0, 0]);
    words.extend(name(b".\0\0\0"));
    // The sum of all is 0.
    let sum = words
        .iter()
        .fold(0_u32, |sum, word| sum.wrapping_add(*word));
    words[3] = sum.wrapping_neg();
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn disk_that_a_process_has_open_is_bound_after_the_command() {
    let disk = site::device("disk");
    let driver = disk.driver().unwrap();
    let _back = Rebound(disk.clone());
    let node = namespace(&disk);
    // By a node that another has made for itself, and by the host's.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("dev/disk");
    shell(&format!(
        "mkdir {0}/dev; cp -a {node} {0}/dev/disk",
        folder.path().display()
    ));
    let copy = format!("exec sleep 600 9>> {}", copy.display());
    for script in [copy, format!("exec sleep 600 9<> {node}")] {
        let mut process = Process::of(&script);
        // Who lists all devices does not look so far.
        assert!(!quietly(&["devices"]).contains("is open in"));
        let problem = Attempt::ferry(&["bind", disk.address()]).refused_for_one(HOST_SET_UP);
        let fact = format!("is open in {}", process.named());
        problem.tells("is in use by the host", &fact, "stop using it");
        let checked = Checked::by(Attempt::ferry(&["check", disk.address()]));
        assert!(checked.on("in use").0.contains(&fact), "{checked:#?}");
        problem.paste();
        process.0.wait().unwrap();
        quietly(&["bind", disk.address()]);
        quietly(&["unbind", disk.address()]);
        is_back(&disk, &driver);
        namespace(&disk);
    }
}

#[test]
fn disk_mounted_in_another_namespace_is_bound_after_the_command() {
    let disk = site::device("disk");
    let driver = disk.driver().unwrap();
    let _back = Rebound(disk.clone());
    let node = namespace(&disk);
    std::fs::write(&node, [empty_romfs(), vec![0; 4096 - 64]].concat()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let mount = format!("mount -t romfs -o ro {node} {place} && exec sleep 600");
    let process = Process::of(&format!("exec unshare --mount sh -c '{mount}'"));
    let problem = Attempt::ferry(&["bind", disk.address()]).refused_for_one(HOST_SET_UP);
    let fact = format!(
        "is mounted at {place} in the mount namespace of {}",
        process.named()
    );
    problem.tells("is in use by the host", &fact, "stop using it");
    problem.paste();
    quietly(&["bind", disk.address()]);
    quietly(&["unbind", disk.address()]);
    is_back(&disk, &driver);
}

#[test]
fn card_of_the_default_route_is_taken_by_force_only() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let interface = nic.interface();
    let _back = Rebound(nic.clone());
    // With the interface the route goes, too.
    shell(&format!(
        "ip link set {interface} up && ip route add default dev {interface} metric 4000"
    ));
    let problem = Attempt::ferry(&["bind", nic.address()]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "is in use by the host",
        &format!("{interface} carries the default route"),
        "if the host can do without it",
    );
    let command = format!("ferry bind --force {}", nic.address());
    assert_eq!(problem.command(), command);
    problem.paste();
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}
