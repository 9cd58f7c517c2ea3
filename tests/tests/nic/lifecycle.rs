//! Reboot, power-off, sudden death: the device works afterwards.

use crate::guests::{killed, large, plain};
use std::fs;
use tests::site::{self, Kernel};
use tests::{BOOT, MOMENT, Run, shell, until};

/// Starts Ferry as a root whose limit on locked memory is held against it. It is high enough at first.
const LIMITED: [&str; 4] = [
    "prlimit",
    "--memlock=unlimited",
    "setpriv",
    "--bounding-set=-ipc_lock",
];

#[test]
fn guest_starts_before_its_ram_is_mapped_and_dma_waits_for_it() {
    let micros = |name: &str| large().figures.number(&format!("/startup/{name}"));
    let (first_run, ready) = (micros("first_run"), micros("dma_ready"));
    assert!(first_run < ready, "{first_run} µs, {ready} µs");
    assert!(micros("populate_memory") > 0 && micros("dma_map") > 0);
}

/// The limit is lowered after Ferry has looked at it, and before RAM has been faulted in.
#[test]
fn ram_that_cannot_be_mapped_stops_the_guest_and_gives_the_card_back() {
    let nic = site::device("nic").assign();
    let mut ferry = Run::new(Kernel::Elf)
        .memory("1G")
        .device(&nic, "")
        .modules("igb")
        .through(&LIMITED)
        .start();
    let pid = ferry.pid();
    until("the thread that maps RAM", MOMENT, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let names = threads.map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.flatten().find(|name| name.trim() == "dma-map")
    });
    shell(&format!("prlimit --pid {pid} --memlock=65536:65536"));
    let code = ferry.exit(BOOT);
    assert_eq!(code, 8, "{}", ferry.state());
    let errors = ferry.errors().text();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    assert!(lines[0].contains("can't be mapped for DMA"), "{errors}");
    assert!(lines[1].contains("Cannot allocate memory"), "{errors}");
    assert_eq!(nic.give_back().driver().as_deref(), Some("igb"));
}

#[test]
fn network_works_again_after_a_reboot() {
    let again = &plain().again;
    assert_eq!(again.driver, "igb");
    assert!(again.ping.contains(" 0% packet loss"), "{}", again.ping);
    let exits = &again.exchange.exits;
    assert_eq!(exits.total(), 0, "{exits}");
}

#[test]
fn interrupts_of_both_boots_are_counted() {
    for (vector, (first, again)) in plain()
        .first
        .after
        .iter()
        .zip(&plain().again.after)
        .enumerate()
    {
        let host = plain().again.host[&format!("msix {vector}")];
        assert!(host >= first.count + again.count, "vector {vector}: {host}");
    }
}

#[test]
fn power_off_ends_with_0() {
    assert_eq!(plain().exit, 0);
}

/// It pinged there, or there would be no answers.
#[test]
fn host_has_its_card_back_after_a_power_off() {
    let [before, after] = &plain().drivers;
    assert_eq!(before, after);
    assert_eq!(after.as_deref(), Some("igb"));
}

#[test]
fn card_of_a_killed_ferry_can_be_assigned_at_once_and_works() {
    let next = &killed().next;
    assert_eq!(next.driver, "igb");
    assert!(next.ping.contains(" 0% packet loss"), "{}", next.ping);
    let exits = &next.exchange.exits;
    assert_eq!(exits.total(), 0, "{exits}");
}

#[test]
fn nothing_is_said_when_all_is_well() {
    assert_eq!(large().messages, "");
}
