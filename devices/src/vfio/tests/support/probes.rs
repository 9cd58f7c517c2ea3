//! Saved probes of real functions.

use crate::host::ResetFacts;
use crate::pci::{GuestBdf, HostSbdf};
use crate::vfio::plan::PassthroughSpec;
use crate::vfio::probe::{IrqLine, MappableArea, Region, VfioProbe};
use crate::vfio::rom::RomChoice;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

pub(in crate::vfio::tests) const PAGE: u64 = 4096;
pub(in crate::vfio::tests) const COMMAND: u16 = 0x04;
/// Where the igb's Power Management Control/Status is.
pub(in crate::vfio::tests) const IGB_PMCSR: u16 = 0x44;
pub(in crate::vfio::tests) const IGB_MSI: u16 = 0x50;
pub(in crate::vfio::tests) const IGB_MSIX: u16 = 0x70;
pub(in crate::vfio::tests) const IGB_EXPRESS: u16 = 0xa0;

pub(in crate::vfio::tests) fn put(config: &mut [u8], offset: u16, bytes: &[u8]) {
    let start = usize::from(offset);
    config[start..start + bytes.len()].copy_from_slice(bytes);
}

pub(in crate::vfio::tests) fn put32(config: &mut [u8], offset: u16, value: u32) {
    put(config, offset, &value.to_le_bytes());
}

pub(in crate::vfio::tests) fn sbdf() -> HostSbdf {
    "01:00.0".parse().unwrap()
}

pub(in crate::vfio::tests) fn spec() -> PassthroughSpec {
    PassthroughSpec {
        name: "nic".to_owned(),
        sbdf: sbdf(),
        guest: GuestBdf::new(3, 0).unwrap(),
        multifunction: false,
        intx_gsi: Some(19),
        rom: RomChoice::default(),
        resets: ResetFacts::default(),
        page_size: PAGE,
    }
}

pub(in crate::vfio::tests) fn bar(index: u32, size: u64, mappable: bool) -> Region {
    let mut region = Region::new(index, size);
    region.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    if mappable {
        region.flags |= VFIO_REGION_INFO_FLAG_MMAP;
        region.msix_mappable = true;
    }
    region
}

fn irqs(intx: u32, msi: u32, msix: u32) -> Vec<IrqLine> {
    let line = |index, count, flags| IrqLine {
        index,
        flags: VFIO_IRQ_INFO_EVENTFD | flags,
        count,
    };
    vec![
        line(0, intx, 0),
        line(1, msi, VFIO_IRQ_INFO_NORESIZE),
        line(2, msix, 0),
        line(3, 1, VFIO_IRQ_INFO_NORESIZE),
        line(4, 1, VFIO_IRQ_INFO_NORESIZE),
    ]
}

fn header(config: &mut [u8], vendor: u16, device: u16, first_capability: u8) {
    put(config, 0x00, &vendor.to_le_bytes());
    put(config, 0x02, &device.to_le_bytes());
    if first_capability != 0 {
        config[0x06] = 0x10;
        config[0x34] = first_capability;
    }
    config[0x3d] = 1;
}

fn probe(config: Vec<u8>, mut regions: Vec<Region>, irqs: Vec<IrqLine>) -> VfioProbe {
    regions.push(bar(7, config.len() as u64, false));
    VfioProbe {
        sbdf: sbdf(),
        flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        regions,
        irqs,
        intx_busy: false,
        bus_reset: Vec::new(),
        config,
    }
}

/// An 82576 NIC behind a root port: MSI-X table and PBA in BAR 3, all the usual capabilities.
pub(in crate::vfio::tests) fn igb() -> VfioProbe {
    let mut config = vec![0; 4096];
    header(&mut config, 0x8086, 0x10c9, 0x40);
    // The other function of the card is on the host's bus, not on the guest's.
    config[0x0e] = 0x80;
    put32(&mut config, 0x18, 0x1);
    // Power Management: no D1, no D2.
    put32(&mut config, 0x40, 0xc823_5001);
    // MSI: 64-bit, per-vector masking, one vector.
    put32(&mut config, IGB_MSI, 0x0180_7005);
    // MSI-X: 10 vectors, table at 0 and PBA at 0x2000 of BAR 3.
    put32(&mut config, IGB_MSIX, 0x0009_a011);
    put32(&mut config, IGB_MSIX + 4, 0x0000_0003);
    put32(&mut config, IGB_MSIX + 8, 0x0000_2003);
    // PCI Express 2.0 endpoint with FLR and LTR.
    put32(&mut config, IGB_EXPRESS, 0x0002_0010);
    put32(&mut config, IGB_EXPRESS + 4, 0x1000_8cc2);
    put32(&mut config, IGB_EXPRESS + 0x0c, 0x0004_2c41);
    put32(&mut config, IGB_EXPRESS + 0x24, 1 << 11 | 0x1f);
    put32(&mut config, 0x100, 0x1401_0001);
    put32(&mut config, 0x140, 0x1501_0003);
    put32(&mut config, 0x150, 0x1601_000e);
    put32(&mut config, 0x160, 0x0001_0010);
    let regions = vec![
        bar(0, 0x2_0000, true),
        bar(1, 0x40_0000, true),
        bar(2, 0x20, false),
        bar(3, 0x4000, true),
    ];
    probe(config, regions, irqs(1, 1, 10))
}

/// An NVMe controller: one 64-bit BAR with the MSI-X table at 0x2000 of it.
pub(in crate::vfio::tests) fn nvme() -> VfioProbe {
    let mut config = vec![0; 4096];
    header(&mut config, 0x1b36, 0x0010, 0x40);
    put32(&mut config, 0x10, 0x4);
    put32(&mut config, 0x40, 0x0040_0011);
    put32(&mut config, 0x44, 0x0000_2000);
    put32(&mut config, 0x48, 0x0000_3000);
    probe(config, vec![bar(0, 0x4000, true)], irqs(1, 0, 65))
}

/// A conventional NIC: 256 bytes of configuration space, no capability, a sub-page BAR.
pub(in crate::vfio::tests) fn rtl8139() -> VfioProbe {
    let mut config = vec![0; 256];
    header(&mut config, 0x10ec, 0x8139, 0);
    put32(&mut config, 0x10, 0x1);
    probe(
        config,
        vec![bar(0, 0x100, false), bar(1, 0x100, true)],
        irqs(1, 0, 0),
    )
}

/// The same device on a kernel that can't add MSI-X vectors in place.
pub(in crate::vfio::tests) fn without_dynamic_msix(mut probe: VfioProbe) -> VfioProbe {
    probe.irqs[2].flags |= VFIO_IRQ_INFO_NORESIZE;
    probe
}

pub(in crate::vfio::tests) fn area(offset: u64, size: u64) -> MappableArea {
    MappableArea { offset, size }
}
