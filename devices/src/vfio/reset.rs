//! How the host puts a passed-through function into its state after power-on.
//!
//! The kernel resets a function alone where it can: by FLR, by a change of the power state, or through its bus if nothing
//! else is on it (`reset_method` in sysfs). Failing that there is the reset of a whole bus or slot, which the kernel carries
//! out for one who holds every group in it (`VFIO_DEVICE_PCI_HOT_RESET`).

use super::probe::VfioProbe;
use crate::host::ResetFacts;
use crate::pci::HostSbdf;

/// A function that a reset of the bus or slot hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffectedFunction {
    /// Its address.
    pub sbdf: HostSbdf,
    /// Its IOMMU group.
    pub group: u32,
}

/// The best that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResetPlan {
    /// The function alone, by the first of these that works.
    Function(Vec<String>),
    /// All of these together. They are this machine's.
    Bus(Vec<AffectedFunction>),
    /// Nothing, for this reason.
    None(String),
}

impl ResetPlan {
    pub(super) fn new(probe: &VfioProbe, facts: &ResetFacts) -> Self {
        let ResetFacts { methods, others } = facts;
        if probe.resettable() {
            Self::Function(methods.clone())
        } else if probe.bus_reset.is_empty() {
            Self::None("the host knows no way to reset it, alone or with its bus".to_owned())
        } else if others.is_empty() {
            Self::Bus(probe.bus_reset.clone())
        } else {
            Self::None(format!(
                "it can't be reset alone, and a reset of its bus would hit {}",
                others.join(", ")
            ))
        }
    }

    /// In words, for `ferry run -v`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Function(methods) if methods.is_empty() => "reset: of the function".to_owned(),
            Self::Function(methods) => format!("reset: of the function, by {}", methods.join(", ")),
            Self::Bus(affected) => {
                format!("reset: of its bus, with all on it: {}", names(affected))
            }
            Self::None(why) => format!("reset: none: {why}"),
        }
    }
}

/// The addresses of `functions`.
pub(super) fn names(functions: &[AffectedFunction]) -> String {
    let names: Vec<_> = functions.iter().map(|f| f.sbdf.to_string()).collect();
    names.join(", ")
}

/// The groups of `functions`, each once.
pub(super) fn groups(functions: &[AffectedFunction]) -> Vec<u32> {
    let mut groups: Vec<u32> = functions.iter().map(|function| function.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
