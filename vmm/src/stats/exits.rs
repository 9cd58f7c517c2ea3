//! Exits to user space, by reason and address.

use crate::kvm::Statistics;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many ranges a vCPU has counts of its own for: a guest can touch as many addresses as it likes.
const MOST_RANGES: usize = 512;

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
    /// By the range's start; without one what came when there were [`MOST_RANGES`].
    accesses: BTreeMap<(Access, Option<u64>), u64>,
    others: BTreeMap<&'static str, u64>,
}

impl ExitCounters {
    /// Counts an access to the device whose range starts at `base` (or to `base` itself when no
    /// device is there).
    pub fn access(&self, access: Access, base: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let accesses = &mut counts.accesses;
        let known = accesses.len() < MOST_RANGES || accesses.contains_key(&(access, Some(base)));
        let range = known.then_some(base);
        *accesses.entry((access, range)).or_default() += 1;
    }

    /// Counts another reason.
    pub fn other(&self, reason: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.others.entry(reason).or_default() += 1;
    }

    fn report(
        &self,
        vcpu: usize,
        kvm: Option<Statistics>,
        names: &dyn Fn(Access, u64) -> String,
    ) -> VcpuReport {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let accesses: Vec<_> = counts
            .accesses
            .iter()
            .map(|((access, base), count)| AccessReport {
                access: *access,
                range: match base {
                    Some(base) => names(*access, *base),
                    None => super::OTHERS.to_owned(),
                },
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
            kvm,
        }
    }
}

/// Exits to user space of one vCPU.
#[derive(Debug, Serialize)]
pub struct VcpuReport {
    pub(super) vcpu: usize,
    exits: u64,
    accesses: Vec<AccessReport>,
    others: BTreeMap<&'static str, u64>,
    /// KVM's own statistics of the vCPU; none on kernels before 5.14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kvm: Option<Statistics>,
}

#[derive(Debug, Serialize)]
struct AccessReport {
    access: Access,
    range: String,
    count: u64,
}

impl VcpuReport {
    /// Exits by name.
    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::from([("exits".to_owned(), self.exits)]);
        for AccessReport {
            access,
            range,
            count,
        } in &self.accesses
        {
            let name = format!("{} {range}", access.name());
            *counters.entry(name).or_default() += count;
        }
        for (reason, count) in &self.others {
            *counters.entry((*reason).to_owned()).or_default() += count;
        }
        counters
    }
}

/// The vCPUs' part of a report: Ferry's counters, and KVM's.
#[must_use]
pub fn vcpu_reports(
    counters: &[Arc<ExitCounters>],
    kvm: Vec<Option<Statistics>>,
    names: &dyn Fn(Access, u64) -> String,
) -> Vec<VcpuReport> {
    let kvm = kvm.into_iter().chain(std::iter::repeat(None));
    counters
        .iter()
        .zip(kvm)
        .enumerate()
        .map(|(vcpu, (counters, kvm))| counters.report(vcpu, kvm, names))
        .collect()
}
