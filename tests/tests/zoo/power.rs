//! A function that the guest puts to sleep, D3hot, and wakes.

use crate::growth;
use crate::registers::Registers;
use tests::{Exchange, Guest, Peer};

/// Where the first capability is told (PCI 3.0 section 6.7).
const CAPABILITIES: usize = 0x34;
/// Power Management (PCI Power Management 1.2 section 3.2).
const POWER_MANAGEMENT: u8 = 0x01;
/// Its Control/Status register, from its start.
const CONTROL: usize = 4;
const D0: u8 = 0;
const D3_HOT: u8 = 3;
/// Control/Status: PowerState.
const POWER_STATE: u8 = 3;

/// e1000e: Device Status. Its value stays for as long as nobody touches the device.
const STATUS: u64 = 0x08;

/// What the guest saw.
pub(crate) struct Slept {
    /// Device Status before, during and after.
    status: [u64; 3],
    /// PowerState during and after.
    state: [u8; 2],
    /// Through the card afterwards.
    exchange: Exchange,
}

/// Where a function has Control/Status.
fn control(config: &[u8]) -> usize {
    let byte = |at: usize| config.get(at).copied().map(usize::from);
    // There is room for 48 of them.
    std::iter::successors(byte(CAPABILITIES), |at| byte(at + 1))
        .take(48)
        .find(|at| config.get(*at) == Some(&POWER_MANAGEMENT))
        .unwrap()
        + CONTROL
}

/// Takes the e1000e at `address`, the guest's second interface, to D3hot and back, its driver away.
pub(crate) fn sleep(guest: &mut Guest, address: &str, peer: &Peer) -> Slept {
    let driver = "/sys/bus/pci/drivers/e1000e";
    guest.ok(&format!("echo {address} > {driver}/unbind"));
    let mut card = Registers::at(guest, address).decode();
    let (registers, control) = (card.bar(0), control(&card.config()));
    let look = |card: &mut Registers<'_>, to: Option<u8>| {
        if let Some(state) = to {
            card.config_write(control as u64, &u16::from(state).to_le_bytes());
        }
        (
            card.read(registers + STATUS, 32),
            card.config()[control] & POWER_STATE,
        )
    };
    let (before, _) = look(&mut card, None);
    let (during, asleep) = look(&mut card, Some(D3_HOT));
    let (after, awake) = look(&mut card, Some(D0));
    guest.ok(&format!("echo {address} > {driver}/bind"));
    peer.set_up_guest(guest);
    Slept {
        status: [before, during, after],
        state: [asleep, awake],
        exchange: peer.exchange(guest, 4 << 20),
    }
}

#[test]
fn a_function_in_d3hot_decodes_nothing_and_works_again_in_d0() {
    let Slept {
        status: [before, during, after],
        state,
        exchange,
    } = growth::slept();
    assert_eq!(*state, [D3_HOT, D0]);
    assert_ne!(*before, 0xffff_ffff);
    assert_eq!(*during, 0xffff_ffff);
    assert_eq!(after, before);
    assert_eq!(exchange.exits.total(), 0, "{}", exchange.exits);
}
