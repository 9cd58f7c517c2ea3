//! What a guest gets of its devices beside registers and interrupts: expansion ROMs, resets, and devices that the host's
//! IOMMU can't tell apart.
//!
//! Booting takes most of the time, so one guest is asked everything and each test looks at one fact of the answers.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod bridge;
mod guest;
mod lines;
mod resets;
mod rom;
