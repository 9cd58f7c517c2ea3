//! Devices that stay where they are.

use crate::{HOST_SET_UP, is_back, quietly};
use std::path::Path;
use tests::{AS_USER, Attempt, MOMENT, Rebound, USER, shell, site, until};

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
    let controller = disk.folder().join("nvme");
    let namespace = until("a disk", MOMENT, || {
        let name = only_entry(&controller)?;
        (1..10)
            .map(|number| format!("/dev/{name}n{number}"))
            .find(|node| Path::new(node).exists())
    });
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

fn only_entry(folder: &Path) -> Option<String> {
    let entry = std::fs::read_dir(folder).ok()?.next()?.ok()?;
    entry.file_name().into_string().ok()
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
