//! A device reports an uncorrectable error.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::sync::LazyLock;
use tests::site::{self, Kernel};
use tests::{BOOT, HostDevice, MOMENT, Run};

/// Completion Timeout in the Uncorrectable Error Status register.
const COMPLETION_TIMEOUT: u32 = 1 << 14;

/// Has the host's kernel find an uncorrectable error of `device`, as its root port would report it
/// (`Documentation/PCI/pcieaer-howto.rst`).
pub(crate) fn inject(device: &HostDevice) {
    let loaded = Command::new("modprobe").arg("aer_inject").status().unwrap();
    assert!(loaded.success(), "this host has no module aer_inject");
    let place: Vec<u8> = device
        .short_address()
        .split([':', '.'])
        .map(|digits| u8::from_str_radix(digits, 16).unwrap())
        .collect();
    // struct aer_error_inj: bus, device and function, uncorrectable and correctable status, header log, domain.
    let mut words = [[0; 4]; 8];
    words[0][..3].copy_from_slice(&place);
    words[1] = COMPLETION_TIMEOUT.to_ne_bytes();
    fs::write("/dev/aer_inject", words.concat()).unwrap();
}

struct Stopped {
    address: String,
    exit: i32,
    errors: String,
    events: String,
    driver: Option<String>,
}

static STOPPED: LazyLock<Stopped> = LazyLock::new(|| {
    let nic = site::device("nic").assign();
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events");
    let mut ferry = Run::new(Kernel::Elf)
        .cmdline("loglevel=7")
        .device(&nic, ",id=nic")
        .option("--event-monitor", &events)
        .start();
    ferry.wait_for(0, "ACPI: ", BOOT);
    inject(&nic);
    let exit = ferry.exit(MOMENT);
    Stopped {
        address: nic.address().to_owned(),
        exit,
        errors: ferry.errors().text(),
        events: fs::read_to_string(&events).unwrap(),
        driver: nic.give_back().driver(),
    }
});

/// Runs the guest, if it has not run.
pub(crate) fn run() {
    LazyLock::force(&STOPPED);
}

#[test]
fn uncorrectable_error_stops_the_guest_with_an_exit_code_of_its_own() {
    assert_eq!(STOPPED.exit, 14, "{}", STOPPED.errors);
}

#[test]
fn uncorrectable_error_is_told_in_three_lines() {
    let address = &STOPPED.address;
    let lines: Vec<&str> = STOPPED.errors.lines().collect();
    assert_eq!(lines.len(), 3, "{}", STOPPED.errors);
    assert_eq!(
        lines[0],
        format!("ferry: {address} reported an uncorrectable error")
    );
    assert!(lines[2].contains("on-error=unplug"), "{}", lines[2]);
}

#[test]
fn uncorrectable_error_is_told_as_an_event_and_then_the_end() {
    let events = STOPPED.events.lines().map(serde_json::from_str::<Value>);
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    let of = |event: &Value, keys: &[&str]| {
        let values = keys.iter().map(|key| event[*key].clone());
        values.collect::<Vec<_>>()
    };
    let [.., error, end] = &events[..] else {
        panic!("{events:#?}");
    };
    let error = of(error, &["event", "id", "errors", "then"]);
    assert_eq!(
        error,
        [
            "error_interrupt".into(),
            json!("nic"),
            json!(1),
            json!("stop")
        ]
    );
    let end = of(end, &["event", "outcome", "exit_code"]);
    assert_eq!(end, ["shutdown".into(), json!("device_failed"), json!(14)]);
}

#[test]
fn host_gets_the_device_of_a_stopped_guest_back() {
    assert_eq!(STOPPED.driver.as_deref(), Some("igb"));
}
