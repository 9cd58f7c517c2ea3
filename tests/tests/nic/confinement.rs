//! A device reaches its guest's memory, all of it, and no other.

use crate::guests::{BEYOND, END, VALUE, killed, large, plain, wired};
use tests::site;

#[test]
fn host_logs_no_dma_fault() {
    let guests = [
        ("boot, reboot, power-off", &plain().faults),
        ("5 GiB, three devices", &large().faults),
        ("SIGKILL in the middle of a transfer", &killed().faults),
        ("INTx, MSI", &wired().faults[0]),
    ];
    for (name, faults) in guests {
        assert!(faults.is_empty(), "{name}: {faults:#?}");
    }
}

#[test]
fn dma_reaches_guest_ram() {
    assert_eq!(wired().inside, VALUE);
}

#[test]
fn dma_reaches_guest_ram_above_4_gib_both_ways() {
    assert_eq!(large().above, [VALUE; 2]);
}

/// Also shows that [`host_logs_no_dma_fault`] would see one.
#[test]
fn dma_beyond_guest_ram_is_stopped() {
    let edu = site::device("edu");
    let [_, wrote, read] = &wired().faults;
    let told = |lines: &[String], access: &str, address: u64| {
        let found = lines.iter().any(|line| {
            line.contains(access)
                && line.contains(&format!("[{}]", edu.short_address()))
                && line.contains(&format!("fault addr {address:#x} "))
        });
        assert!(found, "no {access} {address:#x}: {lines:#?}");
    };
    told(wrote, "DMA Write", END);
    told(read, "DMA Read", BEYOND);
}

#[test]
fn a_device_works_on_after_a_stopped_dma() {
    assert_eq!(wired().inside_again, !VALUE);
}
