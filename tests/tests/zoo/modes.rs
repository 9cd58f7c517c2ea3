//! One card by its line and by MSI-X, as its driver is loaded again under other conditions.
//!
//! Not by MSI, which QEMU's e1000e can't: its driver tries it out and falls back, on the host, too.

use crate::growth;
use crate::network::interrupts_named;
use tests::{Exchange, Guest, Peer};

/// What the guest does to its card, and what /proc/interrupts has for it then. The kernel can be kept from MSI for one
/// function, as `pci=nomsi` keeps it for all.
const MODES: [(&str, &str); 4] = [
    ("modprobe e1000e IntMode=0", "IO-APIC"),
    ("modprobe e1000e IntMode=2", "PCI-MSIX-"),
    ("echo 0 > $card/msi_bus; modprobe e1000e", "IO-APIC"),
    ("echo 1 > $card/msi_bus; modprobe e1000e", "PCI-MSIX-"),
];

/// How the card worked in one mode.
pub(crate) struct Mode {
    /// What its lines in /proc/interrupts are expected to have.
    chip: &'static str,
    interrupts: Vec<String>,
    ping: String,
    exchange: Exchange,
}

/// Switches the guest's second interface, an e1000e at `address`, through all modes.
pub(crate) fn switch(guest: &mut Guest, address: &str, peer: &Peer) -> Vec<Mode> {
    let modes = MODES.into_iter();
    let tried = modes.map(|(load, chip)| {
        let card = format!("card=/sys/bus/pci/devices/{address}");
        guest.ok(&format!("{card}; rmmod e1000e && {{ {load}; }}"));
        peer.set_up_guest(guest);
        Mode {
            chip,
            ping: peer.ping(guest, 3),
            exchange: peer.exchange(guest, 4 << 20),
            interrupts: interrupts_named(guest, "eth1"),
        }
    });
    tried.collect()
}

#[test]
fn a_driver_may_switch_between_line_and_msix() {
    for mode in growth::modes() {
        let Mode {
            chip, interrupts, ..
        } = mode;
        assert!(!interrupts.is_empty(), "{chip}");
        for line in interrupts {
            assert!(line.contains(chip), "{chip}: {line}");
        }
        let text = "3 packets transmitted, 3 packets received, 0% packet loss";
        assert!(mode.ping.contains(text), "{chip}: {}", mode.ping);
        assert_eq!(
            mode.exchange.exits.total(),
            0,
            "{chip}: {}",
            mode.exchange.exits
        );
    }
}
