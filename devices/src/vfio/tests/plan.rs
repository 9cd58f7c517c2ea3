use crate::pci::capability::{capabilities, extended_capabilities};
use crate::pci::{BarIndex, BarKind};
use crate::vfio::bar::BarPlan;
use crate::vfio::fields::guide;
use crate::vfio::plan::{PassthroughPlan, PlanError};
use crate::vfio::probe::{MappableArea, VfioProbe};
use crate::vfio::tests::support::{
    self, IGB_EXPRESS, IGB_MSI, IGB_MSIX, Machine, PAGE, area, igb, nvme, put, put32, rtl8139,
    spec, without_dynamic_msix,
};
use crate::vfio::{BarError, PassthroughSpec};
use proptest::prelude::*;

fn plan(probe: &VfioProbe) -> PassthroughPlan {
    PassthroughPlan::new(probe, &spec()).unwrap()
}

fn segments(bar: &BarPlan) -> Vec<MappableArea> {
    let segments = bar.mappings.iter().flat_map(|m| m.segments.clone());
    segments.collect()
}

/// Configuration space as a guest reads it.
fn guest_config(probe: &VfioProbe) -> Vec<u8> {
    let machine = Machine::new(probe);
    (0..4096)
        .step_by(4)
        .flat_map(|offset| machine.read(offset, 4).to_le_bytes())
        .collect()
}

#[test]
fn msix_table_page_traps_and_its_neighbours_stay_mapped() {
    let plan = plan(&nvme());
    let bar = &plan.bars[0];
    assert_eq!(
        bar.kind,
        BarKind::Memory64 {
            prefetchable: false
        }
    );
    // One mmap of the whole, of which the guest doesn't get table and PBA.
    assert_eq!(bar.mappings.len(), 1);
    assert_eq!(bar.mappings[0].area, area(0, 0x4000));
    assert_eq!(segments(bar), [area(0, 0x2000)]);

    let plan = self::plan(&igb());
    assert_eq!(segments(&plan.bars[0]), [area(0, 0x2_0000)]);
    assert_eq!(
        segments(&plan.bars[3]),
        [area(0x1000, 0x1000), area(0x3000, 0x1000)]
    );
}

#[test]
fn sparse_areas_are_mapped_as_given() {
    let mut probe = nvme();
    probe.regions[0].sparse = Some(vec![area(0x3000, 0x1000), area(0x0, 0x1000)]);
    let plan = plan(&probe);
    let areas: Vec<_> = plan.bars[0].mappings.iter().map(|m| m.area).collect();
    // The second one is the PBA's page.
    assert_eq!(areas, [area(0, 0x1000)]);
    assert_eq!(segments(&plan.bars[0]), [area(0, 0x1000)]);
}

#[test]
fn a_kernel_that_refuses_the_msix_table_page_is_not_asked_for_it() {
    let mut probe = igb();
    probe.regions[3].msix_mappable = false;
    let plan = plan(&probe);
    let areas: Vec<_> = plan.bars[3].mappings.iter().map(|m| m.area).collect();
    assert_eq!(areas, [area(0x1000, 0x1000), area(0x3000, 0x1000)]);
}

#[test]
fn io_bars_trap() {
    let bar = &plan(&rtl8139()).bars[0];
    assert_eq!((bar.kind, bar.size), (BarKind::Io, 0x100));
    assert!(bar.mappings.is_empty());
}

#[test]
fn a_bar_smaller_than_a_page_is_mapped_by_its_page() {
    let mut probe = rtl8139();
    let bar = &plan(&probe).bars[1];
    assert_eq!(bar.size, 0x100);
    assert_eq!(bar.mappings[0].area, area(0, PAGE));
    assert_eq!(segments(bar), [area(0, PAGE)]);

    // The kernel does not offer it where something else of the host's is in that page.
    probe.regions[1] = support::bar(1, 0x100, false);
    let bar = &plan(&probe).bars[1];
    assert!(bar.mappings.is_empty() && bar.trapped.len() == 1);
}

#[test]
fn the_upper_half_of_a_64_bit_bar_is_no_bar() {
    let mut probe = nvme();
    let mut stray = probe.regions[0].clone();
    stray.index = 1;
    probe.regions.insert(1, stray);
    assert_eq!(plan(&probe).bars.len(), 1);
}

#[test]
fn bars_that_no_register_can_hold_are_refused() {
    let mut probe = nvme();
    probe.regions[0].index = 5;
    put32(&mut probe.config, 0x24, 4);
    let refused = PassthroughPlan::new(&probe, &spec());
    assert!(matches!(
        refused,
        Err(PlanError::Bar(BarError::NoUpperHalf { .. }))
    ));
    let mut probe = rtl8139();
    probe.regions[1].size = 1 << 32;
    let refused = PassthroughPlan::new(&probe, &spec());
    assert!(matches!(
        refused,
        Err(PlanError::Bar(BarError::Size { .. }))
    ));
}

#[test]
fn what_is_no_endpoint_is_refused() {
    let mut bridge = rtl8139();
    bridge.config[0x0e] = 0x81;
    let absent = VfioProbe {
        config: vec![0xff; 256],
        ..rtl8139()
    };
    let short = VfioProbe {
        config: Vec::new(),
        ..rtl8139()
    };
    let result = |probe: &VfioProbe| PassthroughPlan::new(probe, &spec()).unwrap_err();
    assert!(matches!(
        result(&bridge),
        PlanError::NotEndpoint { header_type: 1, .. }
    ));
    assert!(matches!(result(&absent), PlanError::Absent(_)));
    assert!(matches!(result(&short), PlanError::Absent(_)));
    let other = PassthroughSpec {
        sbdf: "02:00.0".parse().unwrap(),
        ..spec()
    };
    let refused = PassthroughPlan::new(&igb(), &other);
    assert!(matches!(refused, Err(PlanError::OtherDevice { .. })));
    for page_size in [0, 1, 2048, 4097] {
        let odd = PassthroughSpec {
            page_size,
            ..spec()
        };
        let refused = PassthroughPlan::new(&igb(), &odd);
        assert_eq!(refused, Err(PlanError::PageSize(page_size)));
    }
}

#[test]
fn sr_iov_and_ari_are_not_in_the_chain() {
    let config = guest_config(&igb());
    let extended: Vec<_> = extended_capabilities(&config).map(|c| c.id.0).collect();
    assert_eq!(extended, [0x0001, 0x0003]);
    let standard: Vec<_> = capabilities(&config).map(|c| c.id.0).collect();
    assert_eq!(standard, [0x01, 0x05, 0x11, 0x10]);
    assert_eq!(plan(&igb()).config.hidden.len(), 2);
}

#[test]
fn a_hidden_capability_at_the_head_of_the_extended_chain_becomes_null() {
    let mut probe = igb();
    put32(&mut probe.config, 0x100, 0x1401_0015);
    let extended: Vec<_> = extended_capabilities(&guest_config(&probe))
        .map(|c| c.id.0)
        .collect();
    assert_eq!(extended, [0x0000, 0x0003]);
}

#[test]
fn msix_without_host_vectors_or_with_a_table_outside_its_bar_is_hidden() {
    let mut no_vectors = igb();
    no_vectors.irqs[2].count = 0;
    let mut outside = igb();
    put32(&mut outside.config, IGB_MSIX + 4, 0x0000_4003);
    let mut reserved_bir = igb();
    put32(&mut reserved_bir.config, IGB_MSIX + 4, 0x0000_0006);
    let mut absent_bar = igb();
    put32(&mut absent_bar.config, IGB_MSIX + 4, 0x0000_0005);
    for probe in [no_vectors, outside, reserved_bir, absent_bar] {
        assert_eq!(plan(&probe).config.msix, None);
        let standard: Vec<_> = capabilities(&guest_config(&probe))
            .map(|c| c.id.0)
            .collect();
        assert_eq!(standard, [0x01, 0x05, 0x10]);
    }
}

#[test]
fn an_endpoint_is_shown_as_root_complex_integrated() {
    let config = guest_config(&igb());
    let word = |offset: u16| {
        u16::from_le_bytes([config[usize::from(offset)], config[usize::from(offset) + 1]])
    };
    assert_eq!(word(IGB_EXPRESS + 2) >> 4 & 0xf, 9);
    assert_eq!(word(IGB_EXPRESS + 0x0c), 0);
    // FLR stays.
    assert_eq!(config[usize::from(IGB_EXPRESS) + 7] & 0x10, 0x10);
}

#[test]
fn conventional_space_ends_after_256_bytes() {
    let config = guest_config(&rtl8139());
    assert!(config[256..].iter().all(|byte| *byte == 0xff));
    assert_eq!(config[0], 0xec);
}

#[test]
fn the_plan_describes_itself() {
    let lines = plan(&without_dynamic_msix(igb())).describe();
    assert_eq!(lines[0], "nic: host 0000:01:00.0 is guest 0000:00:03.0");
    assert!(
        lines
            .iter()
            .any(|l| l.contains("BAR 3: 0x4000 bytes of 32-bit memory"))
    );
    assert!(lines.iter().any(|l| {
        l.contains("MSI-X, up to 10, re-armed together") && l.contains("INTA# on GSI 19")
    }));
    let starts = |text: &str| lines.iter().filter(|l| l.starts_with(text)).count();
    assert_eq!(starts("  hidden: Alternative Routing-ID: leads to"), 1);
    assert_eq!(starts("  hidden: SR-IOV: makes functions"), 1);
    assert_eq!(starts("  hidden: "), 2);
    for field in [
        "Command: followed at 0x004-0x005",
        "Header Type: fixed at 0x00e",
        "BARs 0 to 5: virtual at 0x010-0x027",
        "Expansion ROM, hidden: fixed at 0x030-0x033",
        "Interrupt Line: virtual at 0x03c",
        "Interrupt Pin: fixed at 0x03d",
        "Power Management capability: followed at 0x044-0x045",
        "MSI-X Message Control: virtual at 0x072-0x073",
        "Initiate FLR (PCI Express, Advanced Features): followed at 0x0a9",
        "All else: forwarded",
    ] {
        let line = format!("  config: {field}");
        assert!(lines.contains(&line), "no '{line}' in {lines:#?}");
    }
}

/// What `ferry run -v` says of a device and what the guide says of all is the same table.
#[test]
fn the_guide_has_the_table_of_the_plan() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/devices.md");
    let text = std::fs::read_to_string(path).unwrap();
    for table in guide() {
        assert!(
            text.contains(&table),
            "docs/devices.md should have\n\n{table}"
        );
    }
}

#[test]
fn intx_shows_only_where_it_is_wired() {
    let pin = |intx_gsi, probe: &VfioProbe| {
        let spec = PassthroughSpec { intx_gsi, ..spec() };
        let plan = PassthroughPlan::new(probe, &spec).unwrap();
        Machine::with_plan(probe, plan).read(0x3d, 1)
    };
    assert_eq!(pin(Some(19), &igb()), 1);
    assert_eq!(pin(None, &igb()), 0);
    let mut without = igb();
    without.irqs[0].count = 0;
    assert_eq!(pin(Some(19), &without), 0);
}

#[test]
fn a_device_that_cannot_share_its_line_is_refused_unless_it_has_messages() {
    let busy = |mut probe: VfioProbe| {
        probe.intx_busy = true;
        PassthroughPlan::new(&probe, &spec())
    };
    let error = busy(rtl8139()).unwrap_err();
    assert!(matches!(error, PlanError::InterruptLine(_)), "{error}");
    let plan = busy(igb()).unwrap();
    assert_eq!(plan.interrupts.intx_gsi, None);
    let told =
        "MSI-X, up to 10, armed one by one; MSI, up to 1; no INTx, since the device can't share";
    assert!(plan.describe().iter().any(|l| l.contains(told)));
    // A device without INTx doesn't care.
    let mut probe = rtl8139();
    probe.config[0x3d] = 0;
    assert!(busy(probe).is_ok());
}

#[test]
fn multi_function_bit_is_the_guest_slots() {
    for multifunction in [false, true] {
        let spec = PassthroughSpec {
            multifunction,
            ..spec()
        };
        let plan = PassthroughPlan::new(&igb(), &spec).unwrap();
        let header_type = Machine::with_plan(&igb(), plan).read(0x0e, 1);
        assert_eq!(header_type, if multifunction { 0x80 } else { 0 });
    }
}

/// Whether two areas share a page.
fn overlaps(segment: MappableArea, start: u64, len: u64) -> bool {
    let first_page = start & !(PAGE - 1);
    segment.offset < start + len && first_page < segment.offset + segment.size
}

proptest! {
    /// Chains, BIRs, offsets and sizes at random.
    #[test]
    fn no_device_makes_planning_panic(
        bytes in proptest::collection::vec(any::<u8>(), 4096),
        sizes in proptest::collection::vec(any::<u64>(), 6),
        conventional: bool,
    ) {
        let mut probe = igb();
        probe.config = bytes;
        put(&mut probe.config, 0, &[0x86, 0x80]);
        probe.config[0x06] |= 0x10;
        probe.config[0x0e] = 0;
        if conventional {
            probe.config.truncate(256);
        }
        for (region, size) in probe.regions.iter_mut().zip(sizes) {
            region.size = size;
        }
        if let Ok(plan) = PassthroughPlan::new(&probe, &spec()) {
            let _ = plan.describe();
        }
    }

    #[test]
    fn malformed_capability_chain_cycle_terminates(links in proptest::collection::vec(any::<u8>(), 48)) {
        let mut probe = igb();
        for (slot, link) in links.into_iter().enumerate() {
            let offset = u16::try_from(0x40 + slot * 4).unwrap();
            put(&mut probe.config, offset + 1, &[link]);
        }
        if let Ok(plan) = PassthroughPlan::new(&probe, &spec()) {
            prop_assert!(plan.config.rows.iter().all(|row| row.offset < 0x1000));
        }
    }

    #[test]
    fn msix_table_is_never_inside_a_mapped_segment(
        entries in 1u16..=2048, table in any::<u16>(), pba in any::<u16>(), bar in 0u32..4,
        sparse in proptest::option::of(
            proptest::collection::vec((0u64..64, 1u64..64), 0..5)
        ),
        msix_mappable: bool,
    ) {
        let mut probe = igb();
        let control = u32::from(entries - 1) << 16 | 0xa011;
        put32(&mut probe.config, IGB_MSIX, control);
        put32(&mut probe.config, IGB_MSIX + 4, u32::from(table) << 3 | bar);
        put32(&mut probe.config, IGB_MSIX + 8, u32::from(pba) << 3 | bar);
        probe.irqs[2].count = u32::from(entries);
        for region in &mut probe.regions {
            region.msix_mappable = msix_mappable;
            region.sparse = sparse.clone().map(|areas| {
                areas.iter().map(|(page, pages)| area(page * PAGE, pages * PAGE)).collect()
            });
        }
        let plan = PassthroughPlan::new(&probe, &spec()).unwrap();
        for bar in &plan.bars {
            let mut end = 0;
            for segment in segments(bar) {
                prop_assert!(segment.offset >= end, "segments overlap");
                prop_assert_eq!((segment.offset % PAGE, segment.size % PAGE), (0, 0));
                end = segment.offset + segment.size;
                prop_assert!(end <= bar.size);
                if let Some((_, msix)) = plan.config.msix {
                    let here = msix.table_bar == bar.index;
                    let table = u64::from(msix.table_offset);
                    prop_assert!(!here || !overlaps(segment, table, msix.table_size()));
                    let here = msix.pba_bar == bar.index;
                    let pba = u64::from(msix.pba_offset);
                    prop_assert!(!here || !overlaps(segment, pba, msix.pba_size()));
                }
            }
        }
    }
}

#[test]
fn msi_of_a_device_without_msi_vectors_is_hidden() {
    let mut probe = igb();
    probe.irqs[1].count = 0;
    assert_eq!(plan(&probe).config.msi, None);
    assert_eq!(
        plan(&igb()).config.msi.map(|(offset, _)| offset),
        Some(IGB_MSI)
    );
    let first = plan(&igb()).bars[0].index;
    assert_eq!(first, BarIndex::new(0).unwrap());
}
