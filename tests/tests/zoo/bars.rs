//! BARs of every kind and size.

use crate::crowd::{RTL8139, SHARED, TESTDEV, VGA, guest};
use crate::registers::{Registers, number};
use std::fs;
use std::process::Command;
use tests::{Exits, Guest, HostDevice};

/// What ivshmem's memory gets at its start, in its middle and at its end.
const PATTERNS: [(u64, u64); 3] = [
    (0, 0x0123_4567_89ab_cdef),
    (8 << 30, 0xfedc_ba98_7654_3210),
    ((16 << 30) - 8, 0x5a5a_a5a5_0ff0_f00f),
];

/// Where its memory is.
const SHARED_BAR: usize = 2;

/// The VBE interface of QEMU's VGA (docs/specs/standard-vga.rst), whose first register is its version.
const VBE_ID: u64 = 0x500;
const VBE_ID_VALUE: u64 = 0xb0c5;
const VGA_MEMORY: u64 = 16 << 20;

/// pci-testdev (docs/specs/pci-testdev.rst): writing a number to its first byte starts that test.
const TEST_OFFSET: u64 = 4;
const TEST_DATA: u64 = 8;
const TEST_COUNT: u64 = 12;
const TEST_NAME: u64 = 16;

/// The address that the lab gives rtl8139, in its first registers.
const MAC: [(u64, u8, u64); 2] = [(0, 32, 0x0000_5452), (4, 16, 0x000e)];

/// ivshmem's interrupt mask, a register that keeps what is written.
const INTERRUPT_MASK: u64 = 0;

/// What the guest saw.
pub(crate) struct Bars {
    /// What it read where it had written the patterns.
    shared: Vec<u64>,
    vbe_id: u64,
    /// The first and the last word of VGA's memory after they were written.
    vga: [u64; 2],
    /// The name of pci-testdev's test and how often it counted: in memory, and in ports.
    memory_test: (String, u64),
    port_test: (String, u64),
    /// Whether rtl8139 showed its address: in a page of its own, in the page of ivshmem's registers, not at a page's
    /// start, back in its own.
    small: [bool; 4],
    /// Exits to user space in each of these places.
    small_exits: [Exits; 4],
    /// What ivshmem's register read while it shared its page.
    neighbour: u64,
}

impl Bars {
    /// What the host finds in ivshmem's memory where the guest has written.
    pub(crate) fn seen_by_host(&self, device: &HostDevice) -> Vec<u64> {
        let resources = fs::read_to_string(device.folder().join("resource")).unwrap();
        let line = resources.lines().nth(SHARED_BAR).unwrap();
        let base = number(line.split_whitespace().next().unwrap());
        let read = |(offset, _): (u64, u64)| {
            let address = format!("{:#x}", base + offset);
            let output = Command::new("busybox")
                .args(["devmem", &address, "64"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            number(&String::from_utf8_lossy(&output.stdout))
        };
        PATTERNS.map(read).into()
    }
}

/// Looks at the BARs of the devices that have no driver.
pub(crate) fn look_at_bars(guest: &mut Guest) -> Bars {
    let mut shared = Registers::at(guest, SHARED).decode();
    let base = shared.bar(SHARED_BAR);
    for (offset, pattern) in PATTERNS {
        shared.write(base + offset, 64, pattern);
    }
    let read = PATTERNS.map(|(offset, _)| shared.read(base + offset, 64));

    let mut vga = Registers::at(guest, VGA).decode();
    let (memory, registers) = (vga.bar(0), vga.bar(2));
    let vbe_id = vga.read(registers + VBE_ID, 16);
    let ends = [memory, memory + VGA_MEMORY - 8];
    for (address, (_, pattern)) in ends.into_iter().zip(PATTERNS) {
        vga.write(address, 64, pattern);
    }
    let vga = ends.map(|address| vga.read(address, 64));

    let mut testdev = Registers::at(guest, TESTDEV).decode();
    let memory_test = test_memory(&mut testdev);
    let port_test = test_ports(&mut testdev);

    let (small, small_exits, neighbour) = move_small(guest);
    Bars {
        shared: read.into(),
        vbe_id,
        vga,
        memory_test,
        port_test,
        small,
        small_exits,
        neighbour,
    }
}

fn test_memory(device: &mut Registers<'_>) -> (String, u64) {
    let base = device.bar(0);
    device.write(base, 8, 0);
    let name = [0, 8].map(|at| device.read(base + TEST_NAME + at, 64).to_le_bytes());
    let place = device.read(base + TEST_OFFSET, 32);
    let data = device.read(base + TEST_DATA, 8);
    device.write(base + place, 8, data);
    (text(&name.concat()), device.read(base + TEST_COUNT, 32))
}

fn test_ports(device: &mut Registers<'_>) -> (String, u64) {
    let base = device.bar(1);
    device.port_write(base, 0);
    let header = device.ports_read(base, 32);
    let byte = |at: u64| header[usize::try_from(at).unwrap()];
    device.port_write(base + u64::from(byte(TEST_OFFSET)), byte(TEST_DATA));
    let count = device.ports_read(base + TEST_COUNT, 1)[0];
    let name = header.get(16..).unwrap_or_default();
    (text(name), count.into())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Reads rtl8139's registers, in a BAR smaller than a page, in four places.
fn move_small(guest: &mut Guest) -> ([bool; 4], [Exits; 4], u64) {
    let neighbour = Registers::at(guest, SHARED).decode().bar(0);
    let mut device = Registers::at(guest, RTL8139).decode();
    let own = device.bar(1);
    let shown = |device: &mut Registers<'_>, base: u64| {
        let exits = device.guest().figures().exits();
        let shown = MAC
            .iter()
            .all(|(at, width, value)| device.read(base + at, *width) == *value);
        (shown, device.guest().figures().exits().since(&exits))
    };
    let first = shown(&mut device, own);
    device.move_bar(1, neighbour + 0x800);
    let beside = shown(&mut device, neighbour + 0x800);
    device.write(neighbour + INTERRUPT_MASK, 32, 0x5a5a_5a5a);
    let mask = device.read(neighbour + INTERRUPT_MASK, 32);
    device.move_bar(1, own + 0x100);
    let askew = shown(&mut device, own + 0x100);
    device.move_bar(1, own);
    let back = shown(&mut device, own);
    let places = [first, beside, askew, back];
    (
        places.each_ref().map(|(shown, _)| *shown),
        places.map(|(_, exits)| exits),
        mask,
    )
}

/// Exits to a BAR of rtl8139.
fn of_small(exits: &Exits) -> u64 {
    let named = exits.0.iter().filter(|(name, _)| name.contains(" BAR 1 "));
    named.map(|(_, count)| count).sum()
}

#[test]
fn sixteen_gibibytes_are_reached_at_start_middle_and_end() {
    let patterns = PATTERNS.map(|(_, pattern)| pattern);
    assert_eq!(guest().bars.shared, patterns);
    assert_eq!(guest().left, patterns, "as the host sees it");
}

#[test]
fn vga_registers_and_both_ends_of_its_memory_are_reached() {
    let bars = &guest().bars;
    assert_eq!(bars.vbe_id & 0xffff, VBE_ID_VALUE);
    assert_eq!(bars.vga, [PATTERNS[0].1, PATTERNS[1].1]);
}

#[test]
fn registers_in_memory_and_in_ports_are_reached() {
    let bars = &guest().bars;
    assert_eq!(bars.memory_test, ("mmio-no-eventfd".to_owned(), 1));
    assert_eq!(bars.port_test, ("portio-no-eventfd"[..16].to_owned(), 1));
}

#[test]
fn a_bar_smaller_than_a_page_works_wherever_the_guest_puts_it() {
    assert_eq!(guest().bars.small, [true; 4]);
    assert_eq!(guest().bars.neighbour, 0x5a5a_5a5a);
}

/// Where it shares one, its accesses exit: the page of one device would hide the other.
#[test]
fn a_bar_smaller_than_a_page_is_mapped_where_it_has_the_page_to_itself() {
    let [own, beside, askew, back] = guest().bars.small_exits.each_ref().map(of_small);
    assert_eq!((own, back), (0, 0));
    assert_eq!((beside, askew), (2, 2));
}
