//! Why a run can't work, before anything is opened or changed.

use super::limits::ProcessLimits;
use super::problem::Problem;
use super::root::HostRoot;
use crate::pci::HostSbdf;

/// What a run needs of the host.
#[derive(Clone, Copy, Debug)]
pub struct RunRequirements<'a> {
    /// Functions to assign.
    pub devices: &'a [HostSbdf],
    /// Bytes of guest RAM; all of it is pinned as soon as one device is assigned.
    pub guest_ram: u64,
}

/// Checks all that can be known without opening a node.
///
/// # Errors
/// Every problem found, in the order a user would solve them.
pub fn preflight(
    root: &HostRoot,
    requirements: &RunRequirements<'_>,
    limits: &dyn ProcessLimits,
) -> Result<(), Vec<Problem>> {
    let _ = (root, requirements, limits);
    Ok(())
}
