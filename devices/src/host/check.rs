//! `ferry check`: the host from bottom to top, every fact told, the good ones too.
//!
//! What keeps a run from working is judged by the same functions as in [`super::preflight`], so both say the same.

mod device;

use super::cpu::CpuVendor;
use super::huge_pages::{self, HugePageSize};
use super::limits::ProcessLimits;
use super::problem::Problem;
use super::remapping::{InterruptRemapping, RemappingObstacle};
use super::root::{HostError, HostRoot};
use super::vfio_node::{self, VfioNodeObstacle};
use super::{group, iommu, kvm, memlock};
use crate::pci::HostSbdf;

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest<'a> {
    /// Functions that are to be assigned together.
    pub devices: &'a [HostSbdf],
    /// Bytes of guest RAM, if the limits are to be held against it.
    pub guest_ram: Option<u64>,
    /// The pages that it is to be made of, if not of the smallest.
    pub huge_pages: Option<HugePageSize>,
}

/// Whether a fact stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// As it has to be.
    Good,
    /// A run works; somebody may want to know.
    Caution,
    /// No run works.
    Bad,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The function it is about; `None` for the host.
    pub device: Option<HostSbdf>,
    /// Whether it stands in the way.
    pub mark: Mark,
    /// What it is about, a word or two.
    pub topic: &'static str,
    /// The fact, one line.
    pub fact: String,
    /// What to do about it, with the same rules as [`Problem::remedy`].
    pub remedy: Option<String>,
}

/// Facts in the order found.
#[derive(Default)]
struct Findings {
    device: Option<HostSbdf>,
    found: Vec<Finding>,
}

impl Findings {
    fn tell(&mut self, mark: Mark, topic: &'static str, fact: impl Into<String>) {
        self.found.push(Finding {
            device: self.device,
            mark,
            topic,
            fact: fact.into(),
            remedy: None,
        });
    }

    fn problem(&mut self, topic: &'static str, problem: &Problem) {
        self.found.push(Finding {
            device: self.device,
            mark: Mark::Bad,
            topic,
            fact: problem.why.clone(),
            remedy: Some(problem.remedy.clone()),
        });
    }

    fn unreadable(&mut self, topic: &'static str, error: &HostError) {
        let Problem { what, why, remedy } = error.problem();
        self.problem(topic, &Problem::new("", format!("{what}: {why}"), remedy));
    }
}

/// Looks at the host, then at each device.
#[must_use]
pub fn check(
    root: &HostRoot,
    request: &CheckRequest<'_>,
    limits: &dyn ProcessLimits,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    kvm_node(root, limits, &mut findings);
    // Without an IOMMU nothing else is said of it: the rest follows.
    if iommu_units(root, request, &mut findings) {
        interrupt_remapping(root, request, &mut findings);
    }
    vfio(root, limits, &mut findings);
    iommufd(root, &mut findings);
    memory(root, request, limits, &mut findings);
    for sbdf in request.devices {
        findings.device = Some(*sbdf);
        device::check(root, request, *sbdf, limits, &mut findings);
    }
    findings.found
}

fn kvm_node(root: &HostRoot, limits: &dyn ProcessLimits, findings: &mut Findings) {
    const TOPIC: &str = "KVM";
    match kvm::check(root, limits) {
        Ok(None) => {
            let extension = match root.cpu_vendor() {
                CpuVendor::Intel => "VT-x",
                CpuVendor::Amd => "AMD-V",
                CpuVendor::Other => "the CPU's virtualisation",
            };
            findings.tell(
                Mark::Good,
                TOPIC,
                format!("{extension}, /dev/kvm can be opened"),
            );
        }
        Ok(Some(obstacle)) => findings.problem(TOPIC, &obstacle.problem()),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

/// Whether there are any.
fn iommu_units(root: &HostRoot, request: &CheckRequest<'_>, findings: &mut Findings) -> bool {
    const TOPIC: &str = "IOMMU";
    let units = match root.names("sys/class/iommu") {
        Ok(units) => units,
        Err(error) => {
            findings.unreadable(TOPIC, &error);
            return false;
        }
    };
    let Some(first) = units.first() else {
        match any_function(root, request).map(|sbdf| iommu::explain_absence(root, sbdf)) {
            Some(Ok(obstacle)) => findings.problem(TOPIC, &obstacle.problem()),
            Some(Err(error)) => findings.unreadable(TOPIC, &error),
            None => findings.tell(
                Mark::Bad,
                TOPIC,
                "there is no PCI device it could translate",
            ),
        }
        return false;
    };
    let name = match first.as_str() {
        unit if unit.starts_with("dmar") => "VT-d",
        unit if unit.starts_with("ivhd") => "AMD-Vi",
        _ => "an IOMMU",
    };
    let groups = root.names("sys/kernel/iommu_groups").unwrap_or_default();
    let (units, groups_text) = (counted(units.len(), "unit"), counted(groups.len(), "group"));
    let domains = host_domains(root, &groups);
    let fact = format!("{name}: {units}, {groups_text}{domains}");
    findings.tell(Mark::Good, TOPIC, fact);
    true
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// A function to ask for what is the same for all: its name is in a text that is left out.
fn any_function(root: &HostRoot, request: &CheckRequest<'_>) -> Option<HostSbdf> {
    let asked = request.devices.first().copied();
    asked.or_else(|| Some(root.functions().ok()?.first()?.sbdf))
}

/// How the kernel has its own devices translated: the types of the groups' default domains
/// (`iommu_group_show_type` of drivers/iommu/iommu.c).
fn host_domains(root: &HostRoot, groups: &[String]) -> String {
    let ids = groups.iter().filter_map(|name| name.parse().ok());
    let mut types: Vec<_> = ids
        .map(|id| root.text_or_empty(group::directory(id).join("type")))
        .filter(|text| !text.is_empty())
        .collect();
    types.sort();
    types.dedup();
    if types.is_empty() {
        return String::new();
    }
    format!("; the host's own domains: {}", types.join(", "))
}

fn interrupt_remapping(root: &HostRoot, request: &CheckRequest<'_>, findings: &mut Findings) {
    const TOPIC: &str = "interrupt remapping";
    let off = match root.interrupt_remapping() {
        Err(error) => return findings.unreadable(TOPIC, &error),
        Ok(InterruptRemapping::On) => return findings.tell(Mark::Good, TOPIC, "on"),
        Ok(InterruptRemapping::Unknown) => {
            let fact = "nothing here shows whether it is on; VFIO refuses devices if it is not";
            return findings.tell(Mark::Caution, TOPIC, fact);
        }
        Ok(InterruptRemapping::Off(off)) => off,
    };
    if root.allows_unsafe_interrupts() {
        let fact = "off, and vfio_iommu_type1 was told not to mind: a guest's device can send the host any interrupt";
        return findings.tell(Mark::Caution, TOPIC, fact);
    }
    let Some(sbdf) = any_function(root, request) else {
        return findings.tell(Mark::Bad, TOPIC, "off");
    };
    let obstacle = RemappingObstacle {
        sbdf,
        off: Some(off),
        amd_vi: root.has_amd_vi(),
    };
    findings.problem(TOPIC, &obstacle.problem());
}

fn vfio(root: &HostRoot, limits: &dyn ProcessLimits, findings: &mut Findings) {
    const TOPIC: &str = "VFIO";
    let driver = root.exists("sys/bus/pci/drivers/vfio-pci");
    match vfio_node::check_container(root, limits) {
        Ok(None) if driver => {
            findings.tell(
                Mark::Good,
                TOPIC,
                "vfio-pci is there, /dev/vfio/vfio can be opened",
            );
        }
        Ok(Some(obstacle))
            if driver || !matches!(obstacle, VfioNodeObstacle::NoContainer { .. }) =>
        {
            findings.problem(TOPIC, &obstacle.problem());
        }
        Ok(_) => findings.problem(
            TOPIC,
            &Problem::new(
                "",
                "the vfio-pci module is not loaded",
                "sudo modprobe vfio-pci",
            ),
        ),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

/// The other way to VFIO, which Ferry does not take: nobody has to do anything about it.
fn iommufd(root: &HostRoot, findings: &mut Findings) {
    let fact = match root.exists("sys/class/misc/iommu") {
        true => "there, and not used: Ferry goes by VFIO's container",
        false => "not there, and not needed: Ferry goes by VFIO's container",
    };
    findings.tell(Mark::Good, "iommufd", fact);
}

fn memory(
    root: &HostRoot,
    request: &CheckRequest<'_>,
    limits: &dyn ProcessLimits,
    findings: &mut Findings,
) {
    let Some(guest_ram) = request.guest_ram else {
        return;
    };
    const LOCKED: &str = "locked memory";
    match memlock::check(guest_ram, limits) {
        None => findings.tell(
            Mark::Good,
            LOCKED,
            "the limit is high enough for that much guest RAM",
        ),
        Some(obstacle) => findings.problem(LOCKED, &obstacle.problem()),
    }
    let Some(size) = request.huge_pages else {
        return;
    };
    const HUGE: &str = "huge pages";
    match huge_pages::check(root, guest_ram, size) {
        Ok(None) => findings.tell(Mark::Good, HUGE, format!("enough of {size} are free")),
        Ok(Some(obstacle)) => findings.problem(HUGE, &obstacle.problem()),
        Err(error) => findings.unreadable(HUGE, &error),
    }
}

#[cfg(test)]
mod tests;
