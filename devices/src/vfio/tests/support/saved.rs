//! What the kernel told of the lab's devices, saved by the example `probe`.

use crate::vfio::probe::VfioProbe;

/// All saved probes, with their names.
pub(in crate::vfio) fn saved_probes() -> Vec<(&'static str, VfioProbe)> {
    let texts = [
        ("e1000", include_str!("../probes/e1000.probe")),
        ("e1000e", include_str!("../probes/e1000e.probe")),
        ("edu", include_str!("../probes/edu.probe")),
        ("igb", include_str!("../probes/igb.probe")),
        ("igbvf", include_str!("../probes/igbvf.probe")),
        ("ivshmem", include_str!("../probes/ivshmem.probe")),
        ("nvme", include_str!("../probes/nvme.probe")),
        ("rtl8139", include_str!("../probes/rtl8139.probe")),
        ("testdev", include_str!("../probes/testdev.probe")),
        ("vga", include_str!("../probes/vga.probe")),
        ("xhci", include_str!("../probes/xhci.probe")),
    ];
    texts
        .into_iter()
        .map(|(name, text)| (name, text.parse().unwrap()))
        .collect()
}
