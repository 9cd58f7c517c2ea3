//! What can't work ends before the guest starts: with an exit code, one line of what, one of why and
//! one of what to do, and with the host as it was. Where the last line has a command, it is pasted and
//! helps.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod checks;
mod devices;
mod kernels;
mod kvm;
mod limits;
mod options;
mod reports;

/// The command line is wrong.
const USAGE: i32 = 2;
/// The host can't run this guest.
const HOST_SET_UP: i32 = 4;

/// Stops a run behind all that concerns devices and limits: the next problem is this one.
const NO_INITRAMFS: [&str; 2] = ["--initramfs", "/nonexistent/initrd"];

/// The run got as far as the initramfs.
#[track_caller]
fn got_past(run: tests::Attempt) {
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells("/nonexistent/initrd can't be read", "", "");
}
