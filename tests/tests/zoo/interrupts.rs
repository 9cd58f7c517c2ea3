//! Several devices on one interrupt line.

use crate::lines::{RAISED, guest};

#[test]
fn one_line_serves_all_three_devices() {
    let [line] = guest().line.as_slice() else {
        panic!("one line expected: {:#?}", guest().line);
    };
    assert!(line.contains("IO-APIC"), "{line}");
    assert!(line.ends_with("eth0, eth1, uio_pci_generic"), "{line}");
}

#[test]
fn devices_on_one_line_are_busy_at_once() {
    let exits = &guest().at_once.exits;
    assert_eq!(exits.total(), 0, "{exits}");
    assert!(guest().meanwhile >= 2, "{} MiB", guest().meanwhile);
}

#[test]
fn each_device_takes_its_own_interrupts_on_the_host() {
    let [e1000, rtl8139, edu] = guest().counted.as_slice() else {
        panic!("{:?}", guest().counted);
    };
    assert!(*e1000 > 100 && *rtl8139 > 100, "{e1000}, {rtl8139}");
    assert_eq!(*edu, RAISED);
}

/// Its driver disables INTx in the Command register for each of them.
#[test]
fn every_interrupt_of_a_line_that_is_disabled_in_between_arrives() {
    assert_eq!(guest().arrived, RAISED);
}

#[test]
fn host_logs_no_dma_fault() {
    for faults in [&guest().faults, &crate::crowd::guest().faults] {
        assert!(faults.is_empty(), "{faults:#?}");
    }
}
