//! The lab machine (L1): an emulated PC with a VT-d IOMMU, nested virtualisation and real-looking PCI devices.
//!
//! QEMU emulates both the IOMMU and AMD's SVM, so a stock Debian kernel in L1 has `/dev/kvm`, IOMMU groups and vfio-pci
//! on any host, and DMA of an assigned device really is translated. Nothing in L1 can change the host: it sees the
//! Debian tree, the repository, the target folder and the cache through read-only shares at their own paths.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let topology = ci::lab::topology("nic")?;
//! let outcome = ci::lab::Machine::builder(topology).command(["lspci", "-nn"]).run()?;
//! assert_eq!(outcome.status, 0);
//! # Ok(())
//! # }
//! ```

mod accel;
mod job;
mod machine;
mod qemu;
mod session;
mod stream;
mod topology;

pub use accel::Accel;
pub use machine::{Logs, Machine, MachineBuilder, Outcome};
pub use session::Expired;
pub use topology::{Part, TOPOLOGIES, Topology, topology};

/// The emulator, in the Debian tree.
pub(crate) const QEMU: &str = "usr/bin/qemu-system-x86_64";
