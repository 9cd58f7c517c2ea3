//! DMA from one assigned device to another.

use crate::guests::{BEFORE, Moved, SHARED_SIZE, VALUES, peers, strangers};

#[test]
fn one_devices_dma_reaches_16_gib_of_another_at_start_middle_and_end() {
    let shown = peers();
    assert_eq!(shown.written, VALUES, "as the guest's CPU sees it");
    assert_eq!(shown.left, VALUES, "as the host sees it");
    assert_eq!(shown.faults, [""; 0]);
}

#[test]
fn one_devices_dma_reads_what_is_in_another() {
    assert_eq!(peers().read, BEFORE);
}

#[test]
fn a_bar_that_moves_is_reached_where_it_is_and_no_longer_where_it_was() {
    let Some(Moved { written, faults }) = &peers().moved else {
        panic!("nothing was moved");
    };
    assert_eq!(*written, VALUES[1]);
    assert!(
        faults.iter().any(|line| line.contains("[00:0b.0]")),
        "{faults:#?}"
    );
}

#[test]
fn without_peer_to_peer_the_same_dma_is_stopped() {
    let shown = strangers();
    assert_eq!(shown.written, [BEFORE; 3]);
    assert_eq!(shown.left, [BEFORE; 3]);
    assert_ne!(shown.read, BEFORE);
    assert!(!shown.faults.is_empty());
}

#[test]
fn figures_tell_how_much_devices_reach_in_each_other() {
    // edu's registers as well.
    assert!(peers().reachable > SHARED_SIZE);
    assert_eq!(strangers().reachable, 0);
}

/// It took 4.5 seconds while the CPU that writes the Command register waited for 4,194,304 pages to be mapped.
#[test]
fn guest_does_not_wait_while_a_huge_bar_is_mapped_for_its_peers() {
    let decoding = peers().decoding;
    assert!(decoding < 100, "{decoding} hundredths of a second");
}
