//! Figures: how long start-up took, what left the guest, what it cost.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Which kind of access left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// `in`.
    PortRead,
    /// `out`.
    PortWrite,
    /// A load from an address without memory.
    MmioRead,
    /// A store to an address without memory.
    MmioWrite,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port_read",
            Self::PortWrite => "port_write",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
        }
    }
}

/// The `KVM_RUN` returns of one vCPU. Only its own thread writes, so the lock is never waited for on
/// the guest's path.
#[derive(Default)]
pub struct ExitCounters {
    counts: Mutex<ExitCounts>,
}

#[derive(Default)]
struct ExitCounts {
    accesses: BTreeMap<(Access, u64), u64>,
    others: BTreeMap<&'static str, u64>,
}

impl ExitCounters {
    /// Counts an access to the device whose range starts at `base` (or to `base` itself when no
    /// device is there).
    pub fn access(&self, access: Access, base: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.accesses.entry((access, base)).or_default() += 1;
    }

    /// Counts another reason.
    pub fn other(&self, reason: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.others.entry(reason).or_default() += 1;
    }

    fn report(&self, vcpu: usize, names: &dyn Fn(Access, u64) -> String) -> VcpuReport {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let accesses: Vec<_> = counts
            .accesses
            .iter()
            .map(|((access, base), count)| AccessReport {
                access: *access,
                range: names(*access, *base),
                count: *count,
            })
            .collect();
        let others = counts.others.clone();
        let total = accesses.iter().map(|a| a.count).sum::<u64>() + others.values().sum::<u64>();
        VcpuReport {
            vcpu,
            exits: total,
            accesses,
            others,
        }
    }
}

/// Exits to user space of one vCPU.
#[derive(Debug, Serialize)]
pub struct VcpuReport {
    vcpu: usize,
    exits: u64,
    accesses: Vec<AccessReport>,
    others: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct AccessReport {
    access: Access,
    range: String,
    count: u64,
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
}

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
    /// Memory.
    pub memory: MemoryReport,
}

/// Counters by name, each in the group that it belongs to.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

impl Report {
    /// The figures that only grow, and how many things there are: a group a vCPU (`_vcpu0`), one a device, by its id, and
    /// `_kvm`.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::new();
        let mut add = |group: &str, name: String, count: u64| {
            let group = counters.entry(group.to_owned()).or_default();
            *group.entry(name).or_default() += count;
        };
        for vcpu in &self.vcpus {
            let group = format!("_vcpu{}", vcpu.vcpu);
            add(&group, "exits".to_owned(), vcpu.exits);
            for AccessReport {
                access,
                range,
                count,
            } in &vcpu.accesses
            {
                add(&group, format!("{} {range}", access.name()), *count);
            }
            for (reason, count) in &vcpu.others {
                add(&group, (*reason).to_owned(), *count);
            }
        }
        for device in &self.devices {
            add(&device.id, "errors".to_owned(), device.errors);
            let armed = device.armed_vectors.len();
            add(&device.id, "armed vectors".to_owned(), as_count(armed));
            for (kind, vectors) in &device.interrupts {
                for (vector, count) in vectors {
                    add(&device.id, "interrupts".to_owned(), *count);
                    add(&device.id, format!("{kind} {vector}"), *count);
                }
            }
        }
        add("_kvm", "memslots".to_owned(), as_count(self.kvm.memslots));
        add("_kvm", "gsis".to_owned(), as_count(self.kvm.gsis));
        add("_kvm", "boots".to_owned(), self.boots);
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

/// The vCPUs' part of a [`Report`].
#[must_use]
pub fn vcpu_reports(
    counters: &[Arc<ExitCounters>],
    names: &dyn Fn(Access, u64) -> String,
) -> Vec<VcpuReport> {
    counters
        .iter()
        .enumerate()
        .map(|(vcpu, counters)| counters.report(vcpu, names))
        .collect()
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
