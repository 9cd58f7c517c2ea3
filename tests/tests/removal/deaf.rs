//! The host wants a device back from a guest that does not listen.

use crate::witness::{Holdings, QUIET, departures, read_disk_for_ever, unbind, until_read};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{HostDevice, KernelLog, MOMENT, Peer, Run, figure, until};

/// What the guest is given.
const PATIENCE: Duration = Duration::from_secs(2);

struct Deaf {
    took: Duration,
    holdings: [Holdings; 2],
    departures: Vec<(String, String)>,
    /// The first bytes of configuration space, after it was taken.
    config: String,
    /// Until vfio-pci let the disk go, for which the guest rebooted.
    rebooting: Duration,
    /// What the guest finds after the reboot.
    rebooted: Vec<String>,
    driver: Option<String>,
    faults: Vec<String>,
}

static DEAF: LazyLock<Deaf> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let (nic, disk) = (site::device("nic").assign(), site::device("disk").assign());
    let mut guest = Run::new(Kernel::Elf)
        .modules("igb,nvme")
        .cmdline(QUIET)
        .cmdline("acpiphp.disable=1")
        .device(
            &nic,
            &format!(",addr=6,id=nic,request-timeout={}", PATIENCE.as_secs()),
        )
        .device(&disk, ",addr=7,id=disk,request-timeout=30")
        .boot();
    peer.set_up_guest(&mut guest);
    let _flood = peer.flood(&mut guest);
    read_disk_for_ever(&mut guest);
    let before = Holdings::of(&guest);
    let took = unbind(&nic);
    figure(&format!(
        "taken {} ms after it was asked for",
        took.as_millis()
    ));
    let config =
        guest.ok("hexdump -n 8 -e '8/1 \"%02x\"' /sys/bus/pci/devices/0000:00:06.0/config");
    until_read(&mut guest);
    let holdings = [before, Holdings::of(&guest)];
    let faults = log.dma_faults();
    // The host uses it while the guest goes on.
    let nic = nic.give_back();
    peer.ping_from(&nic);
    let wanted = thread::spawn({
        let disk = disk.address().to_owned();
        move || unbind(&HostDevice::at(&disk))
    });
    until("the request for the disk", MOMENT, || {
        let errors = guest.ferry().errors().text();
        errors.contains("30 s to eject it").then_some(())
    });
    guest.begin("reboot -f");
    let rebooting = wanted.join().unwrap();
    guest.wait_for_shell();
    let deaf = Deaf {
        took,
        holdings,
        departures: departures(&guest),
        config,
        rebooting,
        rebooted: guest.functions(),
        driver: nic.driver(),
        faults,
    };
    guest.stop();
    disk.give_back();
    deaf
});

/// Runs the guest, if it has not run.
pub(crate) fn run() {
    LazyLock::force(&DEAF);
}

#[test]
fn device_is_taken_from_a_guest_that_does_not_eject_it_when_its_time_is_over() {
    let limit = PATIENCE + Duration::from_secs(3);
    assert!((PATIENCE..limit).contains(&DEAF.took), "{:?}", DEAF.took);
    let nic = ("nic".to_owned(), "taken".to_owned());
    assert_eq!(DEAF.departures[0], nic);
}

#[test]
fn configuration_space_of_a_device_that_was_taken_reads_ones() {
    assert_eq!(DEAF.config, "ff".repeat(8));
}

#[test]
fn taking_a_device_gives_back_what_it_took() {
    let [before, after] = DEAF.holdings;
    assert_eq!((before.devices, before.groups), (2, 2));
    assert_eq!((after.devices, after.groups), (1, 1));
    assert!(after.memslots < before.memslots, "{before:?}, {after:?}");
    assert!(after.gsis < before.gsis, "{before:?}, {after:?}");
}

#[test]
fn reboot_completes_what_the_guest_was_asked_for() {
    assert!(
        DEAF.rebooting < PATIENCE.saturating_mul(10),
        "{:?}",
        DEAF.rebooting
    );
    let disk = ("disk".to_owned(), "reboot".to_owned());
    assert_eq!(DEAF.departures[1..], [disk]);
}

#[test]
fn slots_of_devices_that_were_taken_stay_empty_after_a_reboot() {
    assert!(DEAF.rebooted.is_empty(), "{:?}", DEAF.rebooted);
}

/// It pinged there, or there would be no guest to ask.
#[test]
fn host_uses_the_device_while_the_guest_goes_on() {
    assert_eq!(DEAF.driver.as_deref(), Some("igb"));
}

#[test]
fn device_that_was_taken_in_the_middle_of_a_transfer_does_no_more_dma() {
    assert!(DEAF.faults.is_empty(), "{:#?}", DEAF.faults);
}
