//! Figures: how long start-up took, what left the guest, what it cost.

mod exits;

pub use exits::{Access, ExitCounters, VcpuReport, vcpu_reports};

use crate::kvm::Statistics;
use devices::vfio::{BarTraps, MappedRam, TrapCounts};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Wall time of each start-up phase, in microseconds. Phases overlap where they can.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StartupTimes {
    /// Reading the command line and checking the host.
    pub parse: u64,
    /// Opening the devices; the host's kernel resets them then.
    pub open_devices: u64,
    /// Faulting in guest RAM for DMA, while the guest boots; 0 without a device, and until it is done.
    pub populate_memory: u64,
    /// Mapping guest RAM for DMA, while the guest boots; 0 without a device, and until it is done.
    pub dma_map: u64,
    /// From the process's start to when devices could do DMA; 0 without a device, and until then.
    pub dma_ready: u64,
    /// What vCPUs waited for that, when they turned bus mastering on.
    pub dma_wait: u64,
    /// Putting kernel, initramfs and tables into guest memory.
    pub load_kernel: u64,
    /// From the process's start to the first `KVM_RUN`.
    pub first_run: u64,
}

/// `duration` in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What is known of one assigned device.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// The user's id.
    pub id: String,
    /// Address on the host.
    pub host: String,
    /// Address in the guest.
    pub guest: String,
    /// Uncorrectable errors that it has reported.
    pub errors: u64,
    /// Vectors armed on the host now.
    pub armed_vectors: Vec<u32>,
    /// Interrupts since the device was opened, as the host counted them, by kind (`intx`, `msi`,
    /// `msix`) and vector.
    pub interrupts: BTreeMap<&'static str, BTreeMap<u16, u64>>,
    /// What it reaches of guest RAM.
    pub dma: DmaReport,
    /// The guest's accesses to trapped parts of its BARs, in the order of BARs and offsets.
    pub bar_traps: Vec<BarTrapReport>,
}

/// Guest RAM in an IOMMU context, which all assigned devices share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DmaReport {
    /// Mappings that the kernel has now.
    pub mappings: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl DmaReport {
    /// Of one context.
    #[must_use]
    pub fn of(MappedRam { mappings, bytes }: MappedRam) -> Self {
        Self { mappings, bytes }
    }
}

/// Accesses to one place in a BAR.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BarTrapReport {
    bar: String,
    offset: String,
    reads: u64,
    writes: u64,
}

impl BarTrapReport {
    /// Of all BARs of a device.
    #[must_use]
    pub fn all(traps: &BarTraps) -> Vec<Self> {
        traps
            .iter()
            .map(|(place, TrapCounts { reads, writes })| Self {
                bar: place.bar.to_string(),
                offset: match place.offset {
                    Some(offset) => format!("{offset:#x}"),
                    None => OTHERS.to_owned(),
                },
                reads: *reads,
                writes: *writes,
            })
            .collect()
    }
}

/// The name of what is not counted on its own.
const OTHERS: &str = "others";

/// A device that has left the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedReport {
    /// The user's id.
    pub id: String,
    /// Address on the host.
    pub host: String,
    /// Address that it had in the guest.
    pub guest: String,
    /// Uncorrectable errors that it had reported.
    pub errors: u64,
    /// How it left.
    pub how: Departure,
}

/// How a device left its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Departure {
    /// The guest ejected it.
    Ejected,
    /// Ferry took it.
    Taken,
    /// Ferry took it while the guest rebooted.
    Reboot,
}

/// What the machine takes up in KVM.
#[derive(Debug, Serialize)]
pub struct KvmReport {
    /// Parts of guest memory: RAM and mapped parts of BARs.
    pub memslots: usize,
    /// GSIs of message-signalled interrupts.
    pub gsis: usize,
    /// KVM's own statistics of the machine; none on kernels before 5.14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<Statistics>,
}

/// What memory costs.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Guest RAM in bytes.
    pub guest_ram: u64,
    /// Bytes of BARs that assigned devices reach in each other.
    pub peer_to_peer: u64,
    /// Peak resident size without guest RAM, in bytes.
    pub peak_rss_without_guest_ram: u64,
}

/// All figures; the JSON that `--stats` writes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Microseconds since the process started.
    pub uptime: u64,
    /// How often the guest was booted.
    pub boots: u64,
    /// Start-up phases, in microseconds.
    pub startup: StartupTimes,
    /// Exits to user space by vCPU.
    pub vcpus: Vec<VcpuReport>,
    /// Assigned devices.
    pub devices: Vec<DeviceReport>,
    /// The latest devices that have left the guest, in their order.
    pub removed: Vec<RemovedReport>,
    /// How many have left.
    pub departures: u64,
    /// What KVM knows of.
    pub kvm: KvmReport,
    /// What devices reach of guest RAM.
    pub dma: DmaReport,
    /// Memory.
    pub memory: MemoryReport,
}

/// Counters by name, each in the group that it belongs to.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

impl Report {
    /// Numbers in two levels of names. A device's group is its id; the others are `_vcpu0` and so on, exits to Ferry,
    /// `_kvm_vcpu0` and so on and `_kvm_vm`, KVM's own statistics, `_kvm`, what is taken up there, and `_dma`.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::new();
        for vcpu in &self.vcpus {
            let group = counters.entry(format!("_vcpu{}", vcpu.vcpu)).or_default();
            group.extend(vcpu.counters());
        }
        for device in &self.devices {
            let group = counters.entry(device.id.clone()).or_default();
            group.extend(device.counters());
        }
        let statistics = |of: &Option<Statistics>| of.clone().unwrap_or_default();
        let kvm_vcpus = self.vcpus.iter();
        let kvm_vcpus = kvm_vcpus.map(|vcpu| (format!("_kvm_vcpu{}", vcpu.vcpu), &vcpu.kvm));
        counters.extend(
            kvm_vcpus
                .chain([("_kvm_vm".to_owned(), &self.kvm.vm)])
                .filter(|(_, of)| of.is_some())
                .map(|(group, of)| (group, statistics(of))),
        );
        let mut add = |group: &str, all: &[(&str, u64)]| {
            let all = all.iter().map(|(name, count)| ((*name).to_owned(), *count));
            counters.entry(group.to_owned()).or_default().extend(all);
        };
        let (slots, gsis) = (as_count(self.kvm.memslots), as_count(self.kvm.gsis));
        add(
            "_kvm",
            &[("memslots", slots), ("gsis", gsis), ("boots", self.boots)],
        );
        let DmaReport { mappings, bytes } = self.dma;
        let peers = self.memory.peer_to_peer;
        add(
            "_dma",
            &[
                ("mappings", mappings),
                ("bytes", bytes),
                ("peer to peer bytes", peers),
            ],
        );
        counters
    }
}

impl DeviceReport {
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        let mut add = |name: String, count: u64| *counters.entry(name).or_default() += count;
        add("errors".to_owned(), self.errors);
        add(
            "armed vectors".to_owned(),
            as_count(self.armed_vectors.len()),
        );
        add("dma mappings".to_owned(), self.dma.mappings);
        add("dma bytes".to_owned(), self.dma.bytes);
        for (kind, vectors) in &self.interrupts {
            for (vector, count) in vectors {
                add("interrupts".to_owned(), *count);
                add(format!("{kind} {vector}"), *count);
            }
        }
        add("bar traps".to_owned(), 0);
        for BarTrapReport {
            bar,
            offset,
            reads,
            writes,
        } in &self.bar_traps
        {
            add("bar traps".to_owned(), reads + writes);
            add(format!("{bar} {offset} reads"), *reads);
            add(format!("{bar} {offset} writes"), *writes);
        }
        counters
    }
}

fn as_count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// When the process started and what its phases took.
#[derive(Debug)]
pub struct Stopwatch {
    /// The process's start.
    pub start: Instant,
    /// The phases so far.
    pub startup: StartupTimes,
}

/// Peak resident size of this process less the shared memory it has now, in bytes: guest RAM is the
/// only shared memory and is never given back while the guest lives.
#[must_use]
pub fn peak_rss_without_guest_ram() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> u64 {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0)
    };
    field("VmHWM:").saturating_sub(field("RssShmem:")) << 10
}

#[cfg(test)]
pub(crate) mod tests;
