//! Disks: what is written is read back.

use crate::crowd::guest;

/// fio writes blocks with checksums all over the place and reads each one.
#[test]
fn fio_verifies_what_it_wrote_to_nvme() {
    let fio = &guest().fio;
    assert_eq!(fio.status, 0, "{fio:?}");
}

#[test]
fn nvme_takes_no_exit_to_user_space() {
    for (name, count) in &guest().fio_exits.0 {
        // The command comes and its end goes through the console.
        assert!(name.contains("serial"), "{name}: {count}");
    }
}

/// A host has some hundred vectors for all of its devices.
#[test]
fn a_table_of_2048_entries_costs_what_is_used_of_it() {
    assert_eq!(guest().nvme_entries, 2048);
    // For its administration and for each vCPU.
    assert_eq!(guest().nvme_used, 3);
    assert_eq!(guest().nvme_vectors, guest().nvme_used);
}

#[test]
fn a_disk_behind_xhci_gives_back_what_was_written() {
    let usb = &guest().usb;
    assert_eq!(usb.status, 0, "{usb:?}");
}

/// The only device of the lab with MSI and without MSI-X that has a driver.
#[test]
fn a_driver_works_by_msi() {
    let lines = &guest().usb_interrupts;
    assert!(!lines.is_empty());
    for line in lines {
        assert!(line.contains("PCI-MSI-"), "{line}");
    }
}
