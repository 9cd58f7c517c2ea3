//! The chores of the Ferry project, run as `cargo ci …`.
//!
//! A contributor needs nothing but a Rust toolchain and a Debian-like machine: this crate fetches a Debian tree into a
//! private cache folder, builds boot images from it, and starts the *lab machine* (L1), an emulated PC with a VT-d
//! IOMMU, nested virtualisation and PCI devices to pass through. Ferry then runs inside L1 and boots its guests (L2).
//!
//! The crate never installs anything on the host, never needs root for its own work, and writes only to the cache
//! folder, the cargo target folder and a temporary folder.
//!
//! - [`workspace`]: where the repository and the target folder are.
//! - [`cache`]: the cache folder, its lock, and results that appear whole or not at all.
//! - [`debian`]: Debian packages without root; [`program`]: running what they hold.
//! - [`provision`] and [`site`]: what is fetched and built, and all of it together; `emulator`: QEMU's defect corrected.
//! - [`image`]: initramfs images and kernels.
//! - [`lab`]: topologies and the machine itself. Start with [`lab::Machine::builder`].
//! - [`lint`]: the house rules; [`suite`]: running tests and counting them.
//! - [`demo`] and [`mod@bench`]: Ferry shown and measured; [`borrowed`] and [`ferry_process`] are what both need.
//! - [`cli`]: the command line.

pub mod bench;
pub mod borrowed;
pub mod cache;
pub mod cli;
pub mod debian;
pub mod demo;
pub mod dist;
mod emulator;
pub mod ferry_process;
pub mod image;
pub mod lab;
pub mod lint;
pub mod program;
pub mod provision;
pub mod site;
pub mod suite;
pub mod workspace;
