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

#[test]
fn a_disk_behind_xhci_gives_back_what_was_written() {
    let usb = &guest().usb;
    assert_eq!(usb.status, 0, "{usb:?}");
    assert!(
        guest()
            .usb_interrupts
            .iter()
            .all(|l| l.contains("PCI-MSIX-")),
        "{:#?}",
        guest().usb_interrupts
    );
}
