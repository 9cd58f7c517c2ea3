//! What a reset does to a device: a register that the guest has written keeps its value, or not.

use crate::guest::{CONVENTIONAL, E1000, IGB, answers};
use tests::Guest;

/// The upper half of a ring's address, which nothing but a reset changes.
const E1000_RDBAH: u64 = 0x2804;
const IGB_RDBAH: u64 = 0xc004;

const MARK: u64 = 0x0bad_cafe;

/// The devices whose registers are marked, each with its register.
const MARKED: [(&str, u64); 3] = [
    (IGB, IGB_RDBAH),
    (CONVENTIONAL, E1000_RDBAH),
    (E1000, E1000_RDBAH),
];

/// What the guest read where it had left the mark.
pub(crate) struct Kept {
    /// After it had asked for a function-level reset; and the BAR's address afterwards.
    flr: (u64, bool),
    /// After it had rebooted: of an igb, of a card behind a PCI bridge, of one on the root bus.
    reboot: [u64; 3],
    /// The Command register of each after the reboot.
    commands: [u64; 3],
}

/// Registers with the mark in them.
pub(crate) struct Marked {
    flr: (u64, bool),
}

fn folder(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}")
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}

fn place(guest: &mut Guest, (address, register): (&str, u64)) -> u64 {
    let resources = guest.ok(&format!(
        "echo 1 > {0}/enable; cat {0}/resource",
        folder(address)
    ));
    number(resources.split_whitespace().next().unwrap()) + register
}

fn read(guest: &mut Guest, device: (&str, u64)) -> u64 {
    let place = place(guest, device);
    number(&guest.ok(&format!("devmem {place:#x} 32")))
}

fn mark(guest: &mut Guest, device: (&str, u64)) {
    let place = place(guest, device);
    guest.ok(&format!("devmem {place:#x} 32 {MARK:#x}"));
    assert_eq!(
        read(guest, device),
        MARK,
        "{device:?} doesn't keep the mark"
    );
}

impl Marked {
    /// Marks all, and has the igb reset in between.
    pub(crate) fn all(guest: &mut Guest) -> Self {
        mark(guest, MARKED[0]);
        let before = place(guest, MARKED[0]);
        guest.ok(&format!(
            "cd {} && echo flr > reset_method && echo 1 > reset",
            folder(IGB)
        ));
        let flr = read(guest, MARKED[0]);
        let same = place(guest, MARKED[0]) == before;
        for device in MARKED {
            mark(guest, device);
        }
        Self { flr: (flr, same) }
    }

    /// Reads them after the reboot.
    pub(crate) fn look_again(self, guest: &mut Guest) -> Kept {
        let commands = MARKED.map(|(address, _)| {
            let text = guest.ok(&format!(
                "dd if={}/config bs=2 skip=2 count=1 2>/dev/null | od -An -tx2",
                folder(address)
            ));
            number(&text)
        });
        Kept {
            flr: self.flr,
            reboot: MARKED.map(|device| read(guest, device)),
            commands,
        }
    }
}

#[test]
fn a_guest_resets_a_function_by_flr() {
    assert_eq!(answers().kept.flr, (0, true));
}

#[test]
fn a_reboot_resets_a_function_alone() {
    assert_eq!(answers().kept.reboot[0], 0);
}

#[test]
fn a_reboot_resets_a_card_behind_a_pci_bridge_with_its_bus() {
    assert_eq!(answers().kept.reboot[1], 0);
}

/// It can't be reset, so it is left as it was, but quiet, and the user is told.
#[test]
fn a_reboot_tells_which_device_it_could_not_reset() {
    assert_eq!(answers().kept.reboot[2], MARK);
    let warnings: Vec<_> = answers().warnings.lines().collect();
    for role in ["vga", "e1000", "rtl8139"] {
        let name = tests::site::device(role).address().to_owned();
        let told =
            format!("{name}: not reset: the host knows no way to reset it, alone or with its bus");
        let told = warnings.iter().filter(|line| line.contains(&told)).count();
        assert_eq!(told, 1, "{name}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
}

#[test]
fn no_device_masters_the_bus_or_decodes_after_a_reboot() {
    for (command, (address, _)) in answers().kept.commands.iter().zip(MARKED) {
        assert_eq!(command & 7, 0, "{address}: {command:#x}");
    }
}
