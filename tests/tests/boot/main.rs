//! A guest boots, runs and ends as `ferry run` promises. No device is needed.
//!
//! Booting takes most of the time, so a guest is asked everything at once ([`guests`]) and each test
//! looks at one fact of the answers.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod guests;
mod kernels;
mod platform;
mod reset;
mod serial;
mod stats;
mod terminal;
