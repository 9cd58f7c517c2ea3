//! What a program, or a person with other commands than `ferry run`, can do with a running guest.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod counters;
mod events;
mod hostile;
mod life;
mod power;
mod screen;
mod socket;

use tests::site::Kernel;
use tests::{Api, Guest, Run};

/// A guest without devices.
fn small() -> Run {
    Run::new(Kernel::Elf)
}

/// Has the guest power itself off when its button is pressed.
fn listen_to_button(guest: &mut Guest) {
    guest.ok("modprobe -a button evdev");
    // Several programs may want to hear of it; the kernel has one input device a button.
    guest.ok("for event in /dev/input/event*; do { head -c 24 $event > /dev/null && poweroff -f; } & done");
    // A press that comes before a program listens is nobody's.
    guest.ok("for event in /dev/input/event*; do until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q \"$event\\$\"; do sleep 0.1; done; done");
}

/// A guest without devices that answers, and its API.
fn served() -> (Guest, Api) {
    let api = Api::new();
    let guest = api.of(small()).boot();
    (guest, api)
}
