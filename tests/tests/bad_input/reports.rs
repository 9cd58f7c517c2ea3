//! A report shows who gets it what its user saw, and no more.

use crate::{HOST_SET_UP, USAGE};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use tests::site;
use tests::{AS_USER, Attempt, HostDevice, MOMENT, load_driver, shell};

/// A folder that any user may write to, and the name of a report in it.
fn place() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    shell(&format!("chmod 0777 {}", folder.path().display()));
    let path = folder.path().join("host.report");
    (folder, path)
}

/// Standard output of a `ferry` that finds nothing wrong with its command line.
#[track_caller]
fn told(attempt: Attempt) -> String {
    let (code, output, errors) = attempt.end(MOMENT);
    assert!(code < USAGE && errors.is_empty(), "{code}\n{errors}");
    output
}

/// The addresses of all devices.
fn all_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/bus/pci/devices").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

/// Saves a report as a user with some limits, and compares what that user is told of all devices, and of some alone, with
/// what root is told of the report.
fn is_told_the_same(wrapper: &[&str], alone: &[HostDevice]) {
    let (_folder, path) = place();
    let path = path.to_str().unwrap();
    let save = Attempt::ferry(&["check", "--save-report", path]).through(wrapper);
    let (code, _, errors) = save.end_without_change(MOMENT);
    assert!(code < USAGE, "{errors}");
    assert!(
        errors.contains(path) && errors.lines().count() == 1,
        "{errors}"
    );
    let compare = |words: &[&str]| {
        let live = told(Attempt::ferry(words).through(wrapper));
        let saved = told(Attempt::ferry(words).and(&["--report", path]));
        assert_eq!(saved, live, "{words:?}");
    };
    let all = all_devices();
    let check = |devices: &[&str]| {
        let words = ["check", "--json", "--memory", "size=2G,hugepages=2M"];
        compare(&[&words, devices].concat());
    };
    check(&all.iter().map(String::as_str).collect::<Vec<_>>());
    for device in alone {
        check(&[device.address()]);
    }
    if !alone.is_empty() {
        compare(&["check"]);
        compare(&["devices", "--all"]);
    }
}

#[test]
fn who_has_a_report_is_told_what_root_was_told() {
    let conventional = site::devices("conventional");
    load_driver(&conventional[1], "e1000 8139cp");
    let first = conventional[0].assign();
    let alone = [first.clone(), site::device("disk")];
    is_told_the_same(&[], &alone);
}

#[test]
fn who_has_a_report_is_told_what_others_were_told() {
    let _nic = site::device("nic").assign();
    is_told_the_same(&AS_USER, &[]);
    let limit = [
        "prlimit",
        "--memlock=8388608:8388608",
        "setpriv",
        "--bounding-set=-ipc_lock",
    ];
    is_told_the_same(&limit, &[]);
}

#[test]
fn a_report_tells_of_the_default_route_and_of_no_address() {
    let nic = site::device("nic");
    let interface = nic.interface();
    let mac = fs::read_to_string(format!("/sys/class/net/{interface}/address")).unwrap();
    shell(&format!(
        "ip link set {interface} up && ip address add 198.51.100.1/24 dev {interface} && ip route add default via 198.51.100.2"
    ));
    let (_folder, path) = place();
    let words = [
        "check",
        "--save-report",
        path.to_str().unwrap(),
        nic.address(),
    ];
    let (code, output, _) = Attempt::ferry(&words).end(MOMENT);
    shell(&format!(
        "ip address del 198.51.100.1/24 dev {interface} && ip link set {interface} down"
    ));
    assert_eq!(code, 1);
    let use_of_host = format!("{interface} carries the default route");
    assert!(output.contains(&use_of_host), "{output}");
    let report = fs::read_to_string(&path).unwrap();
    for secret in [mac.trim(), "026433C6", "016433C6", "198.51.100"] {
        assert!(!report.contains(secret), "{secret}");
    }
    let from_report = ["check", "--report", path.to_str().unwrap(), nic.address()];
    assert!(told(Attempt::ferry(&from_report)).contains(&use_of_host));
}

#[test]
fn a_report_is_not_written_over_a_file_and_what_is_none_is_refused() {
    let (folder, path) = place();
    let text = "ferry host report 1\nmade-by ferry 9\nfile /../etc/shadow\n";
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let there = Attempt::ferry(&["check", "--save-report", path]).refused_for_one(HOST_SET_UP);
    there.tells(
        "is there already",
        "not written over a file",
        "another name",
    );
    assert_eq!(fs::read_to_string(path).unwrap(), text);
    let nowhere = format!("{path}/x");
    let attempt = Attempt::ferry(&["check", "--save-report", &nowhere]);
    let problem = attempt.refused_for_one(HOST_SET_UP);
    problem.tells("can't be written", "Not a directory", "name a file");
    for command in ["check", "devices"] {
        let problem = Attempt::ferry(&[command, "--report", path]).refused_for_one(HOST_SET_UP);
        problem.tells(path, "line 3 does not tell of the process", "--save-report");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let both = ["check", "--report", path, "--save-report", path];
    let problem = Attempt::ferry(&both).refused_for_one(USAGE);
    problem.tells("doesn't go with", "", "");
}
