use proptest::prelude::*;

use super::*;

fn disjoint(mut ranges: Vec<(u64, u64)>) -> bool {
    ranges.sort_unstable();
    ranges
        .windows(2)
        .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
}

#[test]
fn small_guest_has_one_range_of_ram() {
    assert_eq!(
        ram_ranges(512 * MIB),
        [MemoryRange {
            start: 0,
            len: 512 * MIB
        }]
    );
    assert_eq!(ram_ranges(LOW_RAM_END).len(), 1);
    assert_eq!(ram_ranges(0), []);
}

#[test]
fn ram_beyond_3_gib_continues_at_4_gib() {
    let high = MemoryRange {
        start: 4 * GIB,
        len: GIB,
    };
    assert_eq!(
        ram_ranges(4 * GIB),
        [
            MemoryRange {
                start: 0,
                len: 3 * GIB
            },
            high
        ]
    );
}

#[test]
fn ranges_below_4_gib_are_disjoint() {
    assert!(disjoint(vec![
        (0, LOW_RAM_END),
        (PCI_WINDOW_32_BASE, PCI_WINDOW_32_LEN),
        (PCIE_ECAM_BASE, PCIE_ECAM_RESERVED_LEN),
        (IOAPIC_ADDRESS, PAGE_SIZE),
        (LAPIC_ADDRESS, MIB),
        (KVM_IDENTITY_MAP_ADDRESS, PAGE_SIZE),
        (KVM_TSS_ADDRESS, KVM_TSS_LEN),
        (HIGH_RAM_START, 0),
    ]));
}

#[test]
fn boot_structures_are_disjoint() {
    assert!(disjoint(vec![
        (GDT_ADDRESS, 0x20),
        (IDT_ADDRESS, 8),
        (PVH_START_INFO_ADDRESS, PAGE_SIZE),
        (ZERO_PAGE_ADDRESS, PAGE_SIZE),
        (BOOT_STACK_POINTER, 0),
        (PML4_ADDRESS, (2 + IDENTITY_MAP_GIB) * PAGE_SIZE),
        (CMDLINE_ADDRESS, CMDLINE_MAX),
        (EBDA_ADDRESS, VGA_ADDRESS - EBDA_ADDRESS),
        (ACPI_ADDRESS, ACPI_END - ACPI_ADDRESS),
        (KERNEL_ADDRESS, 0),
    ]));
}

#[test]
fn io_ports_are_disjoint() {
    assert!(disjoint(vec![
        (I8042_DATA_PORT.into(), 1),
        (I8042_COMMAND_PORT.into(), 1),
        (RTC_PORT.into(), RTC_PORTS.into()),
        (DEBUG_EXIT_PORT.into(), 1),
        (COM1_PORT.into(), COM1_PORTS.into()),
        (ACPI_POWER_PORT.into(), ACPI_POWER_PORTS.into()),
        (PCI_CONFIG_ADDRESS_PORT.into(), PCI_CONFIG_PORTS.into()),
        (PCI_WINDOW_IO_BASE.into(), PCI_WINDOW_IO_LEN.into()),
        (0x1_0000, 0),
    ]));
}

#[test]
fn power_registers_lie_in_the_power_block() {
    let block = ACPI_POWER_PORT..ACPI_POWER_PORT + u16::from(ACPI_POWER_PORTS);
    for port in [
        ACPI_SLEEP_CONTROL_PORT,
        ACPI_SLEEP_STATUS_PORT,
        ACPI_RESET_PORT,
    ] {
        assert!(block.contains(&port));
    }
}

#[test]
fn neighbouring_slots_use_different_wires() {
    assert_eq!(
        [
            intx_gsi(0, 0),
            intx_gsi(1, 0),
            intx_gsi(0, 1),
            intx_gsi(31, 3)
        ],
        [16, 17, 17, 18]
    );
}

#[test]
fn window_keeps_room_for_hotplug_beside_a_huge_bar() {
    let window = pci_window_64(7 * GIB, 16 * GIB, 46).unwrap();
    assert_eq!(
        window,
        PciWindow {
            base: 16 * GIB,
            len: 80 * GIB
        }
    );
}

#[test]
fn window_shrinks_to_what_a_narrow_cpu_leaves() {
    let window = pci_window_64(6 * GIB, GIB, 36).unwrap();
    assert_eq!(
        window,
        PciWindow {
            base: 6 * GIB,
            len: 58 * GIB
        }
    );
}

#[test]
fn bars_that_do_not_fit_are_an_error_that_names_bits_and_sizes() {
    let error = pci_window_64(8 * GIB, 64 * GIB, 36).unwrap_err();
    let LayoutError::PciWindow64 {
        needed,
        available,
        ram_end,
        phys_bits,
    } = error;
    assert_eq!(
        (needed, available, ram_end, phys_bits),
        (64 * GIB, 0, 8 * GIB, 36)
    );
    let text = error.to_string();
    assert!(
        text.contains("65536 MiB") && text.contains("36-bit") && text.contains("0x200000000"),
        "{text}"
    );
}

#[test]
fn without_bars_a_full_address_space_is_no_error() {
    assert_eq!(pci_window_64(64 * GIB, 0, 36).unwrap().len, 0);
}

#[test]
fn window_reaches_the_widest_address_there_is() {
    let ram_end = (1 << 52) - 8 * GIB;
    assert_eq!(pci_window_64(ram_end, GIB, 57).unwrap().end(), 1 << 52);
}

#[test]
fn window_avoids_the_hypertransport_range() {
    let above = pci_window_64(1000 * GIB, 0, 48).unwrap();
    assert_eq!(above.base, TIB);
    let below = pci_window_64(1000 * GIB, GIB, 40).unwrap();
    assert_eq!(below.end(), HYPERTRANSPORT_BASE);
}

proptest! {
    #[test]
    fn ram_is_neither_lost_nor_gained(size in 0u64..(1 << 46)) {
        let ranges = ram_ranges(size);
        prop_assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), size);
        prop_assert!(ranges.iter().all(|range| range.end() <= LOW_RAM_END || range.start >= HIGH_RAM_START));
    }

    #[test]
    fn intx_stays_on_the_reserved_wires(slot in 0u8..32, pin in 0u8..4) {
        prop_assert!((PCI_INTX_GSI_BASE..IOAPIC_PINS).contains(&intx_gsi(slot, pin)));
    }

    #[test]
    fn window_is_aligned_above_ram_and_below_the_limit(ram_gib in 1u64..2048, needed: u64, bits in 32u8..=57) {
        let (ram_end, needed) = (ram_gib * GIB, needed >> (needed % 64));
        if let Ok(window) = pci_window_64(ram_end, needed, bits) {
            prop_assert!(window.len >= needed);
            prop_assert!(window.len == 0 || window.base >= ram_end.max(4 * GIB));
            prop_assert!(window.len == 0 || window.end() <= 1 << bits.min(52));
            prop_assert!(window.len == 0 || window.base.is_multiple_of(needed.next_power_of_two()));
            prop_assert!(window.len == 0 || window.end() <= HYPERTRANSPORT_BASE || window.base >= HYPERTRANSPORT_END);
        }
    }
}
