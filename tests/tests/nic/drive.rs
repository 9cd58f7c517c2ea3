//! What a guest does with its network card.

use std::collections::BTreeMap;
use tests::{Exchange, Guest, Peer, figure};

/// What the guest answered while it used its network card.
pub(crate) struct Driven {
    /// The driver it is bound to.
    pub(crate) driver: String,
    /// Its interrupts before any packet.
    pub(crate) before: Vec<Interrupt>,
    /// Its interrupts after all of them, in the same order.
    pub(crate) after: Vec<Interrupt>,
    /// What `ping` printed.
    pub(crate) ping: String,
    /// The transfer both ways.
    pub(crate) exchange: Exchange,
    /// What the host counted by then for the card, by kind and vector.
    pub(crate) host: BTreeMap<String, u64>,
}

/// A line of the guest's /proc/interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interrupt {
    /// All CPUs together.
    pub(crate) count: u64,
    /// The interrupt controller, and the device where it has vectors of its own.
    pub(crate) chip: String,
    /// Who handles it.
    pub(crate) name: String,
}

impl Interrupt {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1).peekable();
        let mut count = 0;
        while let Some(number) = words.peek().and_then(|word| word.parse::<u64>().ok()) {
            count += number;
            words.next();
        }
        Some(Self {
            count,
            chip: words.next()?.to_owned(),
            name: words.last()?.to_owned(),
        })
    }
}

/// The interrupts whose line in the guest's /proc/interrupts has `word` in it.
pub(crate) fn interrupts(guest: &mut Guest, word: &str) -> Vec<Interrupt> {
    let lines = guest.ok(&format!("grep {word} /proc/interrupts"));
    lines.lines().filter_map(Interrupt::parse).collect()
}

/// Interrupts of the `index`-th device as the host counted them, e.g. "msix 3".
pub(crate) fn counted_by_host(guest: &Guest, index: usize) -> BTreeMap<String, u64> {
    let figures = guest.figures();
    let kinds = figures.at(&format!("/devices/{index}/interrupts"));
    let vectors = kinds
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(kind, counts)| {
            let counts = counts.as_object().unwrap().iter();
            counts.map(move |(vector, count)| (format!("{kind} {vector}"), count.as_u64().unwrap()))
        });
    vectors.collect()
}

/// Sets the network card up, pings, and sends so many MiB both ways. The card must be the guest's
/// first device.
pub(crate) fn drive(what: &str, guest: &mut Guest, peer: &Peer, mebibytes: usize) -> Driven {
    peer.set_up_guest(guest);
    let driver = guest.ok("basename $(readlink /sys/class/net/eth0/device/driver)");
    let before = interrupts(guest, "eth0");
    let ping = peer.ping(guest, 10);
    let exchange = peer.exchange(guest, mebibytes << 20);
    let after = interrupts(guest, "eth0");
    figure(&format!(
        "{what}, {mebibytes} MiB: {:.0} Mbit/s to the guest, {:.0} from it, {}",
        exchange.to_guest, exchange.from_guest, exchange.exits
    ));
    Driven {
        driver: driver.trim().to_owned(),
        before,
        after,
        ping,
        exchange,
        host: counted_by_host(guest, 0),
    }
}
