//! A report of a host: all that `ferry check` and `ferry devices` read of it, fit to be shown to others, and read again in
//! the place of the host.

mod config;
mod format;
mod masks;
mod process;
mod pseudonyms;
mod text;

pub use format::ReportError;
pub use process::ReportedProcess;

use super::answers::Answers;
use super::check::{CheckRequest, check};
use super::huge_pages::HugePageSize;
use super::limits::ProcessLimits;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;
use process::{Noted, ProcessFacts};
use std::sync::Arc;

/// What a host and a process on it have answered, without what is nobody's business.
#[derive(Clone, Debug)]
pub struct HostReport {
    process: ProcessFacts,
    answers: Arc<Answers>,
}

impl HostReport {
    /// Asks all that there is to be asked, and `also`, of a host for a process; `is_root` says whether that is root's.
    pub fn of(
        root: &HostRoot,
        process: &dyn ProcessLimits,
        is_root: bool,
        also: impl FnOnce(&HostRoot),
    ) -> Self {
        let root = root.recording();
        // What fails is in the report, too.
        let _ = ask(&root, process);
        also(&root);
        Self {
            process: ProcessFacts {
                root: is_root,
                memlock: process.memlock(),
                exempt: process.exempt_from_memlock(),
            },
            answers: Arc::new(masks::masked(&root.noted())),
        }
    }

    /// The host that it is of.
    #[must_use]
    pub fn root(&self) -> HostRoot {
        HostRoot::of_report(Arc::clone(&self.answers))
    }

    /// The process that made it.
    #[must_use]
    pub fn process(&self) -> ReportedProcess {
        ReportedProcess {
            facts: self.process,
            answers: Arc::clone(&self.answers),
        }
    }

    /// How many answers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Lists and checks every function, alone and with all others: what is asked of one may depend on whose company it is in.
fn ask(root: &HostRoot, process: &dyn ProcessLimits) -> Result<(), HostError> {
    let process = Noted { process, root };
    let all: Vec<HostSbdf> = root.addresses()?;
    let (small, large) = (HugePageSize::Mib2, HugePageSize::Gib1);
    let alone = all.chunks(1).map(|one| (one, small));
    for (devices, size) in alone.chain([(all.as_slice(), small), (all.as_slice(), large)]) {
        let request = CheckRequest {
            devices,
            // More than there is: the limits are asked for only where they may be too low.
            guest_ram: Some(u64::MAX),
            huge_pages: Some(size),
        };
        let _ = check(root, &request, &process);
    }
    let inventory = root.inventory();
    let functions: Vec<_> = all
        .iter()
        .filter_map(|sbdf| root.function(*sbdf).ok())
        .collect();
    let _ = root.pci_names(&functions);
    // Asked for only where something is wrong, and worth knowing anyway.
    let _ = (root.cpu_vendor(), root.physical_bits());
    let _ = (root.kernel_version(), root.kernel_argument("iommu"));
    let _ = root.interrupt_remapping();
    let _ = root.names("sys/firmware/acpi/tables");
    inventory.map(|_| ())
}

/// Letters that a terminal obeys instead of showing them, and those that turn text around.
fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod hosts;
#[cfg(test)]
mod tests;
