//! The host as sysfs, procfs and /dev show it: PCI functions, their drivers and IOMMU groups, and
//! [`preflight`], which says before anything is opened or changed why a run can't work.
//!
//! Everything here is a pure function of the tree below a [`HostRoot`] and of what
//! [`ProcessLimits`] answers, so a saved tree tests it. Nothing here writes, binds a driver or opens
//! a VFIO node: opening a group would race with its owner.
//!
//! Sources: Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups and
//! Documentation/driver-api/vfio.rst of Linux 6.12.

mod answers;
mod bindable;
mod binding;
mod check;
mod cpu;
mod descriptor;
mod disk_holders;
mod function;
mod group;
mod holder;
mod huge_pages;
mod interrupt_line;
mod interrupts;
mod inventory;
mod iommu;
mod iova;
mod isolation;
mod kvm;
mod limits;
mod memlock;
mod names;
mod preflight;
mod problem;
mod remapping;
mod report;
mod reset;
mod root;
#[cfg(test)]
pub(crate) mod saved;
mod usage;
mod vfio_node;

pub use bindable::{BindRefusal, BindRequest, bindable};
pub use binding::{BindingObstacle, is_vfio};
pub use check::{CheckRequest, Finding, Mark, check};
pub use cpu::CpuVendor;
pub use descriptor::{Descriptor, inherited};
pub use function::HostFunction;
pub use group::{IommuGroup, ReservedRegion, ReservedRegionType};
pub use holder::{Holder, explain_busy};
pub use huge_pages::{HugePageSize, HugePagesObstacle, explain_huge_pages};
pub use interrupt_line::{InterruptLine, explain_shared_line};
pub use interrupts::{DeviceInterrupt, DeviceInterruptType, device_interrupts};
pub use inventory::{Hindrance, ListedFunction, Standing, Vectors, VirtualFunctions};
pub use iommu::IommuObstacle;
pub use iova::{ReservedCause, ReservedIova};
pub use kvm::KvmObstacle;
pub use limits::{CurrentProcess, Memlock, NodeAccess, ProcessLimits, Verdict};
pub use memlock::MemlockObstacle;
pub use names::PciNames;
pub use preflight::{Obstacle, RunRequirements, obstacles, preflight};
pub use problem::Problem;
pub use remapping::{InterruptRemapping, RemappingObstacle, RemappingOff, explain_eperm_on_attach};
pub use report::{HostReport, ReportError, ReportedProcess};
pub use reset::ResetFacts;
pub use root::{HostError, HostRoot};
pub use usage::HostUse;
