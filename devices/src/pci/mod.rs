//! The PCI view that a guest has: one segment, bus 0.

mod bdf;
mod function;

pub use bdf::{BdfError, GuestBdf, HostSbdf};
pub use function::{
    BarIndex, BarKind, BarLayout, BarSegment, ConfigOffset, ConfigStep, HardwareWrite, PciFunction,
    ResetError,
};
