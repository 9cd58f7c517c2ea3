use proptest::prelude::*;

use super::*;

const TIB: u64 = 1 << 40;
const PAGE: u64 = 4096;

fn limits(phys_bits: u8, reserved: &[RangeInclusive<u64>]) -> AddressLimits {
    AddressLimits {
        phys_bits,
        reserved: reserved.to_vec(),
    }
}

fn ram(size: u64, reserved: &[RangeInclusive<u64>]) -> Vec<(u64, u64)> {
    let placement = place_ram(size, PAGE, &limits(48, reserved)).unwrap();
    pairs(&placement.ranges)
}

fn pairs(ranges: &[MemoryRange]) -> Vec<(u64, u64)> {
    ranges
        .iter()
        .map(|range| (range.start, range.len))
        .collect()
}

fn bars(sizes: &[u64]) -> BarSpace {
    BarSpace {
        bytes: sizes.iter().sum(),
        largest: sizes.iter().copied().max().unwrap_or(0),
    }
}

#[test]
fn small_guest_has_one_range_of_ram() {
    assert_eq!(ram(512 * MIB, &[]), [(0, 512 * MIB)]);
    assert_eq!(ram(LOW_RAM_END, &[]).len(), 1);
}

#[test]
fn ram_beyond_3_gib_continues_at_4_gib() {
    assert_eq!(ram(4 * GIB, &[]), [(0, 3 * GIB), (4 * GIB, GIB)]);
}

/// The only range that VT-d reserves for every device, and one of those that AMD-Vi does.
#[test]
fn msi_window_costs_no_ram() {
    let msi = 0xfee0_0000..=0xfeef_ffff;
    assert_eq!(ram(5 * GIB, &[msi]), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
}

#[test]
fn huge_guest_goes_around_the_hypertransport_range() {
    let below = 0xfd_0000_0000 - 4 * GIB;
    assert_eq!(
        ram(2 * TIB, &[0xfee0_0000..=0xfeef_ffff, HYPERTRANSPORT]),
        [
            (0, 3 * GIB),
            (4 * GIB, below),
            (TIB, 2 * TIB - 3 * GIB - below)
        ]
    );
}

#[test]
fn ram_goes_around_a_reserved_range_by_whole_large_pages() {
    // An RMRR of a graphics device, below 4 GiB.
    let stolen = 0x8b80_0000..=0x9fff_ffff;
    assert_eq!(
        ram(4 * GIB, std::slice::from_ref(&stolen)),
        [
            (0, 0x8b80_0000),
            (0xa000_0000, 0x2000_0000),
            (4 * GIB, 4 * GIB - 0x8b80_0000 - 0x2000_0000)
        ]
    );
    // Above 4 GiB, not aligned to anything.
    assert_eq!(
        ram(5 * GIB, &[0x1_2345_6000..=0x1_2345_6fff]),
        [
            (0, 3 * GIB),
            (4 * GIB, 0x2340_0000),
            (0x1_2360_0000, 2 * GIB - 0x2340_0000)
        ]
    );
}

#[test]
fn pages_of_1_gib_are_whole_wherever_ram_lies() {
    let reserved = [0x8b80_0000..=0x9fff_ffff];
    let placement = place_ram(4 * GIB, GIB, &limits(48, &reserved)).unwrap();
    assert_eq!(pairs(&placement.ranges), [(0, 2 * GIB), (4 * GIB, 2 * GIB)]);
}

#[test]
fn range_where_firmware_would_be_costs_no_ram_but_is_kept_from_devices() {
    for reserved in [
        0xe_0000..=0xf_ffff,
        0xe_8000..=0xe_8fff,
        0xa_0000..=0xa_0fff,
    ] {
        let placement = place_ram(GIB, GIB, &limits(46, &[reserved])).unwrap();
        assert_eq!(pairs(&placement.ranges), [(0, GIB)]);
        assert_eq!(
            placement.cpu_only,
            Some(MemoryRange {
                start: VGA_ADDRESS,
                len: HIGH_MEMORY - VGA_ADDRESS
            })
        );
    }
    let placement = place_ram(GIB, PAGE, &AddressLimits::of_cpu(46)).unwrap();
    assert_eq!(placement.cpu_only, None);
}

#[test]
fn range_in_the_first_page_of_ram_is_an_error_that_names_it() {
    for (reserved, page, text) in [
        (
            0x1000..=0x1fff,
            PAGE,
            "0x1000-0x1fff, which lies in the first 2 MiB",
        ),
        (0..=0xff_ffff, PAGE, "0x0-0xffffff, which"),
        // The part that is not in the legacy hole.
        (0xf_0000..=0x10_ffff, PAGE, "0x100000-0x10ffff, which"),
        (0x9_f000..=0xa_ffff, PAGE, "0x9f000-0xaffff, which"),
        (16 * MIB..=16 * MIB + 0xfff, GIB, "in the first 1024 MiB"),
    ] {
        let error = place_ram(GIB, page, &limits(46, &[reserved])).unwrap_err();
        assert!(matches!(error, LayoutError::FirstPage { .. }));
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn ram_without_addresses_is_an_error_that_names_bits_and_sizes() {
    // 3 GiB below the hole, 60 GiB above it.
    assert!(place_ram(63 * GIB, PAGE, &limits(36, &[])).is_ok());
    let error = place_ram(64 * GIB, PAGE, &limits(36, &[])).unwrap_err();
    assert!(
        error.to_string().contains("65536 MiB of RAM")
            && error
                .to_string()
                .contains("64512 MiB have a place below the 36-bit"),
        "{error}"
    );
    // An IOMMU of 39 bits in a CPU of 46.
    let narrow = limits(46, &[1 << 39..=u64::MAX]);
    assert!(place_ram((512 - 1) * GIB, PAGE, &narrow).is_ok());
    assert!(place_ram(512 * GIB, PAGE, &narrow).is_err());
}

#[test]
fn window_keeps_room_for_hotplug_beside_a_huge_bar() {
    let window = pci_window_64(7 * GIB, bars(&[16 * GIB]), &limits(46, &[])).unwrap();
    assert_eq!(
        window,
        PciWindow {
            base: 16 * GIB,
            len: 80 * GIB
        }
    );
}

#[test]
fn bars_of_256_gib_fit_where_there_are_addresses() {
    // Eight accelerators in a CPU of 46 bits, with 1 TiB of RAM.
    let needed = bars(&[256 * GIB; 8]);
    let window = pci_window_64(TIB + GIB, needed, &limits(46, &[])).unwrap();
    assert_eq!((window.base, window.len), (TIB + 256 * GIB, 2112 * GIB));
    // The largest BAR, not the sum, is the alignment: 3 of them and a small one fit below 1 TiB.
    let needed = bars(&[256 * GIB, 256 * GIB, 128 * GIB, 16 * MIB]);
    let window = pci_window_64(6 * GIB, needed, &limits(40, &[])).unwrap();
    assert_eq!(window.base, 256 * GIB);
    assert!(window.len >= needed.bytes);
}

#[test]
fn window_shrinks_to_what_a_narrow_cpu_leaves() {
    let window = pci_window_64(6 * GIB, bars(&[GIB]), &limits(36, &[])).unwrap();
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
    let error = pci_window_64(8 * GIB, bars(&[64 * GIB]), &limits(36, &[])).unwrap_err();
    assert_eq!(
        error,
        LayoutError::PciWindow64 {
            needed: 64 * GIB,
            available: 0,
            ram_end: 8 * GIB,
            phys_bits: 36
        }
    );
    let text = error.to_string();
    assert!(
        text.contains("65536 MiB") && text.contains("36-bit") && text.contains("0x200000000"),
        "{text}"
    );
}

#[test]
fn without_bars_a_full_address_space_is_no_error() {
    let window = pci_window_64(64 * GIB, bars(&[]), &limits(36, &[])).unwrap();
    assert_eq!(window.len, 0);
}

#[test]
fn window_reaches_the_widest_address_there_is() {
    let ram_end = (1 << 52) - 8 * GIB;
    let window = pci_window_64(ram_end, bars(&[GIB]), &limits(57, &[])).unwrap();
    assert_eq!(window.end(), 1 << 52);
}

#[test]
fn window_avoids_the_hypertransport_range() {
    let above = pci_window_64(1000 * GIB, bars(&[]), &limits(48, &[])).unwrap();
    assert_eq!(above.base, TIB);
    let below = pci_window_64(1000 * GIB, bars(&[GIB]), &limits(40, &[])).unwrap();
    assert_eq!(below.end(), *HYPERTRANSPORT.start());
}

#[test]
fn window_lies_where_the_iommu_reaches_it_if_it_fits_there() {
    let narrow = limits(46, &[1 << 39..=u64::MAX]);
    let window = pci_window_64(6 * GIB, bars(&[128 * GIB]), &narrow).unwrap();
    assert_eq!((window.base, window.len), (128 * GIB, 192 * GIB));
    // With less room for hotplug rather than out of its reach.
    let window = pci_window_64(300 * GIB, bars(&[128 * GIB]), &narrow).unwrap();
    assert_eq!((window.base, window.end()), (384 * GIB, 512 * GIB));
    // Where only the CPU reaches it, devices still work; they don't reach each other.
    let window = pci_window_64(300 * GIB, bars(&[256 * GIB]), &narrow).unwrap();
    assert_eq!((window.base, window.len), (512 * GIB, 320 * GIB));
}

fn any_reserved() -> impl Strategy<Value = Vec<RangeInclusive<u64>>> {
    // Of any size from a byte to TiBs, anywhere above the first 2 GiB.
    let range = (2 * GIB..1 << 42, 0u64..42, any::<u64>())
        .prop_map(|(start, bits, len)| start..=start + len % (1 << bits));
    prop::collection::vec(range, 0..6)
}

fn touches(range: &RangeInclusive<u64>, start: u64, len: u64) -> bool {
    len > 0 && *range.start() < start + len && *range.end() >= start
}

proptest! {
    #[test]
    fn ram_is_neither_lost_nor_gained_and_touches_nothing_reserved(
        units in 1u64..(1 << 22),
        page in prop_oneof![Just(PAGE), Just(RAM_UNIT), Just(GIB)],
        bits in 36u8..=52,
        reserved in any_reserved(),
    ) {
        let size = units * page.max(RAM_UNIT);
        let limits = limits(bits, &reserved);
        if let Ok(RamPlacement { ranges, .. }) = place_ram(size, page, &limits) {
            prop_assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), size);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].start);
            }
            for range in &ranges {
                prop_assert!(range.end() <= LOW_RAM_END || range.start >= HIGH_RAM_START);
                prop_assert!(range.end() <= 1 << bits);
                prop_assert!(range.start.is_multiple_of(page) && range.len.is_multiple_of(page));
                prop_assert!(reserved.iter().all(|hole| !touches(hole, range.start, range.len)));
            }
        } else {
            // What is refused would not have fitted into what is left of the address space.
            let taken: u64 = reserved.iter().map(|hole| hole.end() - hole.start() + 1 + 2 * page.max(RAM_UNIT)).sum();
            prop_assert!(size + GIB + taken > 1 << bits);
        }
    }

    #[test]
    fn ranges_reserved_below_2_gib_are_avoided_or_refused(
        start in 0u64..2 * GIB,
        len in 0u64..64 * MIB,
        page in prop_oneof![Just(PAGE), Just(GIB)],
    ) {
        let hole = start..=start + len;
        match place_ram(8 * GIB, page, &limits(46, std::slice::from_ref(&hole))) {
            Ok(RamPlacement { ranges, cpu_only }) => {
                // What devices can be told to reach: RAM less what only CPUs see.
                for range in ranges {
                    let firmware = cpu_only.filter(|only| only.start < range.end() && only.end() > range.start);
                    let parts = match firmware {
                        None => vec![(range.start, range.end())],
                        Some(only) => vec![(range.start, only.start), (only.end(), range.end())],
                    };
                    for (start, end) in parts {
                        prop_assert!(!touches(&hole, start, end - start));
                    }
                }
            }
            Err(error) => {
                let first_page = matches!(error, LayoutError::FirstPage { .. });
                prop_assert!(first_page && start < page.max(RAM_UNIT), "{error}");
            }
        }
    }

    #[test]
    fn window_is_aligned_above_ram_and_below_the_limit(
        ram_gib in 1u64..2048,
        largest_bits in 0u32..50,
        extra: u64,
        bits in 32u8..=57,
        reserved in any_reserved(),
    ) {
        let largest = 1 << largest_bits;
        let needed = BarSpace { bytes: largest + extra % largest, largest };
        let ram_end = ram_gib * GIB;
        if let Ok(window) = pci_window_64(ram_end, needed, &limits(bits, &reserved)) {
            prop_assert!(window.len >= needed.bytes);
            prop_assert!(window.base >= ram_end.max(4 * GIB));
            prop_assert!(window.end() <= 1 << bits.min(52));
            prop_assert!(window.base.is_multiple_of(largest));
            prop_assert!(!touches(&HYPERTRANSPORT, window.base, window.len));
            // A reserved range is in it only where there was no other place.
            let untouched = |base: u64| {
                base + needed.bytes <= 1 << bits.min(52)
                    && reserved.iter().chain([&HYPERTRANSPORT]).all(|hole| !touches(hole, base, needed.bytes))
            };
            let places = reserved
                .iter()
                .chain([&HYPERTRANSPORT])
                .map(|hole| hole.end() + 1)
                .chain([0])
                .map(|place| place.max(ram_end).max(4 * GIB).next_multiple_of(largest.max(GIB)));
            if reserved.iter().any(|hole| touches(hole, window.base, window.len)) {
                prop_assert!(!places.into_iter().any(untouched));
            }
        }
    }
}
