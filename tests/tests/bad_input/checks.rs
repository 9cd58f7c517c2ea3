//! `ferry check` and `ferry devices` tell what a run needs, whatever the cause of its lack.

use crate::USAGE;
use serde_json::Value;
use tests::site;
use tests::{AS_USER, Attempt, Checked, HostDevice, MOMENT, load_driver, shell};

/// Looks at the host and at devices that one guest is to have.
#[track_caller]
fn check(devices: &[&HostDevice]) -> Checked {
    Checked::by(attempt(devices))
}

fn attempt(devices: &[&HostDevice]) -> Attempt {
    let addresses = devices.iter().map(|device| device.address());
    let words: Vec<_> = ["check", "--memory", "256M"]
        .into_iter()
        .chain(addresses)
        .collect();
    Attempt::ferry(&words)
}

#[test]
fn every_fact_is_good_for_a_device_that_a_guest_can_have() {
    let nic = site::device("nic").assign();
    let checked = check(&[&nic]);
    assert_eq!(
        checked.good(),
        [
            "KVM",
            "IOMMU",
            "interrupt remapping",
            "VFIO",
            "iommufd",
            "locked memory",
            "driver",
            "group",
            "node",
            "reset",
            "interrupts",
            "BARs",
            "SR-IOV"
        ],
        "{checked:#?}"
    );
    assert_eq!(checked.on("driver").0, "vfio-pci");
}

#[test]
fn a_device_on_its_host_driver_is_bad_until_the_fix_is_pasted() {
    let nic = site::device("nic");
    let _back = tests::Rebound(nic.clone());
    let checked = check(&[&nic]);
    assert_eq!(checked.bad(), ["driver"]);
    let (fact, fix) = checked.on("driver");
    assert!(fact.contains(&nic.driver().unwrap()), "{fact}");
    shell(&format!(
        "PATH=$PATH:{}; {fix}",
        site::ferry().parent().unwrap().display()
    ));
    assert_eq!(check(&[&nic]).bad(), <[&str; 0]>::default());
}

#[test]
fn a_member_of_its_group_that_the_host_drives_is_bad() {
    let conventional = site::devices("conventional");
    let [first, second] = conventional.as_slice() else {
        panic!("two devices of one group are needed");
    };
    load_driver(second, "e1000 8139cp");
    let first = first.assign();
    let checked = check(&[&first]);
    assert_eq!(checked.bad(), ["group"]);
    assert!(
        checked.on("group").0.contains(second.address()),
        "{checked:#?}"
    );
    let path = first.folder().canonicalize().unwrap();
    let bridge = path.parent().unwrap().file_name().unwrap();
    let cause = format!(
        "{} leads to a conventional PCI bus",
        bridge.to_str().unwrap()
    );
    let (fact, _) = checked.on("isolation");
    assert!(fact.starts_with(&cause), "{fact}");
    let checked = Checked::by(attempt(&[&first]).through(&AS_USER));
    let (fact, _) = checked.on("isolation");
    assert!(fact.starts_with("only root can read"), "{fact}");
}

#[test]
fn a_low_limit_on_locked_memory_is_bad() {
    let nic = site::device("nic").assign();
    let limit = [
        "prlimit",
        "--memlock=8388608:8388608",
        "setpriv",
        "--bounding-set=-ipc_lock",
    ];
    let checked = Checked::by(attempt(&[&nic]).through(&limit));
    assert_eq!(checked.bad(), ["locked memory"]);
}

#[test]
fn nodes_that_a_user_may_not_open_are_bad() {
    let nic = site::device("nic").assign();
    let checked = Checked::by(attempt(&[&nic]).through(&AS_USER));
    for topic in ["KVM", "node"] {
        assert!(checked.bad().contains(&topic), "{checked:#?}");
    }
    let (_, fix) = checked.on("node");
    assert!(fix.contains("sudo"), "{fix}");
}

/// Loads vfio-pci again.
struct Loaded;

impl Drop for Loaded {
    fn drop(&mut self) {
        shell("modprobe vfio-pci");
    }
}

#[test]
fn a_module_that_is_not_loaded_is_bad_until_the_fix_is_pasted() {
    let nic = site::device("nic");
    let _loaded = Loaded;
    shell("modprobe -r vfio-pci");
    let checked = check(&[&nic]);
    assert_eq!(checked.bad(), ["VFIO", "driver"]);
    shell(checked.on("VFIO").1);
    assert_eq!(check(&[&nic]).bad(), ["driver"]);
}

#[test]
fn a_disk_that_the_host_swaps_to_is_bad() {
    let disk = site::device("disk");
    let namespaces = format!("{}/nvme/*/nvme*n1", disk.folder().display());
    let node = format!("n=$(echo {namespaces}); n=/dev/${{n##*/}}");
    shell(&format!("{node}; mkswap $n && swapon $n"));
    let checked = check(&[&disk]);
    shell(&format!("{node}; swapoff $n"));
    assert_eq!(checked.bad(), ["driver", "in use"]);
    let (fact, _) = checked.on("in use");
    assert!(fact.contains("n1 is swap space"), "{fact}");
    assert_eq!(check(&[&disk]).bad(), ["driver"]);
}

#[test]
fn the_card_of_the_default_route_is_bad() {
    let nic = site::device("nic");
    let interface = nic.interface();
    shell(&format!(
        "ip link set {interface} up && ip address add 192.0.2.1/24 dev {interface} && ip route add default via 192.0.2.2"
    ));
    let checked = check(&[&nic]);
    shell(&format!(
        "ip address del 192.0.2.1/24 dev {interface} && ip link set {interface} down"
    ));
    assert_eq!(checked.bad(), ["driver", "in use"]);
    let wanted = format!("{interface} carries the default route");
    assert!(checked.on("in use").0.contains(&wanted), "{checked:#?}");
    assert_eq!(check(&[&nic]).bad(), ["driver"]);
}

#[test]
fn what_is_no_address_is_refused() {
    let problem = Attempt::ferry(&["check", "eth0"]).refused_for_one(USAGE);
    problem.tells(
        "eth0 is no device",
        "'eth0' is not of the form",
        "ferry devices --all",
    );
}

#[test]
fn devices_are_listed_with_what_a_guest_needs_first() {
    let listed = || {
        let attempt = Attempt::ferry(&["devices", "--all", "--json"]);
        let (code, output, errors) = attempt.end_without_change(MOMENT);
        assert_eq!((code, &*errors), (0, ""));
        let all: Vec<Value> = serde_json::from_str(&output).unwrap();
        let nic = site::device("nic");
        let found = all.into_iter().find(|one| one["address"] == nic.address());
        found.unwrap()
    };
    let before = listed();
    assert_eq!(before["ready"], "bind");
    assert_eq!(before["vectors"]["msix"], 10);
    let assigned = site::device("nic").assign();
    assert_eq!(listed()["ready"], "yes");
    assert_eq!(listed()["group"].to_string(), assigned.group());
}

#[test]
fn the_table_of_devices_fits_80_columns() {
    let (code, output, _) = Attempt::ferry(&["devices", "--all"]).end(MOMENT);
    assert_eq!(code, 0);
    assert!(
        output.contains("82576 Gigabit Network Connection"),
        "{output}"
    );
    for line in output.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
