//! A guest whose devices have nothing but an interrupt line, and all of them the same.

use crate::network::{Card, interrupts_named, use_card};
use crate::reboots::reboot_in_the_background;
use crate::registers::Registers;
use std::sync::LazyLock;
use tests::site::{self, Kernel};
use tests::{Exchange, Guest, KernelLog, MOMENT, Peer, Run, figure, until};

/// Slots three times eight apart lead to one GSI.
const E1000: (&str, &str) = ("0000:00:03.0", ",addr=3");
const RTL8139: (&str, &str) = ("0000:00:0b.0", ",addr=0xb");
const EDU: (&str, &str) = ("0000:00:13.0", ",addr=0x13");

/// How often edu interrupts.
pub(crate) const RAISED: u64 = 5;

/// edu's registers (QEMU, docs/specs/edu.rst).
const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;

/// The upper byte of the Command register.
const COMMAND_HIGH: u64 = 5;

/// What the guest answered.
pub(crate) struct Lines {
    /// e1000, rtl8139.
    pub(crate) cards: [Card; 2],
    /// The line in /proc/interrupts.
    pub(crate) line: Vec<String>,
    /// Through e1000, while rtl8139 was kept busy.
    pub(crate) at_once: Exchange,
    /// MiB that rtl8139 took meanwhile.
    pub(crate) meanwhile: u64,
    /// How many of edu's interrupts its driver in the guest noticed.
    pub(crate) arrived: u64,
    /// Interrupts that the host counted for each device.
    pub(crate) counted: Vec<u64>,
    pub(crate) faults: Vec<String>,
}

/// Has edu interrupt, one after another; gives how often its driver in the guest noticed. That driver only counts, and
/// disables INTx each time, so its user has to enable it again. It also counts when another device on the line interrupts
/// while edu waits to be acknowledged.
fn raise(guest: &mut Guest) -> u64 {
    guest.ok("echo 1234 11e8 > /sys/bus/pci/drivers/uio_pci_generic/new_id");
    let mut edu = Registers::at(guest, EDU.0);
    let base = edu.bar(0);
    let events = |edu: &mut Registers<'_>| {
        let text = edu.guest().ok("cat /sys/class/uio/uio0/event");
        text.trim().parse::<u64>().unwrap()
    };
    let mut arrived = 0;
    for _ in 0..RAISED {
        let before = events(&mut edu);
        edu.write(base + INTERRUPT_RAISE, 32, 1);
        until("an interrupt of edu", MOMENT, || {
            (events(&mut edu) > before).then_some(())
        });
        arrived += 1;
        edu.write(base + INTERRUPT_ACKNOWLEDGE, 32, 1);
        edu.config_write(COMMAND_HIGH, &[0]);
    }
    arrived
}

static LINES: LazyLock<Lines> = LazyLock::new(|| {
    reboot_in_the_background();
    let mut log = KernelLog::from_now();
    let peers = [Peer::of("eth0", 0), Peer::of("eth1", 1)];
    let [e1000, rtl8139, edu] = ["e1000", "rtl8139", "edu"].map(|role| site::device(role).assign());
    let mut guest = Run::new(Kernel::Elf)
        .memory("512M")
        .modules("e1000,8139cp,uio_pci_generic")
        .cmdline("iomem=relaxed")
        .device(&e1000, E1000.1)
        .device(&rtl8139, RTL8139.1)
        .device(&edu, EDU.1)
        .boot();
    let cards = [("e1000", &peers[0]), ("rtl8139", &peers[1])]
        .map(|(name, peer)| use_card(name, &mut guest, peer));
    let flood = peers[1].flood(&mut guest);
    let sent = flood.sent();
    let at_once = peers[0].exchange(&mut guest, 16 << 20);
    let meanwhile = flood.sent() - sent;
    flood.stop(&mut guest);
    figure(&format!(
        "e1000, 16 MiB: {:.0} Mbit/s to the guest, {:.0} from it, {}; rtl8139 took {meanwhile} MiB meanwhile",
        at_once.to_guest, at_once.from_guest, at_once.exits
    ));
    let arrived = raise(&mut guest);
    let line = interrupts_named(&mut guest, "eth0");
    let counted = (0..3).map(|index| {
        let pointer = format!("/devices/{index}/interrupts/intx/0");
        guest.figures().number(&pointer)
    });
    let counted = counted.collect();
    guest.stop();
    Lines {
        cards,
        line,
        at_once,
        meanwhile,
        arrived,
        counted,
        faults: log.dma_faults(),
    }
});

/// The guest.
pub(crate) fn guest() -> &'static Lines {
    &LINES
}
