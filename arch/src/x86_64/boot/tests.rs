use linux_loader::bootparam::XLF_KERNEL_64;
use proptest::prelude::*;

use super::*;
use crate::platform::PciWindow;

const GIB: u64 = 1 << 30;

fn platform(ram: u64) -> PlatformDescription {
    PlatformDescription {
        cpus: 1,
        ram: layout::place_ram(ram, layout::PAGE_SIZE, &layout::AddressLimits::of_cpu(46))
            .unwrap()
            .ranges,
        pci_window_32: PciWindow {
            base: layout::PCI_WINDOW_32_BASE,
            len: layout::PCI_WINDOW_32_LEN,
        },
        pci_window_64: PciWindow {
            base: 64 * GIB,
            len: 64 * GIB,
        },
        pci_window_io: (layout::PCI_WINDOW_IO_BASE, layout::PCI_WINDOW_IO_LEN),
        serial: true,
        unmappable: Vec::new(),
    }
}

/// The header of a Debian 6.12 kernel, as far as it matters here.
fn debian() -> setup_header {
    setup_header {
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020F,
        xloadflags: XLF_KERNEL_64,
        code32_start: 0x100_0000,
        initrd_addr_max: 0x7FFF_FFFF,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x380_0000,
        syssize: 0x8_0000,
        ..Default::default()
    }
}

fn input<'a>(platform: &'a PlatformDescription, header: Option<setup_header>) -> BootInput<'a> {
    BootInput {
        platform,
        cmdline: "console=ttyS0",
        initramfs: Some(MemoryRange {
            start: 0x7F00_0000,
            len: 0x10_0001,
        }),
        rsdp: 0xE_0000,
        setup_header: header,
    }
}

fn blob(blobs: &[GuestBlob], address: u64) -> &[u8] {
    &blobs
        .iter()
        .find(|blob| blob.address == address)
        .unwrap()
        .bytes
}

fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes[offset..offset + len]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn overlap(start: u64, len: u64, other_start: u64, other_end: u64) -> bool {
    start < other_end && other_start < start + len
}

#[test]
fn a_guest_with_4_gib_has_the_textbook_memory_map() {
    assert_eq!(
        e820(&platform(4 * GIB)),
        [
            (0, 0x9_FC00, E820_RAM),
            (0x9_FC00, 0x400, E820_RESERVED),
            (0xE_0000, 0x2_0000, E820_RESERVED),
            (0x10_0000, 0xBFF0_0000, E820_RAM),
            (0xE000_0000, 0x1000_0000, E820_RESERVED),
            (0xFEC0_0000, 0x1000, E820_RESERVED),
            (0xFEE0_0000, 0x1000, E820_RESERVED),
            (0xFEFF_C000, 0x4000, E820_RESERVED),
            (0x1_0000_0000, 0x4000_0000, E820_RAM),
        ]
    );
}

#[test]
fn zero_page_carries_the_protocol_fields_at_their_offsets() {
    let platform = platform(4 * GIB);
    let blobs = linux64_blobs(&input(&platform, Some(debian()))).unwrap();
    let page = blob(&blobs, layout::ZERO_PAGE_ADDRESS);
    assert_eq!(page.len(), 4096);
    assert_eq!(number(page, 0x070, 8), 0xE_0000, "acpi_rsdp_addr");
    assert_eq!(number(page, 0x1E8, 1), 9, "e820_entries");
    assert_eq!(number(page, 0x1EF, 1), 0, "sentinel");
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(number(page, 0x210, 1), 0xFF, "type_of_loader");
    assert_eq!(number(page, 0x211, 1) & 1, 1, "LOADED_HIGH");
    assert_eq!(number(page, 0x218, 4), 0x7F00_0000, "ramdisk_image");
    assert_eq!(number(page, 0x21C, 4), 0x10_0001, "ramdisk_size");
    assert_eq!(number(page, 0x228, 4), 0x2_0000, "cmd_line_ptr");
    assert_eq!(number(page, 0x260, 4), 0x380_0000, "init_size");
    let entry = |index: usize| {
        let at = 0x2D0 + 20 * index;
        (
            number(page, at, 8),
            number(page, at + 8, 8),
            u32::try_from(number(page, at + 16, 4)).unwrap(),
        )
    };
    assert_eq!((0..9).map(entry).collect::<Vec<_>>(), e820(&platform));
}

#[test]
fn an_initramfs_above_4_gib_uses_the_extended_fields() {
    let platform = platform(8 * GIB);
    let high = MemoryRange {
        start: 0x1_2345_6000,
        len: 0x2_0000_0010,
    };
    let input = BootInput {
        initramfs: Some(high),
        ..input(&platform, None)
    };
    let blobs = linux64_blobs(&input).unwrap();
    let page = blob(&blobs, layout::ZERO_PAGE_ADDRESS);
    assert_eq!(
        (number(page, 0x218, 4), number(page, 0x0C0, 4)),
        (0x2345_6000, 1)
    );
    assert_eq!((number(page, 0x21C, 4), number(page, 0x0C4, 4)), (0x10, 2));
}

#[test]
fn an_elf_kernel_gets_a_header_of_its_own() {
    let platform = platform(GIB);
    let blobs = linux64_blobs(&BootInput {
        initramfs: None,
        ..input(&platform, None)
    })
    .unwrap();
    let page = blob(&blobs, layout::ZERO_PAGE_ADDRESS);
    assert_eq!(number(page, 0x1FE, 2), 0xAA55);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(number(page, 0x210, 1), 0xFF);
    assert_eq!((number(page, 0x218, 4), number(page, 0x21C, 4)), (0, 0));
}

#[test]
fn identity_map_reaches_4_gib_and_no_further() {
    let platform = platform(GIB);
    let blobs = linux64_blobs(&input(&platform, None)).unwrap();
    let tables = blob(&blobs, layout::PML4_ADDRESS);
    let walk = |address: u64| -> Option<u64> {
        let entry = |table: u64, index: u64| -> u64 {
            let at = usize::try_from(table - layout::PML4_ADDRESS + index % 512 * 8).unwrap();
            number(tables, at, 8)
        };
        let pml4 = entry(layout::PML4_ADDRESS, address >> 39);
        let pdpt = (pml4 & 3 == 3).then(|| entry(pml4 & !0xFFF, address >> 30))?;
        let page = (pdpt & 0x83 == 3).then(|| entry(pdpt & !0xFFF, address >> 21))?;
        (page & 0x83 == 0x83).then_some((page & !0x1F_FFFF) + address % (1 << 21))
    };
    for address in [
        0,
        0x7000,
        0x2_0000,
        0x123_4567,
        0x7FFF_F000,
        0xBFFF_FFFF,
        0xFFFF_FFFF,
    ] {
        assert_eq!(walk(address), Some(address), "{address:#x}");
    }
    assert_eq!(walk(4 * GIB), None);
}

#[test]
fn command_line_ends_with_nul() {
    let platform = platform(GIB);
    let blobs = linux64_blobs(&input(&platform, None)).unwrap();
    assert_eq!(blob(&blobs, layout::CMDLINE_ADDRESS), b"console=ttyS0\0");
}

#[test]
fn a_command_line_the_kernel_would_cut_off_is_an_error() {
    let platform = platform(GIB);
    let mut header = debian();
    header.cmdline_size = 12;
    let error = linux64_blobs(&input(&platform, Some(header))).unwrap_err();
    assert_eq!(error, BootError::CommandLineTooLong { len: 13, max: 12 });
    header.cmdline_size = 13;
    assert!(linux64_blobs(&input(&platform, Some(header))).is_ok());
    let long = "x".repeat(2048);
    let pvh = pvh_blobs(&BootInput {
        cmdline: &long,
        ..input(&platform, None)
    });
    assert_eq!(
        pvh,
        Err(BootError::CommandLineTooLong {
            len: 2048,
            max: 2047
        })
    );
}

#[test]
fn a_command_line_never_leaves_its_room() {
    let platform = platform(GIB);
    let mut header = debian();
    header.cmdline_size = u32::MAX;
    let long = "x".repeat(64 << 10);
    let blobs = linux64_blobs(&BootInput {
        cmdline: &long,
        ..input(&platform, Some(header))
    });
    assert_eq!(
        blobs,
        Err(BootError::CommandLineTooLong {
            len: 65536,
            max: 65535
        })
    );
}

#[test]
fn a_nul_in_the_command_line_is_an_error() {
    let platform = platform(GIB);
    let error = linux64_blobs(&BootInput {
        cmdline: "a\0b",
        ..input(&platform, None)
    })
    .unwrap_err();
    assert_eq!(error, BootError::CommandLineNul { offset: 1 });
}

#[test]
fn a_32_bit_kernel_is_refused() {
    let platform = platform(GIB);
    let mut header = debian();
    header.xloadflags = 0;
    let error = linux64_blobs(&input(&platform, Some(header))).unwrap_err();
    assert_eq!(error, BootError::No64BitEntry { version: 0x020F });
    assert!(error.to_string().contains("2.15"), "{error}");
}

#[test]
fn a_fragmented_guest_that_exceeds_the_memory_map_is_an_error() {
    let mut platform = platform(GIB);
    platform.ram = (0..200)
        .map(|index| MemoryRange {
            start: GIB + index * MIB,
            len: MIB / 2,
        })
        .collect();
    let entries = e820(&platform).len();
    let linux = linux64_blobs(&input(&platform, None));
    assert_eq!(
        linux,
        Err(BootError::MemoryMapTooLong { entries, max: 128 })
    );
    let pvh = pvh_blobs(&input(&platform, None));
    assert_eq!(pvh, Err(BootError::MemoryMapTooLong { entries, max: 167 }));
}

#[test]
fn pvh_start_info_leads_to_map_module_and_command_line() {
    let platform = platform(4 * GIB);
    let blobs = pvh_blobs(&input(&platform, None)).unwrap();
    let info = blob(&blobs, layout::PVH_START_INFO_ADDRESS);
    assert_eq!((number(info, 0, 4), number(info, 4, 4)), (0x336E_C578, 1));
    assert_eq!(number(info, 12, 4), 1, "nr_modules");
    let at =
        |offset| usize::try_from(number(info, offset, 8) - layout::PVH_START_INFO_ADDRESS).unwrap();
    let module = at(16);
    assert_eq!(
        (number(info, module, 8), number(info, module + 8, 8)),
        (0x7F00_0000, 0x10_0001)
    );
    assert_eq!(number(info, 24, 8), layout::CMDLINE_ADDRESS);
    assert_eq!(number(info, 32, 8), 0xE_0000, "rsdp");
    let map: Vec<_> = (0..usize::try_from(number(info, 48, 4)).unwrap())
        .map(|index| at(40) + 24 * index)
        .map(|at| {
            (
                number(info, at, 8),
                number(info, at + 8, 8),
                u32::try_from(number(info, at + 16, 4)).unwrap(),
            )
        })
        .collect();
    assert_eq!(map, e820(&platform));
}

#[test]
fn pvh_without_initramfs_has_no_module() {
    let platform = platform(GIB);
    let blobs = pvh_blobs(&BootInput {
        initramfs: None,
        ..input(&platform, None)
    })
    .unwrap();
    let info = blob(&blobs, layout::PVH_START_INFO_ADDRESS);
    assert_eq!((number(info, 12, 4), number(info, 16, 8)), (0, 0));
}

#[test]
fn kernel_goes_where_its_header_prefers() {
    assert_eq!(
        kernel_load_address(&platform(GIB), Some(&debian())),
        Ok(0x100_0000)
    );
    let mut high = debian();
    high.pref_address = 0x234_5678;
    assert_eq!(
        kernel_load_address(&platform(GIB), Some(&high)),
        Ok(0x240_0000),
        "aligned"
    );
    high.relocatable_kernel = 0;
    assert_eq!(
        kernel_load_address(&platform(GIB), Some(&high)),
        Ok(0x234_5678),
        "as is"
    );
}

#[test]
fn kernel_that_needs_more_ram_than_there_is_is_an_error_with_both_sizes() {
    let error = kernel_load_address(&platform(64 << 20), Some(&debian())).unwrap_err();
    let BootError::KernelDoesNotFit {
        address,
        needed,
        available,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (address, needed, available),
        (0x100_0000, 56 << 20, 48 << 20)
    );
    let text = error.to_string();
    assert!(text.contains("56 MiB") && text.contains("48 MiB"), "{text}");
    assert!(kernel_load_address(&platform(72 << 20), Some(&debian())).is_ok());
}

#[test]
fn initramfs_lies_at_the_top_of_what_the_kernel_can_reach() {
    let address = initramfs_address(&platform(4 * GIB), Some(&debian()), 0x180_0000, 0x10_0001);
    assert_eq!(address, Ok(0x8000_0000 - 0x10_1000));
    let elf = initramfs_address(&platform(4 * GIB), None, 0x180_0000, 0x1000);
    assert_eq!(elf, Ok(0xC000_0000 - 0x1000));
}

#[test]
fn initramfs_stays_clear_of_what_the_kernel_unpacks_over() {
    // The kernel was loaded to 16 MiB .. 24 MiB, but unpacks itself up to 72 MiB.
    let fits = initramfs_address(&platform(80 << 20), Some(&debian()), 24 << 20, 8 << 20);
    assert_eq!(fits, Ok(72 << 20));
    let error = initramfs_address(
        &platform(80 << 20),
        Some(&debian()),
        24 << 20,
        (8 << 20) + 1,
    )
    .unwrap_err();
    let needed = (8 << 20) + 1;
    assert_eq!(
        error,
        BootError::InitramfsDoesNotFit {
            needed,
            available: 8 << 20,
            limit: 0x8000_0000
        }
    );
    let text = error.to_string();
    assert!(
        text.contains("needs 9 MiB") && text.contains("but 8 MiB"),
        "{text}"
    );
}

#[test]
fn setup_header_ends_where_its_jump_says() {
    let mut image = vec![0u8; 0x1000];
    image[0x1F1..0x1F1 + size_of::<setup_header>()].fill(0xEE);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    // A protocol 2.10 header ends at 0x264, behind init_size.
    image[0x201] = 0x62;
    let header = read_setup_header(&image[..SETUP_HEADER_READ_LEN]).unwrap();
    let (init_size, handover_offset) = (header.init_size, header.handover_offset);
    assert_eq!((init_size, handover_offset), (0xEEEE_EEEE, 0));
}

#[test]
fn what_is_no_bzimage_has_no_setup_header() {
    assert_eq!(read_setup_header(&[0; 0x1000]), None);
    assert_eq!(read_setup_header(b"\x7fELF"), None);
    assert_eq!(read_setup_header(&[]), None);
}

proptest! {
    #[test]
    fn e820_never_marks_the_hole_below_4_gib_as_ram(pages in 1u64..(1 << 30)) {
        for (start, len, kind) in e820(&platform(pages * layout::PAGE_SIZE)) {
            if kind == E820_RAM {
                prop_assert!(!overlap(start, len, layout::LOW_RAM_END, layout::HIGH_RAM_START));
                prop_assert!(!overlap(start, len, layout::EBDA_ADDRESS, layout::HIGH_MEMORY));
            }
        }
    }

    #[test]
    fn e820_is_ascending_and_disjoint(pages in 1u64..(1 << 30)) {
        let map = e820(&platform(pages * layout::PAGE_SIZE));
        prop_assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        prop_assert!(map.iter().all(|(_, len, _)| *len > 0));
    }

    #[test]
    fn e820_leaves_the_pci_windows_alone(pages in 1u64..(1 << 23)) {
        let platform = platform(pages * layout::PAGE_SIZE);
        for (start, len, _) in e820(&platform) {
            for window in [platform.pci_window_32, platform.pci_window_64] {
                prop_assert!(!overlap(start, len, window.base, window.end()));
            }
        }
    }

    #[test]
    fn initramfs_is_in_ram_page_aligned_and_behind_the_kernel(
        mib in 1u64..8192, kernel_end in 0u64..(1 << 32), len in 1u64..(1 << 31), bzimage: bool,
    ) {
        let platform = platform(mib * MIB);
        let header = bzimage.then(debian);
        match initramfs_address(&platform, header.as_ref(), kernel_end, len) {
            Ok(address) => {
                prop_assert!(address.is_multiple_of(layout::PAGE_SIZE));
                prop_assert!(address >= kernel_end);
                prop_assert!(platform.ram.iter().any(|ram| ram.start <= address && address + len <= ram.end()));
                prop_assert!(!bzimage || address + len - 1 <= 0x7FFF_FFFF);
            }
            Err(error) => {
                let BootError::InitramfsDoesNotFit { needed, available, .. } = error else { panic!("{error}") };
                prop_assert!(needed == len && available < len);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_as_header_or_refused(image in proptest::collection::vec(any::<u8>(), 0..0x300)) {
        let _ = read_setup_header(&image);
    }

    #[test]
    fn any_header_is_placed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 123), mib in 1u64..8192) {
        use vm_memory::ByteValued;
        let mut header = setup_header::default();
        header.as_mut_slice().copy_from_slice(&bytes);
        if let Ok(address) = kernel_load_address(&platform(mib * MIB), Some(&header)) {
            prop_assert!(address < mib * MIB);
        }
        let _ = kernel_end(u64::MAX, Some(&header), 0);
        let _ = initramfs_address(&platform(mib * MIB), Some(&header), 0, MIB);
        let _ = linux64_blobs(&input(&platform(mib * MIB), Some(header)));
    }
}
