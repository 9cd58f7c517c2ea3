//! The host as sysfs, procfs and /dev show it: PCI functions, their drivers and IOMMU groups, and
//! [`preflight`], which says before anything is opened or changed why a run can't work.
//!
//! Everything here is a pure function of the tree below a [`HostRoot`] and of what
//! [`ProcessLimits`] answers, so a saved tree tests it. Nothing here writes, binds a driver or opens
//! a VFIO node: opening a group would race with its owner.
//!
//! Sources: Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups and
//! Documentation/driver-api/vfio.rst of Linux 6.12.

mod function;
mod group;
mod limits;
mod preflight;
mod problem;
mod root;

pub use function::HostFunction;
pub use group::{IommuGroup, ReservedRegion, ReservedRegionType};
pub use limits::{CurrentProcess, Memlock, NodeAccess, ProcessLimits, Verdict};
pub use preflight::{RunRequirements, preflight};
pub use problem::Problem;
pub use root::{HostError, HostRoot};
