//! A device fails and leaves, then the host wants one function back of a slot with two.

use crate::errors;
use crate::witness::{Holdings, QUIET, departures, read_disk_for_ever, unbind};
use std::sync::LazyLock;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{MOMENT, Run, figure, until};

struct Unbound {
    took: Duration,
    holdings: [Holdings; 3],
    functions: [Vec<String>; 2],
    departures: Vec<(String, String)>,
    exit: i32,
}

static UNBOUND: LazyLock<Unbound> = LazyLock::new(|| {
    let [nic, edu, disk] = ["nic", "edu", "disk"].map(|role| site::device(role).assign());
    let mut guest = Run::new(Kernel::Older)
        .modules("igb,nvme")
        .cmdline(QUIET)
        .device(&edu, ",addr=6.0,id=edu")
        .device(&disk, ",addr=6.1,id=disk")
        .device(&nic, ",addr=7,id=nic,on-error=unplug")
        .boot();
    guest.ok("ip link set eth0 up");
    let (before, all) = (Holdings::of(&guest), guest.functions());
    errors::inject(&nic);
    until("the end of the failed card in the guest", MOMENT, || {
        let functions = guest.functions();
        (!functions.contains(&"07.0".to_owned())).then_some(())
    });
    let without_nic = Holdings::of(&guest);
    read_disk_for_ever(&mut guest);
    let took = unbind(&edu);
    figure(&format!(
        "ejected {} ms after it was asked for",
        took.as_millis()
    ));
    let unbound = Unbound {
        took,
        functions: [all, guest.functions()],
        departures: until("both functions have left", MOMENT, || {
            Some(departures(&guest)).filter(|departures| departures.len() == 3)
        }),
        // The other function's device is closed right after.
        holdings: until("both functions to be closed", MOMENT, || {
            let after = Holdings::of(&guest);
            (after.groups == 0).then_some([before, without_nic, after])
        }),
        exit: guest.power_off(),
    };
    nic.give_back();
    edu.give_back();
    disk.give_back();
    unbound
});

/// Runs the guest, if it has not run.
pub(crate) fn run() {
    LazyLock::force(&UNBOUND);
}

#[test]
fn guest_ejects_a_slot_with_all_of_its_functions() {
    let [all, none] = &UNBOUND.functions;
    assert_eq!(*all, ["06.0", "06.1", "07.0"]);
    assert!(none.is_empty(), "{none:?}");
    let ejected = |id: &str| (id.to_owned(), "ejected".to_owned());
    assert_eq!(UNBOUND.departures[1..], [ejected("edu"), ejected("disk")]);
}

#[test]
fn device_that_failed_is_taken_and_the_guest_goes_on_without_it() {
    let nic = ("nic".to_owned(), "taken".to_owned());
    assert_eq!(UNBOUND.departures[0], nic);
    let [before, without_nic, _] = UNBOUND.holdings;
    assert_eq!((without_nic.devices, without_nic.groups), (2, 2));
    assert!(without_nic.memslots < before.memslots && without_nic.gsis < before.gsis);
}

#[test]
fn unbinding_waits_only_for_the_guest() {
    assert!(UNBOUND.took < Duration::from_secs(10), "{:?}", UNBOUND.took);
}

#[test]
fn every_function_of_an_ejected_slot_is_given_back() {
    let [before, _, after] = UNBOUND.holdings;
    assert_eq!((before.devices, before.groups), (3, 3));
    assert_eq!((after.devices, after.groups, after.memslots), (0, 0, 1));
    assert_eq!(UNBOUND.exit, 0);
}
