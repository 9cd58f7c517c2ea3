//! A device reports an uncorrectable error.

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
    driver: Option<String>,
}

static STOPPED: LazyLock<Stopped> = LazyLock::new(|| {
    let nic = site::device("nic").assign();
    let mut ferry = Run::new(Kernel::Elf)
        .cmdline("loglevel=7")
        .device(&nic, "")
        .start();
    ferry.wait_for(0, "ACPI: ", BOOT);
    inject(&nic);
    let exit = ferry.exit(MOMENT);
    Stopped {
        address: nic.address().to_owned(),
        exit,
        errors: ferry.errors().text(),
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
fn host_gets_the_device_of_a_stopped_guest_back() {
    assert_eq!(STOPPED.driver.as_deref(), Some("igb"));
}
