//! Virtual functions that are made, given to guests, and removed.

use crate::{HOST_SET_UP, is_back, quietly, record, tells};
use std::fs;
use tests::site::{self, Kernel};
use tests::{AS_USER, Attempt, Guest, HostDevice, MOMENT, Peer, Rebound, Run, until};

/// None are left, whatever happened.
pub(crate) struct Removed(pub(crate) HostDevice);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::write(self.0.folder().join("sriov_numvfs"), "0");
    }
}

/// The virtual functions in the order of their numbers.
pub(crate) fn made(nic: &HostDevice) -> Vec<HostDevice> {
    let link = |index| fs::read_link(nic.folder().join(format!("virtfn{index}"))).ok();
    let links = (0..).map_while(link);
    let addresses = links.map(|link| link.file_name().unwrap().to_str().unwrap().to_owned());
    addresses.map(|address| HostDevice::at(&address)).collect()
}

/// A guest that has the function, at 10.88.0.`number`.
fn guest(function: &HostDevice, number: u8) -> Guest {
    let device = format!("host={}", function.address());
    let run = Run::new(Kernel::Elf).memory("256M").modules("igbvf");
    let mut guest = Guest::of(run.option("--device", device).start());
    guest.ok(&format!(
        "ip address add 10.88.0.{number}/24 dev eth0 && ip link set eth0 up"
    ));
    until("a link of the virtual function", MOMENT, || {
        let state = guest.ok("cat /sys/class/net/eth0/operstate");
        (state == "up\n").then_some(())
    });
    guest.ok("ip link set eth0 up");
    guest
}

#[test]
fn four_are_made_and_two_guests_that_have_two_of_them_ping_each_other() {
    // A virtual function has a link when the physical one has.
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    let interface = nic.interface();
    tests::shell(&format!("ip link set {interface} up"));
    Peer::up().wait_for_link();
    let listed = quietly(&["vf", "set", nic.address(), "4"]);
    let functions = made(&nic);
    assert_eq!(functions.len(), 4);
    for function in &functions {
        assert!(listed.contains(function.short_address()), "{listed}");
    }
    assert_eq!(quietly(&["vf", "list", nic.address()]), listed);

    let [one, other] = [&functions[0], &functions[3]];
    quietly(&["bind", one.address(), other.address()]);
    let mut guests = [guest(one, 1), guest(other, 2)];
    for (guest, to) in guests.iter_mut().zip([2, 1]) {
        let text = guest.ok(&format!("ping -c 3 -i 0.2 -W 2 10.88.0.{to}"));
        assert!(text.contains("3 packets received"), "{text}");
    }

    let attempt = Attempt::ferry(&["vf", "set", nic.address(), "0"]);
    let problem = attempt.refused_for_one(HOST_SET_UP);
    let pid = format!("(pid {})", guests[0].ferry().pid());
    problem.tells(one.address(), &pid, "kill");
    assert_eq!(made(&nic).len(), 4);

    guests.iter_mut().for_each(Guest::stop);
    let text = quietly(&["vf", "set", nic.address(), "0"]);
    assert!(
        text.contains("no virtual functions; it may have 7"),
        "{text}"
    );
    assert_eq!(made(&nic).len(), 0);
}

#[test]
fn what_was_remembered_of_those_that_go_is_forgotten() {
    let nic = site::device("nic");
    let _removed = Removed(nic.clone());
    let set = |count| quietly(&["vf", "set", nic.address(), count]);
    // Those of another count are new ones.
    for other in ["2", "0"] {
        set("1");
        let functions = made(&nic);
        quietly(&["bind", functions[0].address()]);
        set("1");
        assert!(record(&functions[0]).exists());
        set(other);
        assert!(!record(&functions[0]).exists());
    }
}

/// Physical functions on vfio-pci may have virtual ones as long as this is there.
struct SriovOnVfio;

impl SriovOnVfio {
    const PARAMETER: &str = "/sys/module/vfio_pci/parameters/enable_sriov";

    fn on() -> Self {
        fs::write(Self::PARAMETER, "Y").unwrap();
        Self
    }
}

impl Drop for SriovOnVfio {
    fn drop(&mut self) {
        let _ = fs::write(Self::PARAMETER, "N");
    }
}

#[test]
fn physical_function_on_vfio_pci_stays_while_a_virtual_one_is_held() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let _sriov = SriovOnVfio::on();
    let _removed = Removed(nic.clone());
    quietly(&["bind", nic.address()]);
    let count = nic.folder().join("sriov_numvfs");
    fs::write(&count, "1").unwrap();
    let functions = made(&nic);
    let function = &functions[0];
    let node = until("the node of the virtual function", MOMENT, || {
        let mut options = fs::File::options();
        options.read(true).write(true).open(function.node()).ok()
    });
    fs::copy(record(&nic), record(function)).unwrap();
    let problem = Attempt::ferry(&["unbind", nic.address()]).refused_for_one(HOST_SET_UP);
    let holder = format!("(pid {})", std::process::id());
    problem.tells(nic.address(), &holder, "stop it first");
    assert!(problem.why.starts_with(function.address()), "{problem:?}");
    drop(node);
    let output = quietly(&["unbind", nic.address()]);
    tells(output.trim_end(), &nic, &format!("vfio-pci -> {driver}"));
    is_back(&nic, &driver);
    assert!(!record(function).exists());
}

#[test]
fn what_can_not_be_made_is_told_and_changes_nothing() {
    let nic = site::device("nic");
    let set = |device: &HostDevice, count| Attempt::ferry(&["vf", "set", device.address(), count]);
    let problem = set(&nic, "8").refused_for_one(HOST_SET_UP);
    problem.tells(
        "can't have 8 virtual functions",
        "7 at most",
        "ferry vf set",
    );
    let problem = set(&site::device("disk"), "1").refused_for_one(HOST_SET_UP);
    problem.tells(
        "can't have virtual functions",
        "it has no SR-IOV",
        "ferry devices",
    );
    let problem = set(&nic, "1")
        .through(&AS_USER)
        .refused_for_one(HOST_SET_UP);
    problem.tells("ferry vf set needs root", "user 1000", "sudo ferry vf set");
    assert_eq!(made(&nic).len(), 0);
}
