//! A second device at once.

use crate::guests::large;

#[test]
fn what_is_written_to_the_disk_is_read_back() {
    assert_eq!(large().disk.driver, "nvme");
    assert_eq!(large().disk.compared, 0);
}

#[test]
fn network_works_while_the_disk_does() {
    // What went over it in the time that 128 MiB take through the disk.
    let network = large().disk.network;
    assert!(network >= 8, "{network} MiB");
}

#[test]
fn disk_takes_no_exit_to_user_space() {
    for (name, count) in &large().disk.exits.0 {
        // The command comes and its end goes through the console.
        assert!(name.contains("serial"), "{name}: {count}");
    }
}

#[test]
fn vectors_of_the_disk_count() {
    // One for administration, one for each vCPU's queue.
    let interrupts = &large().disk.interrupts;
    assert_eq!(interrupts.len(), 3, "{interrupts:#?}");
    let taken: u64 = interrupts.iter().skip(1).map(|i| i.count).sum();
    assert!(taken >= 64, "{interrupts:#?}");
}
