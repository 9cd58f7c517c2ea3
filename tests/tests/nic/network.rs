//! The network card: driver, interrupts, packets, and what they cost.

use crate::drive::{Driven, Interrupt};
use crate::guests::{killed, large, plain};

/// The guests, with their numbers of vCPUs.
fn all() -> [(&'static str, &'static Driven, usize); 3] {
    [
        ("1 vCPU, 512 MiB", &plain().first, 1),
        ("2 vCPUs, 5 GiB", &large().driven, 2),
        ("4 vCPUs, 512 MiB", &killed().first, 4),
    ]
}

#[test]
fn driver_of_the_card_is_bound() {
    for (name, driven, _) in all() {
        assert_eq!(driven.driver, "igb", "{name}");
    }
}

/// igb takes one vector for the link, and for each vCPU one to receive and one to send.
#[test]
fn every_queue_has_a_vector() {
    for (name, driven, vcpus) in all() {
        let vectors = 1 + 2 * vcpus;
        assert_eq!(driven.after.len(), vectors, "{name}: {:#?}", driven.after);
        for interrupt in &driven.after {
            assert!(
                interrupt.chip.starts_with("PCI-MSIX-"),
                "{name}: {interrupt:?}"
            );
        }
    }
}

#[test]
fn msix_vectors_count() {
    for (name, driven, _) in all() {
        for direction in ["-rx-", "-tx-"] {
            let sum = |interrupts: &[Interrupt]| -> u64 {
                let queues = interrupts.iter().filter(|i| i.name.contains(direction));
                queues.map(|interrupt| interrupt.count).sum()
            };
            let (before, after) = (sum(&driven.before), sum(&driven.after));
            assert!(
                after > before + 100,
                "{name}, {direction}: {before}, then {after}"
            );
        }
    }
}

#[test]
fn host_counts_no_fewer_interrupts_than_the_guest_takes() {
    for (name, driven, _) in all() {
        // Vector n of the device is the guest's n-th line.
        for (vector, interrupt) in driven.after.iter().enumerate() {
            let host = driven.host.get(&format!("msix {vector}"));
            assert!(
                host.is_some_and(|host| *host >= interrupt.count),
                "{name}: vector {vector}: {host:?} on the host, {interrupt:?}"
            );
        }
    }
}

#[test]
fn ping_loses_nothing() {
    for (name, driven, _) in all() {
        let text = "10 packets transmitted, 10 packets received, 0% packet loss";
        assert!(driven.ping.contains(text), "{name}: {}", driven.ping);
    }
}

/// 64 MiB both ways, checked by [`tests::Peer::exchange`].
///
/// There is no exit that would have to be allowed: packets, descriptors and the card's registers are
/// memory, its interrupts go from the host's kernel to KVM, an idle vCPU halts and its timer fires
/// inside KVM, and the console is silent.
#[test]
fn transfer_takes_no_exit_to_user_space() {
    for (name, driven, _) in all() {
        let exits = &driven.exchange.exits;
        assert_eq!(exits.total(), 0, "{name}: {exits}");
    }
}

#[test]
fn descriptor_rings_of_a_large_guest_are_above_4_gib() {
    // Two of each kind. The card does nothing without reading and writing descriptors there.
    let rings = &large().rings;
    assert_eq!(rings.len(), 4);
    assert!(rings.iter().all(|ring| *ring >= 1 << 32), "{rings:x?}");
}
