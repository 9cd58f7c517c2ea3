//! Devices that come and go while their guest runs, by commands of `ferry` and requests to its API.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod cycles;
mod joins;
mod leaves;
mod refusals;
mod returns;

use tests::site::Kernel;
use tests::{Api, Guest, MOMENT, Run, until};

/// For the kernel's command line: what drivers say of a device that comes or goes must not come between the answers.
const QUIET: &str = "loglevel=1";

/// A guest without devices that has the drivers for those to come.
fn bare() -> Run {
    Run::new(Kernel::Elf).modules("igb,nvme").cmdline(QUIET)
}

/// Such a guest that answers, and its API.
fn served() -> (Guest, Api) {
    let api = Api::new();
    let guest = api.of(bare()).boot();
    (guest, api)
}

/// Waits until the guest has something at a path.
#[track_caller]
fn appears(guest: &mut Guest, path: &str) {
    until(&format!("{path} in the guest"), MOMENT, || {
        (guest.run(&format!("test -e {path}")).status == 0).then_some(())
    });
}

/// Waits until a device at `place` on the guest's bus has a driver.
#[track_caller]
fn is_driven(guest: &mut Guest, place: &str) {
    appears(
        guest,
        &format!("/sys/bus/pci/devices/0000:00:{place}/driver"),
    );
}
