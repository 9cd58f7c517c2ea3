//! Device models and buses of Ferry.
//!
//! A device here knows the PCI, VFIO and legacy-PC specifications and nothing of the machine that
//! holds it: it reaches KVM, guest memory and the control thread only through the traits of
//! [`interrupt`], [`memory`] and [`machine`], which the `vmm` crate implements.
//!
//! Deliberately absent: KVM file descriptors, guest RAM, threads, address allocation, policy about
//! what a user may assign.
//!
//! Locks: each device guards its own state with one `Mutex`. While holding it a device calls nothing
//! but leaves, which never call back: the vectors and lines of [`interrupt`], eventfds, its sink. What
//! a guest's config write asks of the machine is returned as a list of [`pci::ConfigStep`]s, which the
//! caller carries out holding no device's lock; a lock inversion can therefore not be written. The
//! caller also lets one config write and its steps end before it starts the next one's.
//! No device here owns a thread.

pub mod acpi;
pub mod bus;
pub mod driver;
pub mod failures;
pub mod host;
pub mod interrupt;
pub mod legacy;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod pci;
pub mod vfio;
