//! The guests that the tests look at: each is booted once, questioned, and ended.

use crate::page_sizes::PageSizes;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use tests::site::{self, Kernel};
use tests::{Assigned, Edu, Guest, KernelLog, MOMENT, Run, figure, shell, until};

/// Where edu and ivshmem are in the guest.
const EDU: &str = "0000:00:05.0";
const SHARED: &str = "0000:00:06.0";
/// VGA, whose framebuffer is moved; and where to, at the end of the window of 32-bit BARs.
const VGA: &str = "0000:00:07.0";
const ELSEWHERE: u64 = 0xdf00_0000;
/// Where ivshmem's memory is, and how much.
const SHARED_BAR: usize = 2;
pub(crate) const SHARED_SIZE: u64 = 16 << 30;

/// 1 MiB of RAM that the guest's kernel leaves alone.
const LOW: u64 = 0x400_0000;

/// A place where firmware would be, which the guest's kernel has no use for.
const FIRMWARE: u64 = 0xe_8000;

/// Where ivshmem's memory is looked at: start, middle, end.
pub(crate) const PLACES: [u64; 3] = [0, SHARED_SIZE / 2, SHARED_SIZE - 8];

/// What edu is to write there.
pub(crate) const VALUES: [u64; 3] = [
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    0x5a5a_a5a5_0ff0_f00f,
];

/// What is there before, and what edu reads back.
pub(crate) const BEFORE: u64 = 0x1111_2222_3333_4444;

/// What a guest showed.
pub(crate) struct Shown {
    /// What Ferry refused before there were enough huge pages.
    pub(crate) refusal: tests::Problem,
    /// KVM's mappings: when the shell was there, and after the CPU had reached for ivshmem's memory in three places.
    pub(crate) pages: [PageSizes; 2],
    /// Hundredths of a second that it took to let 16 GiB decode.
    pub(crate) decoding: u64,
    /// Where the guest's kernel says that its RAM is.
    pub(crate) ranges: Vec<String>,
    /// What edu wrote to RAM and the CPU read there.
    pub(crate) ram: u64,
    /// What the CPU read in [`FIRMWARE`] after edu had written there.
    pub(crate) firmware: u64,
    /// Bytes of BARs that Ferry says devices reach in each other.
    pub(crate) reachable: u64,
    /// What the CPU read in ivshmem's memory after edu had written there.
    pub(crate) written: Vec<u64>,
    /// What edu read there and wrote to RAM.
    pub(crate) read: u64,
    /// What the host found there in the end.
    pub(crate) left: Vec<u64>,
    /// What the host's kernel said of DMA that the IOMMU stopped.
    pub(crate) faults: Vec<String>,
    /// What came of moving a BAR, where devices reach each other.
    pub(crate) moved: Option<Moved>,
}

/// What edu's DMA did after the framebuffer of VGA had moved.
pub(crate) struct Moved {
    /// What the CPU read at its new place after edu had written there.
    pub(crate) written: u64,
    /// What the host's kernel said when edu wrote to the old place.
    pub(crate) faults: Vec<String>,
}

/// How a guest is run.
struct Kind {
    name: &'static str,
    memory: &'static str,
    /// Where the host says how many of its huge pages there are.
    pool: &'static str,
    /// What the group of edu is to reserve beside what it does, a line each.
    reserved: &'static str,
    peer_to_peer: &'static str,
}

/// Huge pages that a test has made. Dropping it gives them back.
struct Pool(&'static str);

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(self.0, "0");
    }
}

/// Has Ferry refuse the guest for want of huge pages and makes them as it says.
fn make_pages(kind: &Kind) -> (tests::Problem, Pool) {
    fs::write(kind.pool, "0").unwrap();
    let attempt = tests::Attempt::run(&["--memory", kind.memory]);
    let refusal = attempt.refused_for_one(4);
    let pool = Pool(kind.pool);
    refusal.paste();
    (refusal, pool)
}

/// Words that start a program for which the group of `device` reserves more than it does: no device of the lab's has such
/// a range.
pub(crate) fn reserving(device: &Assigned, lines: &str) -> [String; 6] {
    let file = device.folder().join("iommu_group/reserved_regions");
    let known = fs::read_to_string(&file).unwrap().replace('\n', "\\n");
    covering(&file, &format!("{known}{lines}"))
}

/// Words that start a program that reads `text` where others read `file`.
pub(crate) fn covering(file: &Path, text: &str) -> [String; 6] {
    let file = file.display();
    let script = format!(
        "set -e; printf '{text}' > /tmp/covering; mount --bind /tmp/covering {file}; exec \"$@\""
    );
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
}

/// Where the guest's kernel says that it has RAM above 1 MiB.
fn ram_ranges(guest: &mut Guest) -> Vec<String> {
    let text = guest.ok("grep 'System RAM$' /proc/iomem");
    let lines = text.lines().filter_map(|line| line.split_once(" :"));
    let ranges = lines.map(|(range, _)| range.trim().to_owned());
    ranges.filter(|range| !range.starts_with("0000")).collect()
}

/// Lets ivshmem decode, after it did not; gives how long the guest's CPU was away, in hundredths of a second.
fn decode(guest: &mut Guest) -> u64 {
    let command = |value: &str| {
        format!(
            "printf '\\{value}' | dd of=/sys/bus/pci/devices/{SHARED}/config bs=1 seek=4 conv=notrunc 2>/dev/null"
        )
    };
    let text = guest.ok(&format!(
        "{}; cut -d' ' -f1 /proc/uptime; {}; cut -d' ' -f1 /proc/uptime",
        command("000"),
        command("002")
    ));
    let times: Vec<u64> = text
        .lines()
        .map(|line| line.replace('.', "").parse().unwrap())
        .collect();
    times[1] - times[0]
}

/// Moves VGA's framebuffer and has edu write to where it is, then to where it was.
fn move_bar(guest: &mut Guest, log: &mut KernelLog) -> Moved {
    let resource = guest.ok(&format!("cat /sys/bus/pci/devices/{VGA}/resource"));
    let old = bar(&resource, 0);
    assert_ne!(old, ELSEWHERE);
    let write = |offset: u64, bytes: [u8; 4], len: usize| {
        let text: String = bytes[..len]
            .iter()
            .map(|byte| format!("\\x{byte:02x}"))
            .collect();
        format!(
            "printf '{text}' | dd of=/sys/bus/pci/devices/{VGA}/config bs={len} seek={} conv=notrunc 2>/dev/null",
            offset / len as u64
        )
    };
    let place = u32::try_from(ELSEWHERE).unwrap().to_le_bytes();
    guest.ok(&write(4, [0; 4], 2));
    guest.ok(&write(0x10, place, 4));
    guest.ok(&write(4, [2, 0, 0, 0], 2));
    let mut device = Edu::at(guest, EDU);
    device.dma_to(ELSEWHERE, VALUES[1], LOW);
    let written = device.ram(ELSEWHERE);
    device.dma_to(old, VALUES[2], LOW);
    let faults = until("a fault at the old place", MOMENT, || {
        let faults = log.dma_faults();
        (!faults.is_empty()).then_some(faults)
    });
    Moved { written, faults }
}

fn memory(guest: &mut Guest, address: u64) -> u64 {
    number(&guest.ok(&format!("devmem {address:#x} 64")))
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}

/// Where a BAR starts, as the kernel of the machine says that has this `resource` file.
fn bar(resource: &str, index: usize) -> u64 {
    let line = resource.lines().nth(index).unwrap();
    number(line.split_whitespace().next().unwrap())
}

/// What the host finds in ivshmem's memory.
fn seen_by_host(device: &Assigned) -> Vec<u64> {
    let resource = fs::read_to_string(device.folder().join("resource")).unwrap();
    let base = bar(&resource, SHARED_BAR);
    let read = |place: u64| {
        let address = format!("{:#x}", base + place);
        let output = Command::new("busybox")
            .args(["devmem", &address, "64"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        number(&String::from_utf8_lossy(&output.stdout))
    };
    PLACES.map(read).into()
}

fn boot(kind: &Kind, [edu, shared, vga]: [&Assigned; 3]) -> Guest {
    Run::new(Kernel::Elf)
        .memory(kind.memory)
        .option("--p2p", kind.peer_to_peer)
        .cmdline("iomem=relaxed")
        .cmdline(&format!("memmap=1M${LOW:#x}"))
        .device(edu, ",addr=5")
        .device(shared, ",addr=6")
        .device(vga, ",addr=7")
        .through(&reserving(edu, kind.reserved).each_ref().map(String::as_str))
        .boot()
}

fn question(kind: &Kind) -> Shown {
    let mut log = KernelLog::from_now();
    let (refusal, _pool) = make_pages(kind);
    let [edu, shared, vga] = ["edu", "shared", "vga"].map(|role| site::device(role).assign());
    let mut guest = boot(kind, [&edu, &shared, &vga]);
    let ranges = ram_ranges(&mut guest);
    let decoding = decode(&mut guest);
    let resource = guest.ok(&format!("cat /sys/bus/pci/devices/{SHARED}/resource"));
    let base = bar(&resource, SHARED_BAR);
    let before = PageSizes::of(&guest);
    for place in PLACES {
        guest.ok(&format!("devmem {:#x} 64 {BEFORE:#x}", base + place));
    }
    let pages = [before, PageSizes::of(&guest)];
    if kind.peer_to_peer == "on" {
        until("16 GiB that devices reach in each other", MOMENT, || {
            (reachable(&guest) >= SHARED_SIZE).then_some(())
        });
    }
    let reachable = reachable(&guest);
    let mut device = Edu::at(&mut guest, EDU);
    let read = device.dma_copy(base, LOW + 0x1000);
    device.dma_to(LOW + 0x2000, VALUES[0], LOW);
    let ram = device.ram(LOW + 0x2000);
    device.dma_to(FIRMWARE, VALUES[0], LOW);
    let firmware = device.ram(FIRMWARE);
    for (place, value) in PLACES.into_iter().zip(VALUES) {
        device.dma_to(base + place, value, LOW);
    }
    let written = PLACES.map(|place| memory(&mut guest, base + place));
    figure(&format!(
        "{}: KVM maps {:?}, then {:?}; 16 GiB decode after {decoding} hundredths of a second; RAM mapped for DMA in {} µs",
        kind.name,
        pages[0],
        pages[1],
        guest.figures().number("/startup/dma_map")
    ));
    if kind.peer_to_peer == "off" {
        until("a fault that the host tells of", MOMENT, || {
            (!log.dma_faults().is_empty()).then_some(())
        });
    }
    let faults = log.dma_faults();
    let moved = (kind.peer_to_peer == "on").then(|| move_bar(&mut guest, &mut log));
    guest.stop();
    Shown {
        refusal,
        pages,
        decoding,
        ranges,
        ram,
        firmware,
        reachable,
        written: written.into(),
        read,
        left: seen_by_host(&shared),
        faults,
        moved,
    }
}

fn reachable(guest: &Guest) -> u64 {
    guest.figures().number("/memory/peer_to_peer")
}

static PEERS: LazyLock<Shown> = LazyLock::new(|| {
    // What the host has cached is in the way of a page of 1 GiB.
    shell("echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory");
    question(&Kind {
        name: "1 GiB in one page",
        memory: "size=1G,hugepages=1G",
        pool: "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
        reserved: "",
        peer_to_peer: "on",
    })
});

static STRANGERS: LazyLock<Shown> = LazyLock::new(|| {
    question(&Kind {
        name: "256 MiB in pages of 2 MiB",
        memory: "size=256M,hugepages=2M",
        pool: "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        reserved: "0x8000000 0x8000fff reserved\\n0xe8000 0xe8fff reserved\\n",
        peer_to_peer: "off",
    })
});

/// The guest whose devices reach each other.
pub(crate) fn peers() -> &'static Shown {
    &PEERS
}

/// The guest whose devices don't.
pub(crate) fn strangers() -> &'static Shown {
    &STRANGERS
}
