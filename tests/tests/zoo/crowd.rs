//! A guest with as many different devices as there are.

use crate::bars::{Bars, look_at_bars};
use crate::network::{Card, interrupts_named, use_card};
use crate::reboots;
use crate::virtual_function::VirtualFunction;
use std::sync::{LazyLock, PoisonError};
use tests::site;
use tests::{CommandOutput, Exits, Guest, KernelLog, MOMENT, Peer, Run, figure};

/// Where the devices are in the guest.
pub(crate) const PAIR: [&str; 2] = ["0000:00:06.0", "0000:00:06.1"];
pub(crate) const VGA: &str = "0000:00:08.0";
pub(crate) const TESTDEV: &str = "0000:00:09.0";
pub(crate) const SHARED: &str = "0000:00:0a.0";
pub(crate) const RTL8139: &str = "0000:00:0b.0";

/// What the guest answered.
pub(crate) struct Crowd {
    /// Both functions of the slot, and the VF.
    pub(crate) cards: [Card; 3],
    /// Lines of /proc/interrupts of both functions.
    pub(crate) pair_interrupts: [Vec<String>; 2],
    pub(crate) vf_mac: String,
    pub(crate) vf_driver: String,
    /// What became of writing NVMe and reading it.
    pub(crate) fio: CommandOutput,
    pub(crate) fio_exits: Exits,
    /// Entries of its MSI-X table, and how many of them its driver uses.
    pub(crate) nvme_entries: u32,
    pub(crate) nvme_used: usize,
    /// Vectors that the host has for it.
    pub(crate) nvme_vectors: usize,
    /// What became of writing the USB disk and reading it.
    pub(crate) usb: CommandOutput,
    pub(crate) usb_interrupts: Vec<String>,
    pub(crate) bars: Bars,
    /// What the host sees in ivshmem's memory after the guest has ended.
    pub(crate) left: Vec<u64>,
    pub(crate) faults: Vec<String>,
}

/// Blocks of 8 KiB all over 16 MiB, 16 at a time.
fn verify(guest: &mut Guest) -> (CommandOutput, Exits) {
    let exits = guest.figures().exits();
    guest.begin(
        "fio --name=zoo --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth=16 \
         --rw=randwrite --bs=8k --size=16M --verify=crc32c --verify_fatal=1 --minimal",
    );
    let output = guest.end(MOMENT);
    let exits = guest.figures().exits().since(&exits);
    figure(&format!("fio on NVMe, 16 MiB: {exits}"));
    (output, exits)
}

/// 4 MiB to the USB disk and back, without caches. The disk comes some time after its driver.
fn use_usb(guest: &mut Guest) -> CommandOutput {
    guest.begin(
        "while [ ! -b /dev/sda ]; do usleep 100000; done; head -c 4194304 /dev/urandom > /tmp/usb && \
         dd if=/tmp/usb of=/dev/sda bs=1M oflag=direct 2>/dev/null && \
         dd if=/dev/sda of=/tmp/usb-back bs=1M count=4 iflag=direct 2>/dev/null && \
         cmp /tmp/usb /tmp/usb-back",
    );
    guest.end(MOMENT)
}

static CROWD: LazyLock<Crowd> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peers = [("eth0", 0), ("eth1", 1), ("eth2", 2)]
        .map(|(interface, subnet)| Peer::of(interface, subnet));
    let vf = VirtualFunction::make();
    let _pair = reboots::PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let pair = site::devices("pair");
    let [first, second] = [0, 1].map(|index: usize| pair[index].assign());
    let [disk, usb, vga, testdev, shared, rtl8139] =
        ["disk", "usb", "vga", "testdev", "shared", "rtl8139"]
            .map(|role| site::device(role).assign());
    let nvme_entries = disk.msix_entries();
    let mut guest = Run::with_tools()
        .cpus(2)
        .memory("1G")
        .modules("e1000e,igbvf,nvme,xhci_pci,usb_storage,sd_mod")
        .cmdline("iomem=relaxed")
        .device(&first, ",addr=0x6.0")
        .device(&second, ",addr=0x6.1")
        .device(vf.assigned(), ",addr=7")
        .device(&vga, ",addr=8")
        .device(&testdev, ",addr=9")
        .device(&shared, ",addr=0xa")
        .device(&rtl8139, ",addr=0xb")
        .device(&disk, "")
        .device(&usb, "")
        .boot();
    let cards = [
        ("e1000e, function 0", &peers[0]),
        ("e1000e, function 1", &peers[1]),
        ("VF of igb", &peers[2]),
    ]
    .map(|(name, peer)| use_card(name, &mut guest, peer));
    let pair_interrupts = ["eth0", "eth1"].map(|name| interrupts_named(&mut guest, name));
    let vf_mac = guest
        .ok("cat /sys/class/net/eth2/address")
        .trim()
        .to_owned();
    let driver = guest.ok("basename $(readlink /sys/class/net/eth2/device/driver)");
    let (fio, fio_exits) = verify(&mut guest);
    let nvme_used = interrupts_named(&mut guest, "nvme0q").len();
    let nvme_vectors = disk.vectors();
    let usb_output = use_usb(&mut guest);
    let usb_interrupts = interrupts_named(&mut guest, "xhci_hcd");
    let bars = look_at_bars(&mut guest);
    guest.stop();
    Crowd {
        cards,
        pair_interrupts,
        vf_mac,
        vf_driver: driver.trim().to_owned(),
        fio,
        fio_exits,
        nvme_entries,
        nvme_used,
        nvme_vectors,
        usb: usb_output,
        usb_interrupts,
        left: bars.seen_by_host(&shared),
        bars,
        faults: log.dma_faults(),
    }
});

/// The guest.
pub(crate) fn guest() -> &'static Crowd {
    &CROWD
}
