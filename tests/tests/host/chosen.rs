//! Virtual functions that are set up, by `ferry vf set` and for one run by `vf=auto`.

use crate::virtual_functions::{Removed, made};
use crate::{HOST_SET_UP, is_back, quietly};
use rustix::process::Signal;
use tests::site::{self, Kernel};
use tests::{AS_USER, Attempt, Guest, HostDevice, MOMENT, Peer, Run, shell, until};

const MAC: &str = "52:54:00:88:00:01";

/// A guest that has a virtual function of `nic`, whichever is free, with these settings.
fn guest(nic: &HostDevice, settings: &str) -> Guest {
    let device = format!("host={},vf=auto{settings}", nic.address());
    let run = Run::new(Kernel::Elf).memory("256M").modules("igbvf");
    Guest::of(run.option("--device", device).start())
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
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    quietly(&["vf", "set", nic.address(), "1"]);
    let [only] = <[HostDevice; 1]>::try_from(made(&nic)).unwrap();
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
    problem.tells("needs root", "user 1000", "ferry vf set");
    assert_eq!(kernel_says(&nic), before);
}

#[test]
fn a_free_virtual_function_is_the_guests_for_the_run_and_set_up_for_it() {
    const VLAN: &str = "ferry7";
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    let peer = site::device("peer").interface();
    shell(&format!("ip link set {} up", nic.interface()));
    Peer::up().wait_for_link();
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

    // On the wire it is in the VLAN.
    shell(&format!(
        "ip link add link {peer} name {VLAN} type vlan id 7; ip address add 10.88.7.1/24 dev {VLAN}; ip link set {VLAN} up"
    ));
    guest.ok("ip address add 10.88.7.2/24 dev eth0; ip link set eth0 up");
    until("a link of the virtual function", MOMENT, || {
        let state = guest.ok("cat /sys/class/net/eth0/operstate");
        (state == "up\n").then_some(())
    });
    guest.ok("ip link set eth0 up");
    let text = guest.ok("ping -c 3 -i 0.2 -W 2 10.88.7.1");
    shell(&format!("ip link delete {VLAN}"));
    assert!(text.contains("3 packets received"), "{text}");

    assert_eq!(guest.power_off(), 0);
    assert_eq!(functions[1].driver(), None);
    assert_eq!(kernel_says(&nic), before);
    quietly(&["unbind", functions[0].address()]);
}

#[test]
fn settings_that_a_killed_run_has_left_are_repaired() {
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    quietly(&["vf", "set", nic.address(), "1"]);
    let [only] = <[HostDevice; 1]>::try_from(made(&nic)).unwrap();
    let before = kernel_says(&nic);
    let run = guest(&nic, &format!(",mac={MAC},spoof-check=off"));
    run.ferry().signal(Signal::KILL);
    drop(run);
    assert_ne!(kernel_says(&nic), before);
    quietly(&["unbind", "--stale"]);
    assert_eq!(only.driver(), None);
    assert_eq!(kernel_says(&nic), before);
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
