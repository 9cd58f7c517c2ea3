//! The PCI view that a guest has: one segment, bus 0.

pub mod access;
pub mod access_control;
pub mod advanced_features;
pub mod bar;
mod bdf;
pub mod capability;
pub mod express;
mod function;
pub mod header;
mod host_bridge;
pub mod msi;
pub mod msix;
mod segment;

pub use bar::{BarError, BarSet};
pub use bdf::{BdfError, GuestBdf, HostSbdf};
pub use function::{
    BarIndex, BarKind, BarLayout, BarSegment, ConfigOffset, ConfigStep, HardwareWrite, PciFunction,
    ResetError,
};
pub use host_bridge::HostBridge;
pub use segment::{ConfigWrite, Occupied, PciSegment};
