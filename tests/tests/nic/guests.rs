//! The guests that several tests look at: each is booted once, questioned, and ended.

use crate::drive::{Driven, Interrupt, counted_by_host, drive, interrupts};
use crate::shape::Function;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{Edu, Exits, Figures, Guest, KernelLog, MOMENT, Peer, Run, figure, until};

/// Where the devices are in a guest that says so.
pub(crate) const NIC: &str = "0000:00:01.0";
pub(crate) const DISK: &str = "0000:00:06.0";
/// In the disk's slot.
pub(crate) const EDU: &str = "0000:00:06.3";
/// In a slot of its own.
const LONE_EDU: &str = "0000:00:07.0";

/// 1 MiB of RAM above 4 GiB that the guest's kernel leaves alone.
pub(crate) const HIGH: u64 = 0x1_2000_0000;
/// The same in the middle of 512 MiB.
pub(crate) const LOW: u64 = 0x1000_0000;
/// The end of 512 MiB.
pub(crate) const END: u64 = 0x2000_0000;
/// An address without RAM in a guest of 512 MiB, with RAM in the host.
pub(crate) const BEYOND: u64 = 0x6000_0000;

/// What edu is given to carry.
pub(crate) const VALUE: u64 = 0x0123_4567_89ab_cdef;

/// How long L1 takes to tell of a fault.
const TELL: Duration = MOMENT;

fn run(cpus: u32, memory: &str) -> Run {
    Run::new(Kernel::Elf)
        .cpus(cpus)
        .memory(memory)
        .modules("igb")
}

/// A guest that is booted, rebooted, and powered off.
pub(crate) struct Plain {
    pub(crate) first: Driven,
    pub(crate) again: Driven,
    pub(crate) exit: i32,
    /// The host's driver that had the card before and has it after.
    pub(crate) drivers: [Option<String>; 2],
    pub(crate) faults: Vec<String>,
}

static PLAIN: LazyLock<Plain> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let device = site::device("nic");
    let driver = device.driver();
    let nic = device.assign();
    let mut guest = run(1, "512M").device(&nic, "").boot();
    let first = drive("1 vCPU, 512 MiB", &mut guest, &peer, 64);
    guest.begin("reboot -f");
    guest.wait_for_shell();
    let again = drive("the same after a reboot", &mut guest, &peer, 16);
    let boots = guest.figures().number("/boots");
    assert_eq!(boots, 2, "{}", guest.ferry().state());
    let exit = guest.power_off();
    let device = nic.give_back();
    peer.ping_from(&device);
    Plain {
        first,
        again,
        exit,
        drivers: [driver, device.driver()],
        faults: log.dma_faults(),
    }
});

/// A guest with three devices and memory above 4 GiB.
pub(crate) struct Large {
    pub(crate) driven: Driven,
    pub(crate) disk: DiskWork,
    /// Where the card's descriptor rings are.
    pub(crate) rings: Vec<u64>,
    /// What edu wrote above 4 GiB, and what it read from there.
    pub(crate) above: [u64; 2],
    /// The functions as the guest sees them, and as the host does.
    pub(crate) guest: BTreeMap<&'static str, Function>,
    pub(crate) host: BTreeMap<&'static str, Function>,
    /// Names of the functions in the guest.
    pub(crate) functions: String,
    pub(crate) figures: Figures,
    /// Ferry's standard error.
    pub(crate) messages: String,
    pub(crate) faults: Vec<String>,
}

/// What became of a disk that was written and read while the network card was busy.
pub(crate) struct DiskWork {
    pub(crate) driver: String,
    /// Exit status of the comparison.
    pub(crate) compared: i32,
    /// MiB that went over the network meanwhile.
    pub(crate) network: u64,
    pub(crate) exits: Exits,
    pub(crate) interrupts: Vec<Interrupt>,
}

/// Writes the 64 MiB that came over the network to the disk and reads them back, without caches, while
/// the network brings more. `cmp` looks at everything.
fn use_disk(guest: &mut Guest, peer: &Peer) -> DiskWork {
    let driver = guest.ok("basename $(readlink /sys/block/nvme0n1/device/device/driver)");
    let flood = peer.flood(guest);
    let (exits, sent) = (guest.figures().exits(), flood.sent());
    // Nothing is printed before the end.
    guest.begin(
        "dd if=/tmp/data of=/dev/nvme0n1 bs=1M oflag=direct 2>/dev/null && \
         dd if=/dev/nvme0n1 of=/tmp/back bs=1M count=64 iflag=direct 2>/dev/null",
    );
    let output = guest.end(MOMENT);
    let exits = guest.figures().exits().since(&exits);
    let network = flood.sent() - sent;
    flood.stop(guest);
    assert_eq!(output.status, 0, "{output:?}");
    figure(&format!(
        "64 MiB to the disk and back, {network} MiB over the network meanwhile: {exits}"
    ));
    DiskWork {
        driver: driver.trim().to_owned(),
        compared: guest.run("cmp /tmp/data /tmp/back").status,
        network,
        exits,
        interrupts: interrupts(guest, "nvme"),
    }
}

/// Base addresses of igb's descriptor rings that are in use (82576 datasheet, sections 8.10 and 8.12).
fn rings(guest: &mut Guest) -> Vec<u64> {
    let resource = guest.ok(&format!("head -n 1 /sys/bus/pci/devices/{NIC}/resource"));
    let base = resource.split_whitespace().next().unwrap();
    let registers = [0xc000, 0xc040, 0xe000, 0xe040];
    let read = registers.map(|register| {
        format!(
            "devmem $(({base} + {})); devmem $(({base} + {register}))",
            register + 4
        )
    });
    let text = guest.ok(&read.join("; "));
    let words: Vec<u64> = text
        .lines()
        .map(|line| u64::from_str_radix(line.trim_start_matches("0x"), 16).unwrap())
        .collect();
    words
        .chunks(2)
        .map(|pair| pair[0] << 32 | pair[1])
        .collect()
}

static LARGE: LazyLock<Large> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let [nic, disk, edu] = ["nic", "disk", "edu"].map(|role| site::device(role).assign());
    let host = BTreeMap::from([
        (NIC, Function::of_host(&nic)),
        (DISK, Function::of_host(&disk)),
        (EDU, Function::of_host(&edu)),
    ]);
    let mut guest = Run::new(Kernel::Elf)
        .cpus(2)
        .memory("5G")
        .modules("igb,nvme")
        // Lets the guest's /dev/mem show the registers of a device that has a driver.
        .cmdline("iomem=relaxed")
        .cmdline(&format!("memmap=1M${HIGH:#x}"))
        .device(&nic, "")
        .device(&disk, ",addr=0x6")
        .device(&edu, ",id=edu,addr=6.3")
        .boot();
    let driven = drive("2 vCPUs, 5 GiB", &mut guest, &peer, 64);
    let disk = use_disk(&mut guest, &peer);
    let rings = rings(&mut guest);
    let functions = guest.ok("ls /sys/bus/pci/devices");
    let shapes = [NIC, DISK, EDU].map(|name| (name, Function::of_guest(&mut guest, name)));
    let mut edu = Edu::at(&mut guest, EDU);
    edu.dma_to(HIGH + 0x1000, VALUE, HIGH);
    let above = [edu.ram(HIGH + 0x1000), edu.dma_copy(HIGH, HIGH + 0x2000)];
    let figures = guest.figures();
    guest.stop();
    let messages = guest.ferry().errors().text();
    Large {
        driven,
        disk,
        rings,
        above,
        guest: shapes.into(),
        host,
        functions,
        figures,
        messages,
        faults: log.dma_faults(),
    }
});

/// A guest whose Ferry is killed in the middle of a transfer, and the next one.
pub(crate) struct Killed {
    pub(crate) first: Driven,
    pub(crate) next: Driven,
    pub(crate) faults: Vec<String>,
}

static KILLED: LazyLock<Killed> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let mut guest = run(4, "512M").device(&nic, "").boot();
    let first = drive("4 vCPUs, 512 MiB", &mut guest, &peer, 64);
    let flood = peer.flood(&mut guest);
    let sent = flood.sent();
    until("8 MiB more", MOMENT, || {
        (flood.sent() >= sent + 8).then_some(())
    });
    guest.ferry_mut().kill();
    let mut guest = run(4, "5G").device(&nic, "").boot();
    let next = drive("4 vCPUs, 5 GiB, after the kill", &mut guest, &peer, 16);
    guest.stop();
    Killed {
        first,
        next,
        faults: log.dma_faults(),
    }
});

/// A guest whose drivers have no MSI, with a device whose DMA and MSI are steered by hand.
pub(crate) struct Wired {
    pub(crate) driven: Driven,
    /// Rescheduling interrupts before and after `RAISED` messages.
    pub(crate) reschedules: [u64; 2],
    /// Exits to user space while they were raised.
    pub(crate) exits: Exits,
    /// What the host counted for edu.
    pub(crate) counted: BTreeMap<String, u64>,
    /// What edu wrote to RAM.
    pub(crate) inside: u64,
    /// The host's log before edu reached beyond the guest's RAM, and after writing and reading there.
    pub(crate) faults: [Vec<String>; 3],
    /// What edu wrote to RAM after that.
    pub(crate) inside_again: u64,
}

/// How many messages.
pub(crate) const RAISED: u32 = 5;

/// A message to APIC 0 with the vector of rescheduling interrupts (asm/irq_vectors.h): one that a guest
/// with one vCPU never sends itself, counts, and does nothing else about.
const MESSAGE: (u64, u16) = (0xfee0_0000, 0x00fd);

fn reschedules(guest: &mut Guest) -> u64 {
    let lines = guest.ok("grep RES: /proc/interrupts");
    lines.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The faults in `log`, once there are more than `known`.
fn more_faults(log: &mut KernelLog, known: usize) -> Vec<String> {
    until("a line about a DMA fault", TELL, || {
        let faults = log.dma_faults();
        let told = faults.iter().filter(|line| line.contains("fault addr"));
        (told.count() > known).then_some(faults)
    })
}

static WIRED: LazyLock<Wired> = LazyLock::new(|| {
    let mut log = KernelLog::from_now();
    let peer = Peer::up();
    let [nic, edu] = ["nic", "edu"].map(|role| site::device(role).assign());
    let mut guest = run(1, "512M")
        .cmdline("pci=nomsi")
        .cmdline(&format!("memmap=1M${LOW:#x}"))
        .device(&nic, "")
        .device(&edu, ",addr=7")
        .boot();
    let driven = drive("1 vCPU, INTx", &mut guest, &peer, 16);
    let before = reschedules(&mut guest);
    let mut edu = Edu::at(&mut guest, LONE_EDU);
    edu.enable_msi(MESSAGE.0, MESSAGE.1);
    let exits = edu.guest().figures().exits();
    edu.raise(RAISED);
    let exits = edu.guest().figures().exits().since(&exits);
    let reschedules = [before, reschedules(edu.guest())];
    let counted = counted_by_host(edu.guest(), 1);
    edu.dma_to(LOW + 0x1000, VALUE, LOW);
    let inside = edu.ram(LOW + 0x1000);
    let none = log.dma_faults();
    edu.dma_to(END, VALUE, LOW);
    let wrote = more_faults(&mut log, 0);
    edu.dma_copy(BEYOND, LOW + 0x2000);
    let read = more_faults(&mut log, 1);
    edu.dma_to(LOW + 0x3000, !VALUE, LOW);
    let inside_again = edu.ram(LOW + 0x3000);
    guest.stop();
    Wired {
        driven,
        reschedules,
        exits,
        counted,
        inside,
        faults: [none, wrote, read],
        inside_again,
    }
});

/// Kernel 6.12, 1 vCPU, 512 MiB, network card; booted twice by a reboot, then powered off.
pub(crate) fn plain() -> &'static Plain {
    &PLAIN
}

/// 2 vCPUs, 5 GiB, network card, disk, edu.
pub(crate) fn large() -> &'static Large {
    &LARGE
}

/// 4 vCPUs, 512 MiB, network card; killed. Then 1 vCPU.
pub(crate) fn killed() -> &'static Killed {
    &KILLED
}

/// 1 vCPU, 512 MiB, network card and edu, `pci=nomsi`.
pub(crate) fn wired() -> &'static Wired {
    &WIRED
}
