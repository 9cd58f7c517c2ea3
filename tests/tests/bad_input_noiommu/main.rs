//! A host whose kernel was told to leave the IOMMU off.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tests::site::{self, Kernel};
use tests::{Attempt, Checked, HostDevice, Problem, Run, Terminal, shell};

const HOST_SET_UP: i32 = 4;

fn refused(devices: &[HostDevice]) -> Problem {
    let hosts: Vec<_> = devices
        .iter()
        .map(|device| format!("host={}", device.address()))
        .collect();
    let words: Vec<_> = hosts.iter().flat_map(|host| ["--device", host]).collect();
    let terminal = Terminal::open();
    let before = terminal.modes();
    let problem = Attempt::run(&words)
        .on(&terminal)
        .refused_for_one(HOST_SET_UP);
    assert_eq!(terminal.modes(), before);
    problem
}

/// Stands in for a program that must not run here.
fn pretend(folder: &Path, name: &str) {
    let path = folder.join(name);
    let script = format!("#!/bin/sh\necho {name} >> {}/ran\n", folder.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn iommu_that_is_off_is_turned_on_by_the_command() {
    let nic = site::device("nic");
    let problem = refused(std::slice::from_ref(&nic));
    problem.tells(
        &format!(
            "{} can't be assigned: the IOMMU is off in the kernel",
            nic.address()
        ),
        "the kernel was started with intel_iommu=off",
        "update-grub && reboot",
    );
    let folder = tempfile::tempdir().unwrap();
    let grub = folder.path().join("grub");
    fs::write(
        &grub,
        "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"quiet intel_iommu=off splash\"\n",
    )
    .unwrap();
    for name in ["update-grub", "reboot"] {
        pretend(folder.path(), name);
    }
    let command = problem.command();
    assert!(command.contains(" /etc/default/grub "), "{command}");
    let command = command.replace("/etc/default/grub", grub.to_str().unwrap());
    shell(&format!(
        "PATH={}:$PATH; {command}",
        folder.path().display()
    ));
    assert_eq!(
        fs::read_to_string(&grub).unwrap(),
        "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"quiet intel_iommu=on splash\"\n"
    );
    let ran = fs::read_to_string(folder.path().join("ran")).unwrap();
    assert_eq!(ran, "update-grub\nreboot\n");
}

#[test]
fn iommu_that_is_off_is_told_once_for_all_devices() {
    let _ = refused(&[
        site::device("nic"),
        site::device("peer"),
        site::device("disk"),
    ]);
}

#[test]
fn guest_without_devices_needs_no_iommu() {
    let run = Run::new(Kernel::Elf).without_input();
    run.command("true").start().finish();
}

#[test]
fn check_marks_the_iommu_alone() {
    let checked = Checked::by(Attempt::ferry(&["check"]));
    assert_eq!(checked.bad(), ["IOMMU"]);
    let (_, fix) = checked.on("IOMMU");
    assert!(fix.contains("intel_iommu"), "{fix}");
}
