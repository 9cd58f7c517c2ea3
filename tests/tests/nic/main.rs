//! A guest drives the devices it was given, and nothing else.
//!
//! Booting takes most of the time, so each guest is asked everything at once ([`guests`]) and each test
//! looks at one fact of the answers.
//!
//! | Guest | vCPUs, RAM | Devices | Ends by |
//! |---|---|---|---|
//! | [`guests::plain`] | 1, 512 MiB | network card | reboot, power-off |
//! | [`guests::large`] | 2, 5 GiB | network card, disk, edu | SIGINT |
//! | [`guests::killed`] | 4, 512 MiB | network card | SIGKILL in the middle of a transfer |
//! | [`guests::wired`] | 1, 512 MiB | network card and edu, without MSI for drivers | SIGINT |
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod confinement;
mod disk;
mod drive;
mod guests;
mod interrupts;
mod lifecycle;
mod network;
mod shape;
