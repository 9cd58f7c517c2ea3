//! Devices leave while their guests run: the host wants them back, or they fail.
//!
//! | Guest | Devices | What happens |
//! |---|---|---|
//! | [`errors`] | igb | igb reports an uncorrectable error |
//! | [`unbound`], kernel 6.1 | edu and NVMe in one slot, igb | igb reports an error, edu is taken from vfio-pci |
//! | [`deaf`], does not know of slots | igb, NVMe | igb is taken from vfio-pci, then NVMe while the guest reboots |
//! | [`pulled`] | igb, NVMe | igb reports an error and is pulled out, NVMe is taken from vfio-pci, without patience |
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod deaf;
mod errors;
mod pulled;
mod unbound;
mod witness;
