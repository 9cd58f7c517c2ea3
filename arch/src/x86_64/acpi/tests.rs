use proptest::prelude::*;

use super::*;
use crate::platform::PciWindow;

fn platform(cpus: u8) -> PlatformDescription {
    PlatformDescription {
        cpus,
        ram: layout::place_ram(
            6 << 30,
            layout::PAGE_SIZE,
            &layout::AddressLimits::of_cpu(46),
        )
        .unwrap()
        .ranges,
        pci_window_32: PciWindow {
            base: layout::PCI_WINDOW_32_BASE,
            len: layout::PCI_WINDOW_32_LEN,
        },
        pci_window_64: PciWindow {
            base: 0x4_0000_0000,
            len: 0x14_0000_0000,
        },
        pci_window_io: (layout::PCI_WINDOW_IO_BASE, layout::PCI_WINDOW_IO_LEN),
        serial: true,
        unmappable: Vec::new(),
    }
}

fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes[offset..offset + len]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn at(tables: &AcpiTables, address: u64) -> &[u8] {
    &tables
        .blobs
        .iter()
        .find(|blob| blob.address == address)
        .unwrap()
        .bytes
}

/// Finds a table the way a kernel does: RSDP, XSDT, signature; the DSDT through the FADT.
fn table(tables: &AcpiTables, signature: &[u8; 4]) -> Vec<u8> {
    if signature == b"DSDT" {
        return at(tables, number(&table(tables, b"FACP"), 140, 8)).to_vec();
    }
    let xsdt = at(tables, number(at(tables, tables.rsdp), 24, 8));
    let entries = xsdt[36..]
        .chunks_exact(8)
        .map(|entry| at(tables, number(entry, 0, 8)));
    entries
        .into_iter()
        .find(|table| table.starts_with(signature))
        .unwrap()
        .to_vec()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn dsdt(platform: &PlatformDescription) -> Vec<u8> {
    table(&build(platform).unwrap(), b"DSDT")
}

#[test]
fn rsdp_lies_where_old_kernels_search_for_it() {
    let tables = build(&platform(1)).unwrap();
    assert!((0xE_0000..0x10_0000).contains(&tables.rsdp) && tables.rsdp.is_multiple_of(16));
    let rsdp = at(&tables, tables.rsdp);
    assert!(rsdp.starts_with(b"RSD PTR "));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
}

#[test]
fn every_table_has_its_length_and_a_checksum() {
    let tables = build(&platform(3)).unwrap();
    for signature in [b"FACP", b"APIC", b"MCFG", b"DSDT"] {
        let table = table(&tables, signature);
        assert_eq!(number(&table, 4, 4), table.len() as u64, "{signature:?}");
        assert_eq!(sum(&table), 0, "{signature:?}");
    }
}

#[test]
fn fadt_is_hardware_reduced_with_sleep_and_reset_registers() {
    let fadt = table(&build(&platform(1)).unwrap(), b"FACP");
    let flags = number(&fadt, 112, 4);
    assert_ne!(flags & 1 << 20, 0, "HW_REDUCED_ACPI");
    assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
    // Each: I/O space, 8 bits, no offset, byte access, port.
    assert_eq!(
        (number(&fadt, 116, 4), number(&fadt, 120, 8), fadt[128]),
        (0x0100_0801, 0x602, 1)
    );
    assert_eq!(
        (number(&fadt, 244, 4), number(&fadt, 248, 8)),
        (0x0100_0801, 0x600)
    );
    assert_eq!(
        (number(&fadt, 256, 4), number(&fadt, 260, 8)),
        (0x0100_0801, 0x601)
    );
}

#[test]
fn fadt_sends_no_driver_looking_for_legacy_hardware() {
    let fadt = table(&build(&platform(1)).unwrap(), b"FACP");
    let boot_arch = number(&fadt, 109, 2);
    assert_eq!(boot_arch & 1 << 1, 0, "8042");
    assert_ne!(boot_arch & 1 << 2, 0, "VGA not present");
    assert_eq!(boot_arch & (1 << 3 | 1 << 4), 0, "MSI and ASPM are usable");
}

#[test]
fn madt_lists_every_cpu_then_the_io_apic_then_the_nmi() {
    let madt = table(&build(&platform(3)).unwrap(), b"APIC");
    assert_eq!(number(&madt, 36, 4), 0xFEE0_0000);
    let mut entries = Vec::new();
    let mut rest = &madt[44..];
    while let [_, length, ..] = rest {
        let (entry, behind) = rest.split_at(usize::from(*length));
        entries.push(entry.to_vec());
        rest = behind;
    }
    assert_eq!(
        entries,
        [
            vec![0, 8, 0, 0, 1, 0, 0, 0],
            vec![0, 8, 1, 1, 1, 0, 0, 0],
            vec![0, 8, 2, 2, 1, 0, 0, 0],
            vec![1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
            vec![4, 6, 0xFF, 0, 0, 1],
        ]
    );
}

#[test]
fn mcfg_maps_bus_0_of_segment_0() {
    let mcfg = table(&build(&platform(1)).unwrap(), b"MCFG");
    assert_eq!(
        (number(&mcfg, 44, 8), number(&mcfg, 52, 4)),
        (0xE000_0000, 0)
    );
    assert_eq!(mcfg.len(), 60);
}

#[test]
fn dsdt_describes_the_64_bit_window_only_if_there_is_one() {
    // QWORD address space descriptor, memory, minimum and maximum fixed, read/write; then granularity, bounds.
    let mut descriptor = vec![0x8A, 0x2B, 0, 0, 0xC, 1];
    for value in [0u64, 0x4_0000_0000, 0x17_FFFF_FFFF, 0, 0x14_0000_0000] {
        descriptor.extend(value.to_le_bytes());
    }
    let mut platform = platform(1);
    assert!(contains(&dsdt(&platform), &descriptor));
    platform.pci_window_64.len = 0;
    assert!(!contains(&dsdt(&platform), &[0x8A, 0x2B, 0, 0, 0xC, 1]));
}

#[test]
fn dsdt_describes_the_io_window_to_its_last_port() {
    let descriptor = [
        0x88, 0x0D, 0, 1, 0xC, 3, 0, 0, 0, 0x10, 0xFF, 0xFF, 0, 0, 0, 0xF0,
    ];
    assert!(contains(&dsdt(&platform(1)), &descriptor));
}

#[test]
fn dsdt_wires_the_pins_of_every_slot() {
    let dsdt = dsdt(&platform(1));
    // Package of four: DWORD address, pin, no link device, GSI.
    assert!(contains(
        &dsdt,
        &[0x12, 0x0C, 4, 0x0C, 0xFF, 0xFF, 6, 0, 0x0A, 2, 0, 0x0A, 16]
    ));
    assert!(contains(
        &dsdt,
        &[0x12, 0x0C, 4, 0x0C, 0xFF, 0xFF, 31, 0, 0x0A, 3, 0, 0x0A, 18]
    ));
    assert!(contains(&dsdt, &[b'_', b'P', b'R', b'T', 0x12]));
}

#[test]
fn dsdt_reserves_the_ecam_area() {
    let descriptor = [0x86, 9, 0, 1, 0, 0, 0, 0xE0, 0, 0, 0, 0x10];
    assert!(contains(&dsdt(&platform(1)), &descriptor));
}

#[test]
fn osc_grants_everything_but_hotplug() {
    // Local0 = CDW3 & (PME | AER | capability structure | LTR).
    assert!(contains(
        &dsdt(&platform(1)),
        &[0x7B, b'C', b'D', b'W', b'3', 0x0A, 0x3C, 0x60]
    ));
}

#[test]
fn every_slot_but_the_host_bridges_can_be_ejected() {
    let dsdt = dsdt(&platform(1));
    for slot in 1..32u8 {
        // Name (_ADR, slot << 16), Name (_SUN, slot).
        let mut device = format!("S{slot:03X}").into_bytes();
        device.extend([0x08, b'_', b'A', b'D', b'R', 0x0C, 0, 0]);
        device.extend(u16::from(slot).to_le_bytes());
        device.extend([0x08, b'_', b'S', b'U', b'N']);
        device.extend(if slot == 1 { vec![1] } else { vec![0x0A, slot] });
        // Method (_EJ0, 1, Serialized) { Store (1 << slot, PCEJ) }.
        device.push(0x14);
        let at = dsdt
            .windows(device.len())
            .position(|window| window == device);
        let rest = &dsdt[at.expect("no such slot") + device.len() + 1..];
        assert!(rest.starts_with(b"_EJ0\x09\x70"), "slot {slot}");
        let mask = aml_integer(1 << slot);
        assert!(
            rest[6..].starts_with(&mask) && rest[6 + mask.len()..].starts_with(b"PCEJ"),
            "slot {slot}"
        );
    }
    assert!(!contains(&dsdt, b"S000"));
}

#[test]
fn slots_are_notified_of_their_ejection_and_then_of_being_filled() {
    let dsdt = dsdt(&platform(1));
    let place = |bytes: &[u8]| {
        let places: Vec<_> = (0..dsdt.len())
            .filter(|at| dsdt[*at..].starts_with(bytes))
            .collect();
        let [only] = places.as_slice() else {
            panic!("{bytes:02x?}: {places:?}");
        };
        *only
    };
    // Store (register, Local0), which clears the register, once each.
    let (ejected, filled) = (place(b"\x70PCID\x60"), place(b"\x70PCIU\x60"));
    assert!(ejected < filled);
    for slot in 1..32 {
        // If (And (Local0, 1 << slot, Local1)) { Notify (slot, notification) }.
        let mut clause = vec![0x7B, 0x60];
        clause.extend(aml_integer(1 << slot));
        clause.extend([0x61, 0x86]);
        clause.extend(format!("S{slot:03X}").into_bytes());
        let notified = |notification: &[u8]| place(&[&clause, notification].concat());
        assert!(
            (ejected..filled).contains(&notified(&[0x0A, 3])),
            "slot {slot}"
        );
        assert!(notified(&[1]) > filled, "slot {slot}");
    }
}

#[test]
fn event_device_reads_its_register_and_asks_the_host_bridge() {
    let dsdt = dsdt(&platform(1));
    assert!(contains(&dsdt, b"ACPI0013"));
    // Extended interrupt descriptor: consumer, level, active high, exclusive; GSI 9.
    assert!(contains(&dsdt, &[0x89, 6, 0, 0b0001, 1, 9, 0, 0, 0]));
    // OperationRegion (GEDR, SystemIO, 0x608, 1), OperationRegion (PCIH, SystemIO, 0x610, 12).
    assert!(contains(&dsdt, b"\x5B\x80GEDR\x01\x0B\x08\x06\x01"));
    assert!(contains(&dsdt, b"\x5B\x80PCIH\x01\x0B\x10\x06\x0A\x0C"));
    // Store (EVTS, Local0), If (And (Local0, 1, Local1)) { \\_SB.PCI0.PCNT () }.
    assert!(contains(&dsdt, b"\x70EVTS\x60\xA0"));
    assert!(contains(&dsdt, b"\x7B\x60\x01\x61\x5C\x2F\x03_SB_PCI0PCNT"));
}

#[test]
fn event_device_tells_the_power_button_that_it_was_pressed() {
    let dsdt = dsdt(&platform(1));
    // Device (PWRB) { Name (_HID, EisaId ("PNP0C0C")) }.
    assert!(contains(&dsdt, b"PWRB\x08_HID\x0C\x41\xD0\x0C\x0C"));
    // If (And (Local0, 2, Local1)) { Notify (\\_SB.PWRB, 0x80) }.
    let clause = b"\x7B\x60\x0A\x02\x61\x86\x5C\x2E_SB_PWRB\x0A\x80";
    assert!(contains(&dsdt, clause));
}

/// An integer in the fewest bytes that AML has for it.
fn aml_integer(value: u32) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0 | 1 => vec![bytes[0]],
        2..=0xFF => vec![0x0A, bytes[0]],
        0x100..=0xFFFF => vec![0x0B, bytes[0], bytes[1]],
        _ => [&[0x0C][..], &bytes].concat(),
    }
}

#[test]
fn soft_off_uses_the_announced_sleep_type() {
    assert!(contains(
        &dsdt(&platform(1)),
        &[b'_', b'S', b'5', b'_', 0x12, 7, 4, 0x0A, 5, 0, 0, 0]
    ));
}

#[test]
fn serial_port_is_described_only_if_it_exists() {
    let mut platform = platform(1);
    assert!(contains(&dsdt(&platform), b"COM1"));
    platform.serial = false;
    assert!(!contains(&dsdt(&platform), b"COM1"));
}

#[test]
fn panic_port_is_described_as_drivers_look_for_it() {
    let dsdt = dsdt(&platform(1));
    let name = b"\x08_HID\x0DQEMU0001\0";
    let start = dsdt.windows(name.len()).position(|at| at == name);
    // _CRS, a buffer of ten bytes: one I/O port, 16 bits decoded, from 505 to 505, aligned to 1; the end tag.
    let resources = b"\x08_CRS\x11\x0D\x0A\x0A\x47\x01\x05\x05\x05\x05\x01\x01\x79";
    assert!(dsdt[start.unwrap() + name.len()..].starts_with(resources));
}

#[test]
fn keyboard_controller_is_not_described() {
    // EISA ids PNP0303 and PNP0F13.
    let dsdt = dsdt(&platform(1));
    assert!(
        !contains(&dsdt, &[0x41, 0xD0, 0x03, 0x03]) && !contains(&dsdt, &[0x41, 0xD0, 0x0F, 0x13])
    );
}

#[test]
fn a_guest_without_or_with_too_many_cpus_is_an_error() {
    for cpus in [0, 255] {
        assert_eq!(
            build(&platform(cpus)),
            Err(AcpiError::CpuCount { cpus, max: 254 })
        );
    }
}

#[test]
fn windows_beyond_their_descriptor_are_errors() {
    let with_32 = |base, len| {
        build(&PlatformDescription {
            pci_window_32: PciWindow { base, len },
            ..platform(1)
        })
    };
    assert!(with_32(0xC000_0000, 0x4000_0000).is_ok());
    assert!(matches!(
        with_32(0xC000_0000, 0x4000_0001),
        Err(AcpiError::PciWindow { .. })
    ));
    assert!(matches!(
        with_32(0xC000_0000, 0),
        Err(AcpiError::PciWindow { .. })
    ));
    let with_io = |base, len| {
        build(&PlatformDescription {
            pci_window_io: (base, len),
            ..platform(1)
        })
    };
    assert!(with_io(0x1000, 0xF000).is_ok());
    assert!(matches!(
        with_io(0x1001, 0xF000),
        Err(AcpiError::PciWindow { .. })
    ));
    assert!(matches!(
        with_io(0, 0x1_0000),
        Err(AcpiError::PciWindow { .. })
    ));
}

proptest! {
    #[test]
    fn tables_fit_their_area_without_overlap(cpus in 1u8..=254, serial: bool) {
        let tables = build(&PlatformDescription { serial, ..platform(cpus) }).unwrap();
        let mut end = layout::ACPI_ADDRESS;
        for blob in &tables.blobs {
            prop_assert!(blob.address >= end);
            end = blob.address + blob.bytes.len() as u64;
        }
        prop_assert!(end <= layout::ACPI_END);
    }

    #[test]
    fn every_cpu_has_a_processor_device(cpus in 1u8..=254) {
        let dsdt = dsdt(&platform(cpus));
        let devices = dsdt.windows(8).filter(|window| window == b"ACPI0007").count();
        prop_assert_eq!(devices, usize::from(cpus));
    }
}
