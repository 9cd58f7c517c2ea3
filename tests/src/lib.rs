//! What the end-to-end tests have in common: Ferry as a process, its guest as a shell, the host's
//! devices, and the other end of the wire.
//!
//! The tests run as root on a machine with an IOMMU and `/dev/kvm`: the emulated one of `cargo ci lab`,
//! or a real one. [`site`] says which devices and images they take. They run one at a time
//! (`--test-threads=1`), because all of them want the same devices.
//!
//! Every wait ends at a deadline, and one that fails says where the guest stopped. Nothing here retries:
//! what works the second time only is broken. What can't go on panics, which fails the test.
//!
//! Deliberately absent: knowledge of the lab machine beyond its default device addresses, and any call
//! into Ferry's own crates. A test sees what a user sees.
#![expect(
    clippy::panic,
    reason = "a harness that can't go on fails the test that uses it"
)]

mod api;
mod census;
mod checked;
mod deadline;
mod edu;
mod ferry;
mod figures;
mod guest;
mod host_device;
mod kernel_log;
mod monitor;
mod node;
mod peer;
mod refusal;
pub mod site;
mod terminal;
mod transcript;

pub use api::{Api, Told, exchange, told};
pub use census::{Census, assert_no_growth};
pub use checked::Checked;
pub use deadline::{BOOT, MOMENT, until};
pub use edu::Edu;
pub use ferry::{Ferry, GUEST_RAM, Run};
pub use figures::{Exits, Figures};
pub use guest::{CommandOutput, Guest};
pub use host_device::{Assigned, HostDevice};
pub use kernel_log::KernelLog;
pub use monitor::pull;
pub use node::Lent;
pub use peer::{Exchange, Flood, Peer, noise};
pub use refusal::{AS_USER, Attempt, Problem, Rebound, USER, load_driver, shell};
pub use terminal::{Modes, Terminal};
pub use transcript::{Silence, Transcript};

/// Prints a figure that belongs into the log of a run that succeeds, too: the test runner keeps back
/// only what goes through the print macros.
pub fn figure(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "\n    {text}");
}
