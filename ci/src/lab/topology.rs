//! What hardware a lab machine has: a table, so that a new topology is a few lines.
//!
//! Slots 0x18 and above of the root bus belong to the machine's own devices (shares, serial ports), so a topology is free
//! to use 0x01–0x17. Root ports take bus numbers in slot order.

use anyhow::{Context, Result};

/// A named set of devices and kernel parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// What a user types.
    pub name: &'static str,
    /// One line for the help text.
    pub about: &'static str,
    /// The emulated IOMMU and its properties.
    pub iommu: &'static str,
    /// Kernel parameters of L1.
    pub kernel: &'static str,
    /// The devices, in the order QEMU gets them.
    pub parts: &'static [Part],
    /// What a person at the prompt should know about the devices, one line each.
    pub inventory: &'static [&'static str],
}

/// One piece of hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A PCIe root port that other parts name as `bus=ID`.
    RootPort {
        /// Its id.
        id: &'static str,
        /// Its slot on the root bus.
        slot: u8,
    },
    /// A network card, wired to a hub with all cards of the same number.
    Nic {
        /// The `-device` argument without `netdev=`.
        device: &'static str,
        /// The hub's number.
        hub: u8,
    },
    /// A disk on an empty sparse file that lasts as long as the machine.
    Disk {
        /// The `-device` argument without `drive=`.
        device: &'static str,
        /// Its size.
        mebibytes: u32,
    },
    /// Memory that a device names as `memdev=ID`: shared, and taken from the host only where it is written.
    Memory {
        /// Its id.
        id: &'static str,
        /// Its size.
        gibibytes: u32,
    },
    /// Any other device.
    Device(&'static str),
}

use Part::{Device, Disk, Memory, Nic, RootPort};

const INTEL_IOMMU: &str = "intel-iommu,intremap=on,aw-bits=48";
const IOMMU_ON: &str = "intel_iommu=on iommu=pt";

const NIC_PARTS: &[Part] = &[
    RootPort {
        id: "rp1",
        slot: 0x10,
    },
    RootPort {
        id: "rp2",
        slot: 0x11,
    },
    RootPort {
        id: "rp3",
        slot: 0x12,
    },
    RootPort {
        id: "rp4",
        slot: 0x13,
    },
    Nic {
        device: "igb,id=nic,bus=rp1,mac=52:54:00:00:01:00",
        hub: 1,
    },
    Nic {
        device: "igb,bus=rp2,mac=52:54:00:00:02:00",
        hub: 1,
    },
    Disk {
        device: "nvme,bus=rp3,serial=ferry",
        mebibytes: 512,
    },
    Device("pcie-pci-bridge,id=conventional,bus=rp4"),
    Nic {
        device: "e1000,bus=conventional,addr=1,mac=52:54:00:00:05:01",
        hub: 2,
    },
    Nic {
        device: "rtl8139,bus=conventional,addr=2,mac=52:54:00:00:05:02",
        hub: 2,
    },
    // The default mask of 28 bits would keep its DMA engine out of most of a guest's memory.
    Device("edu,addr=0x0b,dma_mask=0xffffffffff"),
];

const NIC_INVENTORY: &[&str] = &[
    "01:00.0  igb NIC, own group, FLR, MSI-X, SR-IOV: the device to pass through",
    "02:00.0  igb NIC, its peer on the same wire, for L1 itself",
    "03:00.0  NVMe disk, 512 MiB, with an MSI-X table of 2048 entries",
    "05:01.0  e1000 NIC, 05:02.0 rtl8139 NIC: one group behind a PCI bridge",
    "00:0b.0  edu, a small device with a DMA engine",
];

/// One of everything that a guest may be given. All network cards but those behind the PCI bridge are on one wire.
const ZOO_PARTS: &[Part] = &[
    RootPort {
        id: "rp1",
        slot: 0x10,
    },
    RootPort {
        id: "rp2",
        slot: 0x11,
    },
    RootPort {
        id: "rp3",
        slot: 0x12,
    },
    RootPort {
        id: "rp4",
        slot: 0x13,
    },
    RootPort {
        id: "rp5",
        slot: 0x14,
    },
    RootPort {
        id: "rp6",
        slot: 0x15,
    },
    Nic {
        device: "igb,bus=rp1,mac=52:54:00:00:01:00",
        hub: 1,
    },
    Nic {
        device: "igb,bus=rp2,mac=52:54:00:00:02:00",
        hub: 1,
    },
    Disk {
        device: "nvme,bus=rp3,serial=ferry,msix_qsize=2048",
        mebibytes: 512,
    },
    Device("pcie-pci-bridge,id=conventional,bus=rp4"),
    Nic {
        device: "e1000,bus=conventional,addr=1,mac=52:54:00:00:05:01",
        hub: 2,
    },
    Nic {
        device: "rtl8139,bus=conventional,addr=2,mac=52:54:00:00:05:02",
        hub: 2,
    },
    Device("VGA,addr=0x02"),
    // By MSI: all others that have messages have MSI-X.
    Device("qemu-xhci,id=usb,msix=off,msi=on,addr=0x03"),
    Disk {
        device: "usb-storage,bus=usb.0",
        mebibytes: 64,
    },
    Device("pci-testdev,membar=64M,addr=0x04"),
    Memory {
        id: "shared",
        gibibytes: 16,
    },
    Device("ivshmem-plain,memdev=shared,addr=0x05"),
    Device("edu,addr=0x0b,dma_mask=0xffffffffff"),
    // Below ports of their own, so that each can be reset with its bus: they ignore the reset by power management.
    Nic {
        device: "e1000e,bus=rp5,mac=52:54:00:00:06:00",
        hub: 1,
    },
    Nic {
        device: "e1000e,bus=rp6,mac=52:54:00:00:07:00",
        hub: 1,
    },
    Nic {
        device: "e1000,addr=0x0d,mac=52:54:00:00:0d:00",
        hub: 1,
    },
    Nic {
        device: "rtl8139,addr=0x0e,mac=52:54:00:00:0e:00",
        hub: 1,
    },
];

const ZOO_INVENTORY: &[&str] = &[
    "01:00.0  igb NIC with SR-IOV, for its VFs",
    "02:00.0  igb NIC, the peer of all others on the one wire, for L1 itself",
    "03:00.0  NVMe disk, 512 MiB, with an MSI-X table of 2048 entries",
    "05:01.0  e1000 NIC, 05:02.0 rtl8139 NIC: one group behind a PCI bridge",
    "06:00.0  e1000e NIC, 07:00.0 another, for one slot of a guest",
    "00:02.0  VGA with its ROM",
    "00:03.0  xHCI with a USB disk, 64 MiB; MSI, no MSI-X",
    "00:04.0  pci-testdev, without reset and interrupt",
    "00:05.0  ivshmem, 16 GiB of shared memory in a BAR",
    "00:0b.0  edu, a small device with a DMA engine",
    "00:0d.0  e1000 NIC, 00:0e.0 rtl8139 NIC: INTx only",
];

/// As many a desktop has it: a graphics card with an audio function, and a switch whose ports have no Access Control
/// Services, so that a disk and a network card below it are in one group. The card is not below the switch: with a VGA's
/// 32-bit BARs there the firmware finds no room for all that it keeps free below a switch.
const DESKTOP_PARTS: &[Part] = &[
    RootPort {
        id: "rp1",
        slot: 0x10,
    },
    RootPort {
        id: "rp2",
        slot: 0x11,
    },
    Device("VGA,bus=rp1,addr=0x0.0,multifunction=on"),
    Device("ich9-intel-hda,bus=rp1,addr=0x0.1"),
    Device("x3130-upstream,id=switch,bus=rp2"),
    Device("xio3130-downstream,id=port0,bus=switch,chassis=1,slot=1,addr=0x0.0,multifunction=on"),
    Device("xio3130-downstream,id=port1,bus=switch,chassis=2,slot=2,addr=0x0.1,multifunction=on"),
    Disk {
        device: "nvme,bus=port0,serial=ferry",
        mebibytes: 64,
    },
    Nic {
        device: "e1000e,bus=port1,mac=52:54:00:00:05:00",
        hub: 1,
    },
    Device("qemu-xhci,id=usb,addr=0x02"),
];

const DESKTOP_INVENTORY: &[&str] = &[
    "01:00.0  VGA, the screen of the firmware, 01:00.1 its audio function: one group",
    "04:00.0  NVMe disk, 05:00.0 e1000e NIC: one group, below a switch without ACS",
    "00:02.0  xHCI",
];

/// All topologies; the first is the default.
pub const TOPOLOGIES: &[Topology] = &[
    Topology {
        name: "nic",
        about: "two igb NICs on one wire, an NVMe disk, a PCI bridge with two old NICs, edu; IOMMU on",
        iommu: INTEL_IOMMU,
        kernel: IOMMU_ON,
        parts: NIC_PARTS,
        inventory: NIC_INVENTORY,
    },
    Topology {
        name: "noiommu",
        about: "as nic, with the IOMMU turned off in the kernel: passthrough must be refused",
        iommu: INTEL_IOMMU,
        kernel: "intel_iommu=off",
        parts: NIC_PARTS,
        inventory: NIC_INVENTORY,
    },
    Topology {
        name: "nointremap",
        about: "as nic, with an IOMMU that cannot remap interrupts: passthrough is unsafe",
        iommu: "intel-iommu,intremap=off,aw-bits=48",
        kernel: IOMMU_ON,
        parts: NIC_PARTS,
        inventory: NIC_INVENTORY,
    },
    Topology {
        name: "zoo",
        about: "one of everything: igb with VFs, NVMe, VGA, xHCI, ivshmem of 16 GiB, edu, e1000e pair, e1000, rtl8139",
        iommu: INTEL_IOMMU,
        kernel: IOMMU_ON,
        parts: ZOO_PARTS,
        inventory: ZOO_INVENTORY,
    },
    Topology {
        name: "desktop",
        about: "a graphics card and its audio function in one group, a disk and a NIC below a switch without ACS in another",
        iommu: INTEL_IOMMU,
        kernel: IOMMU_ON,
        parts: DESKTOP_PARTS,
        inventory: DESKTOP_INVENTORY,
    },
    Topology {
        name: "amd",
        about: "as nic, with the IOMMU of AMD",
        iommu: "amd-iommu,intremap=on",
        kernel: "iommu=pt",
        parts: NIC_PARTS,
        inventory: NIC_INVENTORY,
    },
];

/// Finds a topology by name.
pub fn topology(name: &str) -> Result<&'static Topology> {
    TOPOLOGIES
        .iter()
        .find(|topology| topology.name == name)
        .with_context(|| {
            let names: Vec<_> = TOPOLOGIES.iter().map(|topology| topology.name).collect();
            format!(
                "there is no topology {name}; there are {}",
                names.join(", ")
            )
        })
}

impl Topology {
    /// QEMU arguments for the devices. `disk_file` gives the file for the n-th disk.
    pub(super) fn qemu_args(&self, mut disk_file: impl FnMut(usize) -> String) -> Vec<String> {
        let mut args = vec!["-device".to_owned(), self.iommu.to_owned()];
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                RootPort { id, slot } => {
                    args.extend(pair(
                        "-device",
                        format!("pcie-root-port,x-speed=5,id={id},chassis={slot},slot={slot},addr={slot:#x}"),
                    ));
                }
                Nic { device, hub } => {
                    args.extend(pair(
                        "-netdev",
                        format!("hubport,id=net{index},hubid={hub}"),
                    ));
                    args.extend(pair("-device", format!("{device},netdev=net{index}")));
                }
                Disk { device, .. } => {
                    let file = disk_file(index);
                    // Losing the file is fine (it dies with the machine), waiting for the host's disk is not.
                    args.extend(pair(
                        "-drive",
                        format!("if=none,id=disk{index},format=raw,cache=unsafe,discard=unmap,file={file}"),
                    ));
                    args.extend(pair("-device", format!("{device},drive=disk{index}")));
                }
                Memory { id, gibibytes } => args.extend(pair(
                    "-object",
                    format!("memory-backend-memfd,id={id},size={gibibytes}G,share=on"),
                )),
                Device(device) => args.extend(pair("-device", (*device).to_owned())),
            }
        }
        args
    }

    /// The disks: their place in the list of parts and their size in MiB.
    pub(super) fn disks(&self) -> impl Iterator<Item = (usize, u32)> {
        self.parts
            .iter()
            .enumerate()
            .filter_map(|(index, part)| match part {
                Disk { mebibytes, .. } => Some((index, *mebibytes)),
                _ => None,
            })
    }
}

fn pair(option: &str, value: String) -> [String; 2] {
    [option.to_owned(), value]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Topology = Topology {
        name: "small",
        about: "",
        iommu: "intel-iommu,intremap=off",
        kernel: "",
        parts: &[
            RootPort {
                id: "rp1",
                slot: 0x10,
            },
            Nic {
                device: "igb,bus=rp1",
                hub: 7,
            },
            Disk {
                device: "nvme,serial=x",
                mebibytes: 1,
            },
            Memory {
                id: "m",
                gibibytes: 2,
            },
            Device("edu"),
        ],
        inventory: &[],
    };

    #[test]
    fn parts_become_arguments_in_order() {
        let args = SMALL.qemu_args(|index| format!("/disk-{index}"));
        assert_eq!(
            args.join(" "),
            "-device intel-iommu,intremap=off \
             -device pcie-root-port,x-speed=5,id=rp1,chassis=16,slot=16,addr=0x10 \
             -netdev hubport,id=net1,hubid=7 -device igb,bus=rp1,netdev=net1 \
             -drive if=none,id=disk2,format=raw,cache=unsafe,discard=unmap,file=/disk-2 \
             -device nvme,serial=x,drive=disk2 \
             -object memory-backend-memfd,id=m,size=2G,share=on \
             -device edu"
        );
        assert_eq!(SMALL.disks().collect::<Vec<_>>(), [(2, 1)]);
    }

    #[test]
    fn names_are_unique_and_root_ports_stay_out_of_the_machines_slots() {
        for (index, one) in TOPOLOGIES.iter().enumerate() {
            assert!(
                TOPOLOGIES
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.name != one.name),
                "{}",
                one.name
            );
            for part in one.parts {
                if let RootPort { slot, .. } = part {
                    assert!((1..0x18).contains(slot), "{}: slot {slot:#x}", one.name);
                }
            }
        }
    }

    #[test]
    fn unknown_name_lists_the_known_ones() {
        let error = topology("nothing").unwrap_err().to_string();
        assert!(
            error.contains("nic") && error.contains("noiommu"),
            "{error}"
        );
    }
}
