//! VFIO: probing a host function, planning its passthrough, and carrying the plan out.
//!
//! [`OpenedDevice::open`] gets the device, [`VfioProbe::read`] reads everything about it,
//! [`PassthroughPlan::new`] decides everything, [`VfioPciDevice::realise`] does it.

mod bar;
mod config;
mod container;
mod fields;
mod function;
mod group;
mod host;
mod irq;
mod motion;
mod passed;
mod peer;
mod plan;
mod probe;
mod reset;
mod rom;
mod saved;
mod state;
mod sys;
#[cfg(all(fuzzing, not(test)))]
mod tests;
#[cfg(test)]
mod tests;
mod traps;

pub use bar::BarError;
pub use container::{ContainerError, DmaLimits, MappedRam, VfioContext};
pub use function::VfioPciDevice;
pub use group::{GroupError, GroupObserver};
pub use motion::Motion;
pub use passed::{PassedDescriptors, PassedGroup};
pub use plan::{PassthroughPlan, PassthroughSpec, PlanError};
pub use probe::{IrqLine, MappableArea, OpenedDevice, Region, VfioError, VfioProbe};
pub use reset::AffectedFunction;
pub use rom::{RomChoice, RomImage, RomImageError};
pub use saved::SavedProbeError;
pub use traps::{BarTraps, TrapCounts, TrapPlace};

#[cfg(fuzzing)]
pub use tests::run_guest_program;
