use proptest::prelude::*;

use super::*;

fn disjoint(mut ranges: Vec<(u64, u64)>) -> bool {
    ranges.sort_unstable();
    ranges
        .windows(2)
        .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
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
        (PVPANIC_PORT.into(), PVPANIC_PORTS.into()),
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

proptest! {
    #[test]
    fn intx_stays_on_the_reserved_wires(slot in 0u8..32, pin in 0u8..4) {
        prop_assert!((PCI_INTX_GSI_BASE..IOAPIC_PINS).contains(&intx_gsi(slot, pin)));
    }
}
