//! A device is pulled out of the host while the guest uses it.

use crate::witness::{
    Holdings, QUIET, departures, read_disk_for_ever, unbind, until_gone, until_read,
};
use crate::{deaf, errors, unbound};
use std::sync::LazyLock;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{KernelLog, MOMENT, Peer, Run, figure, pull, until};

/// What the guest has to eject it, and five seconds for which a pressed button may be pressed again.
const LIMIT: Duration = Duration::from_secs(10 + 5);

struct Pulled {
    /// The card's.
    address: String,
    holdings: [Holdings; 3],
    functions: [Vec<String>; 3],
    departures: Vec<(String, String)>,
    /// Until vfio-pci let the disk go.
    impatient: Duration,
    /// Uncorrectable errors of the card, and what became of it afterwards.
    counted: u64,
    ping: String,
    faults: Vec<String>,
    errors: String,
    exit: i32,
}

static PULLED: LazyLock<Pulled> = LazyLock::new(|| {
    // Its card does not come back.
    errors::run();
    unbound::run();
    deaf::run();
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let (nic, disk) = (site::device("nic").assign(), site::device("disk").assign());
    let mut guest = Run::new(Kernel::Elf)
        .modules("igb,nvme")
        .cmdline(QUIET)
        .device(&nic, ",addr=6,id=nic,on-error=report")
        .device(&disk, ",addr=7,id=disk,request-timeout=0")
        .boot();
    peer.set_up_guest(&mut guest);
    let _flood = peer.flood(&mut guest);
    read_disk_for_ever(&mut guest);
    let (all, all_functions) = (Holdings::of(&guest), guest.functions());
    errors::inject(&nic);
    let counted = until("the error in the figures", MOMENT, || {
        let errors = guest.figures().number("/devices/0/errors");
        (errors > 0).then_some(errors)
    });
    let ping = peer.ping(&mut guest, 3);
    pull(&nic, "nic");
    let took = until_gone(&nic.folder(), LIMIT);
    figure(&format!("gone {} ms after it was pulled", took.as_millis()));
    let address = nic.address().to_owned();
    // There is nothing to give back to the host's driver.
    std::mem::forget(nic);
    until_read(&mut guest);
    let (one, one_function) = (Holdings::of(&guest), guest.functions());
    let impatient = unbind(&disk);
    until("the end of the disk in the guest", MOMENT, || {
        guest.functions().is_empty().then_some(())
    });
    let pulled = Pulled {
        address,
        holdings: [all, one, Holdings::of(&guest)],
        functions: [all_functions, one_function, guest.functions()],
        departures: departures(&guest),
        impatient,
        counted,
        ping,
        faults: log.dma_faults(),
        exit: guest.power_off(),
        errors: guest.ferry().errors().text(),
    };
    disk.give_back();
    pulled
});

#[test]
fn guest_ejects_what_is_pulled_out_and_goes_on_with_the_rest() {
    let [all, one, ..] = &PULLED.functions;
    assert_eq!(*all, ["06.0", "07.0"]);
    assert_eq!(*one, ["07.0"]);
    let nic = ("nic".to_owned(), "ejected".to_owned());
    assert_eq!(PULLED.departures[0], nic);
}

#[test]
fn error_that_is_only_to_be_reported_is_counted_and_the_device_works_on() {
    assert_eq!(PULLED.counted, 1);
    assert!(PULLED.ping.contains(" 0% packet loss"), "{}", PULLED.ping);
}

#[test]
fn device_without_patience_is_taken_at_once_and_the_guest_told() {
    assert!(
        PULLED.impatient < Duration::from_secs(5),
        "{:?}",
        PULLED.impatient
    );
    let disk = ("disk".to_owned(), "taken".to_owned());
    assert_eq!(PULLED.departures[1..], [disk]);
    assert!(PULLED.functions[2].is_empty());
}

#[test]
fn what_a_device_took_is_given_back_when_it_leaves() {
    let [all, one, none] = PULLED.holdings;
    assert_eq!((all.devices, all.groups), (2, 2));
    assert_eq!((one.devices, one.groups), (1, 1));
    assert!(
        one.memslots < all.memslots && one.gsis < all.gsis,
        "{all:?}, {one:?}"
    );
    // Guest RAM.
    let nothing = Holdings {
        devices: 0,
        groups: 0,
        memslots: 1,
        gsis: 0,
    };
    assert_eq!(none, nothing);
}

#[test]
fn guest_that_lost_its_devices_powers_off() {
    assert_eq!(PULLED.exit, 0);
}

#[test]
fn nothing_reaches_for_memory_that_is_not_its_own() {
    assert!(PULLED.faults.is_empty(), "{:#?}", PULLED.faults);
}

#[test]
fn user_is_told_who_wanted_what_and_how_it_left() {
    let (nic, disk) = (&PULLED.address, site::device("disk"));
    let lines: Vec<&str> = PULLED.errors.lines().collect();
    let expected = [
        format!("ferry: warn: {nic} reported an uncorrectable error"),
        format!("ferry: warn: {nic} is wanted back by the host: the guest has 10 s to eject it"),
        format!("ferry: warn: {nic} has left: the guest ejected it"),
        format!("ferry: warn: {} is wanted back by the host", disk.address()),
        format!("ferry: warn: {} was taken from the guest", disk.address()),
    ];
    assert_eq!(lines, expected);
}
