//! Network cards: driver, packets, and what they cost.

use crate::{crowd, lines};
use tests::{Exchange, Guest, Peer, figure};

/// How much is sent each way.
const MEBIBYTES: usize = 16;

/// What the guest answered while it used a network card.
pub(crate) struct Card {
    /// What to call it in a message.
    pub(crate) name: &'static str,
    /// What `ping` printed.
    pub(crate) ping: String,
    /// The transfer both ways, whose content was compared.
    pub(crate) exchange: Exchange,
}

/// Sets the guest's end of `peer` up and uses it.
pub(crate) fn use_card(name: &'static str, guest: &mut Guest, peer: &Peer) -> Card {
    // A card does not answer for the others' addresses.
    guest.ok("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore");
    peer.set_up_guest(guest);
    let ping = peer.ping(guest, 5);
    let exchange = peer.exchange(guest, MEBIBYTES << 20);
    figure(&format!(
        "{name}, {MEBIBYTES} MiB: {:.0} Mbit/s to the guest, {:.0} from it, {}",
        exchange.to_guest, exchange.from_guest, exchange.exits
    ));
    Card {
        name,
        ping,
        exchange,
    }
}

/// The lines of the guest's /proc/interrupts that have `word` in them.
pub(crate) fn interrupts_named(guest: &mut Guest, word: &str) -> Vec<String> {
    let text = guest.ok(&format!("grep {word} /proc/interrupts"));
    text.lines().map(str::to_owned).collect()
}

fn all() -> impl Iterator<Item = &'static Card> {
    lines::guest().cards.iter().chain(&crowd::guest().cards)
}

#[test]
fn ping_loses_nothing() {
    for card in all() {
        let text = "5 packets transmitted, 5 packets received, 0% packet loss";
        assert!(card.ping.contains(text), "{}: {}", card.name, card.ping);
    }
}

/// Interrupts by line or message, registers in BARs of all sizes: none of it reaches user space.
#[test]
fn transfer_takes_no_exit_to_user_space() {
    for card in all() {
        let exits = &card.exchange.exits;
        assert_eq!(exits.total(), 0, "{}: {exits}", card.name);
    }
}

#[test]
fn both_functions_of_a_slot_have_their_driver_and_vectors() {
    let [first, second] = &crowd::guest().pair_interrupts;
    for (address, lines) in [(crowd::PAIR[0], first), (crowd::PAIR[1], second)] {
        // To receive, to send, and for the link.
        assert_eq!(lines.len(), 3, "{address}: {lines:#?}");
        assert!(lines.iter().all(|line| line.contains("PCI-MSIX-")));
    }
}

#[test]
fn the_vf_has_the_address_that_the_host_gave_it() {
    assert_eq!(crowd::guest().vf_mac, crate::virtual_function::MAC);
    assert_eq!(crowd::guest().vf_driver, "igbvf");
}
