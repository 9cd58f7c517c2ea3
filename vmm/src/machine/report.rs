//! Gathering the figures of `--stats` and writing them.

use super::builder::Machine;
use crate::kvm::{Statistics, StatisticsFile, Vcpu, Vm};
use crate::spec::StatsSpec;
use crate::stats::{
    BarTrapReport, DeviceReport, DmaReport, KvmReport, MemoryReport, Report, micros,
    peak_rss_without_guest_ram, vcpu_reports,
};
use devices::host::{DeviceInterrupt, DeviceInterruptType};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// KVM's own statistics. They can be read while vCPUs are in the guest.
pub(super) struct KvmStatistics {
    vm: Option<StatisticsFile>,
    vcpus: Vec<Option<StatisticsFile>>,
}

impl KvmStatistics {
    /// Of a machine and its vCPUs.
    pub(super) fn new(vm: &Vm, vcpus: &[Vcpu]) -> Self {
        Self {
            vm: vm.statistics(),
            vcpus: vcpus.iter().map(Vcpu::statistics).collect(),
        }
    }

    fn of_vm(&self) -> Option<Statistics> {
        self.vm.as_ref().and_then(StatisticsFile::read)
    }

    fn of_vcpus(&self) -> Vec<Option<Statistics>> {
        let files = self.vcpus.iter();
        files
            .map(|file| file.as_ref().and_then(StatisticsFile::read))
            .collect()
    }
}

/// Writes the machine's figures where its spec wants them; nowhere if it doesn't.
///
/// # Errors
/// The errno of writing.
pub(super) fn write(machine: &Machine) -> io::Result<()> {
    let Some(target) = &machine.spec.stats else {
        return Ok(());
    };
    let mut text = serde_json::to_string_pretty(&gather(machine)).map_err(io::Error::other)?;
    text.push('\n');
    match target {
        StatsSpec::Stdout => io::stdout().lock().write_all(text.as_bytes()),
        StatsSpec::File(path) => replace(path, &text),
    }
}

/// A reader sees the old figures or the new ones, never half of them.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// All figures as of now.
pub(super) fn gather(machine: &Machine) -> Report {
    let start = machine.stopwatch.start;
    let mut startup = machine.stopwatch.startup.clone();
    if let Some(preparation) = &machine.preparation {
        startup.populate_memory = preparation.populate_time();
        startup.dma_map = preparation.map_time();
        startup.dma_ready = preparation
            .ready_at()
            .map_or(0, |at| micros(at.duration_since(start)));
        startup.dma_wait = micros(machine.pci.dma().waited());
    }
    if let Some(first) = machine.context.first_run.get() {
        startup.first_run = micros(first.duration_since(start));
    }
    let assigned = machine.assigned.iter().flat_map(|all| &all.devices);
    let context = machine.assigned.as_ref().map(|all| all.context());
    let dma = context.map_or_else(DmaReport::default, |context| {
        DmaReport::of(context.mapped())
    });
    Report {
        uptime: micros(start.elapsed()),
        boots: machine.boots,
        startup,
        vcpus: vcpu_reports(
            &machine.counters,
            machine.statistics.of_vcpus(),
            &|access, base| machine.context.buses.name(access, base),
        ),
        devices: assigned
            .map(|assigned| DeviceReport {
                id: assigned.spec.id.clone(),
                host: assigned.spec.host.to_string(),
                guest: assigned.spec.guest.to_string(),
                errors: assigned.errors,
                armed_vectors: assigned.device.armed_vectors(),
                interrupts: by_kind(&assigned.device.interrupts()),
                dma,
                bar_traps: BarTrapReport::all(&assigned.device.bar_traps()),
            })
            .collect(),
        removed: machine.removed.latest(),
        departures: machine.removed.count(),
        kvm: KvmReport {
            memslots: machine.slots.len(),
            gsis: machine.routing.reserved(),
            vm: machine.statistics.of_vm(),
        },
        dma,
        memory: MemoryReport {
            guest_ram: machine.spec.memory.bytes(),
            peer_to_peer: context.map_or(0, |context| context.peer_to_peer()),
            peak_rss_without_guest_ram: peak_rss_without_guest_ram(),
        },
    }
}

fn by_kind(interrupts: &[DeviceInterrupt]) -> BTreeMap<&'static str, BTreeMap<u16, u64>> {
    let mut kinds: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for interrupt in interrupts {
        let kind = match interrupt.kind {
            DeviceInterruptType::Intx => "intx",
            DeviceInterruptType::Msi => "msi",
            DeviceInterruptType::Msix => "msix",
        };
        let counts = kinds.entry(kind).or_default();
        counts.insert(interrupt.vector, interrupt.count);
    }
    kinds
}
