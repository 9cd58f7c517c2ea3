//! Virtual functions that are set up, by `ferry vf set` and for one run by `vf=auto`.

use crate::virtual_functions::{self, Removed, has_a_link, made};
use crate::{HOST_SET_UP, is_back, quietly, record};
use std::process::Command;
use tests::{AS_USER, Attempt, Guest, HostDevice, USER, shell, site};

const MAC: &str = "52:54:00:88:00:01";

/// A guest that has a virtual function of `nic`, whichever is free, with these settings.
fn guest(nic: &HostDevice, settings: &str) -> Guest {
    virtual_functions::guest(&format!("host={},vf=auto{settings}", nic.address()))
}

/// The host's end of a VLAN on the wire, gone when this is dropped.
struct VlanPeer(&'static str);

impl VlanPeer {
    fn up(name: &'static str, id: u16, address: &str) -> Self {
        let card = site::device("peer").interface();
        shell(&format!(
            "ip link add link {card} name {name} type vlan id {id}; ip address add {address} dev {name}; \
             ip link set {name} up"
        ));
        Self(name)
    }
}

impl Drop for VlanPeer {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", self.0]).status();
    }
}

/// A card with one virtual function, which goes again.
fn card_with_one() -> (HostDevice, HostDevice, Removed) {
    let nic = site::device("nic");
    let removed = Removed(nic.clone());
    quietly(&["vf", "set", nic.address(), "1"]);
    let [only] = <[HostDevice; 1]>::try_from(made(&nic)).unwrap();
    (nic, only, removed)
}

/// What the kernel says of the card's virtual functions: a line for each.
fn kernel_says(nic: &HostDevice) -> Vec<String> {
    let text = shell(&format!("ip link show dev {}", nic.interface()));
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("vf "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_is_set_is_what_the_kernel_says_and_the_list_shows() {
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    quietly(&["vf", "set", nic.address(), "2", "--spoof-check", "off"]);
    let [_, second] = <[HostDevice; 2]>::try_from(made(&nic)).unwrap();
    let before = kernel_says(&nic);
    assert!(
        before
            .iter()
            .all(|line| line.contains("spoof checking off")),
        "{before:?}"
    );
    let set = [
        "--mac",
        MAC,
        "--vlan",
        "7",
        "--trust",
        "on",
        "--spoof-check",
        "on",
    ];
    let listed = quietly(&[&["vf", "set", second.address()], &set[..]].concat());
    let line = format!("MAC {MAC}, VLAN 7, trusted, spoof check");
    assert!(listed.contains(&line), "{listed}");
    let after = kernel_says(&nic);
    assert_eq!(after[0], before[0]);
    for words in [MAC, "vlan 7", "spoof checking on", "trust on"] {
        assert!(after[1].contains(words), "{after:?}");
    }
    let json = quietly(&["vf", "list", nic.address(), "--json"]);
    assert!(json.contains(&format!("\"mac\": \"{MAC}\"")), "{json}");
    quietly(&[
        "vf",
        "set",
        second.address(),
        "--mac",
        "none",
        "--vlan",
        "none",
    ]);
    assert!(!kernel_says(&nic)[1].contains("vlan"));
}

#[test]
fn settings_that_can_not_be_are_refused_and_change_nothing() {
    let (nic, only, _removed) = card_with_one();
    let before = kernel_says(&nic);
    let set = |device: &HostDevice| Attempt::ferry(&["vf", "set", device.address(), "--vlan", "5"]);
    let problem = set(&nic).refused_for_one(HOST_SET_UP);
    problem.tells(
        "is no virtual function",
        "only a virtual function",
        "ferry vf list",
    );
    let problem = set(&site::device("disk")).refused_for_one(HOST_SET_UP);
    problem.tells(
        "is no virtual function",
        "only a virtual function",
        "ferry devices",
    );
    let problem = set(&only).through(&AS_USER).refused_for_one(HOST_SET_UP);
    problem.tells("needs root", &format!("user {USER}"), "ferry vf set");
    assert_eq!(kernel_says(&nic), before);
}

#[test]
fn a_free_virtual_function_is_the_guests_for_the_run_and_set_up_for_it() {
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    has_a_link(&nic);
    quietly(&["vf", "set", nic.address(), "2"]);
    let functions = made(&nic);
    // Somebody has put the first one there for a purpose.
    quietly(&["bind", functions[0].address()]);
    let before = kernel_says(&nic);
    let mut guest = guest(&nic, &format!(",mac={MAC},vlan=7"));
    assert_eq!(functions[1].driver().as_deref(), Some("vfio-pci"));
    assert_eq!(guest.ok("cat /sys/class/net/eth0/address").trim(), MAC);

    // None is left for another guest.
    let device = format!("host={},vf=auto", nic.address());
    let problem = Attempt::run(&["--device", &device]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "no free virtual function",
        functions[0].address(),
        "ferry vf list",
    );

    // Who names it gets it neither, and it stays set up for the guest that has it.
    let while_running = kernel_says(&nic);
    let device = format!("host={},managed=on", functions[1].address());
    let problem = Attempt::run(&["--device", &device]).refused_for_one(HOST_SET_UP);
    problem.tells("is already in use", "ferry (pid", "kill");
    assert_eq!(kernel_says(&nic), while_running);

    // On the wire it is in the VLAN.
    let _vlan = VlanPeer::up("ferry7", 7, "10.88.7.1/24");
    guest.bring_up("eth0", "10.88.7.2/24");
    guest.pings("10.88.7.1");

    assert_eq!(guest.power_off(), 0);
    assert_eq!(functions[1].driver(), None);
    assert_eq!(kernel_says(&nic), before);
    quietly(&["unbind", functions[0].address()]);
}

#[test]
fn settings_that_a_killed_run_has_left_are_repaired() {
    let (nic, only, _removed) = card_with_one();
    let before = kernel_says(&nic);
    let settings = format!(",mac={MAC},spoof-check=off");
    let left = || {
        guest(&nic, &settings).ferry_mut().kill();
        assert_ne!(kernel_says(&nic), before);
    };
    left();
    quietly(&["unbind", "--stale"]);
    assert_eq!(only.driver(), None);
    assert_eq!(kernel_says(&nic), before);
    // A run that takes it over has none of what it did not ask for. The address is its driver's choice.
    left();
    let mut guest = guest(&nic, "");
    let now = kernel_says(&nic);
    assert!(
        !now[0].contains(MAC) && now[0].contains("spoof checking on"),
        "{now:?}"
    );
    assert_eq!(guest.power_off(), 0);
    assert_eq!(only.driver(), None);
}

#[test]
fn a_virtual_function_that_goes_while_a_guest_has_it_is_forgotten() {
    let (nic, only, _removed) = card_with_one();
    let mut guest = guest(&nic, "");
    // The kernel waits for the guest to let go.
    quietly_removed(&nic);
    assert_eq!(guest.power_off(), 0);
    assert!(!record(&only).exists());
    let errors = guest.ferry().errors().text();
    assert!(!errors.contains("unbind --stale"), "{errors}");
}

/// Has the kernel remove all virtual functions.
fn quietly_removed(nic: &HostDevice) {
    std::fs::write(nic.folder().join("sriov_numvfs"), "0").unwrap();
    assert_eq!(made(nic).len(), 0);
}

#[test]
fn a_card_without_virtual_functions_stays_as_it_is() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let device = format!("host={},vf=auto", nic.address());
    let problem = Attempt::run(&["--device", &device]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "no free virtual function",
        "it has none now",
        "ferry vf set",
    );
    is_back(&nic, &driver);
}
