//! A guest may take drivers away and give them back as often as it likes: Ferry holds no more of the host afterwards.

use crate::modes::{self, Mode};
use crate::power::{self, Slept};
use crate::reboots::PAIR;
use std::sync::{LazyLock, PoisonError};
use std::time::{Duration, Instant};
use tests::site::{self, Kernel};
use tests::{Census, assert_no_growth};
use tests::{Guest, Peer, Run, figure};

/// How often a driver is taken from its device and given back.
const REBINDS: u32 = 50;
/// The most that may take.
const REBINDING: Duration = Duration::from_secs(90);

/// Where the guest has its devices.
const E1000: &str = "0000:00:01.0";
const E1000E: &str = "0000:00:02.0";

/// Takes the guest's driver from a function and gives it back, many times; counts before and after.
fn rebind(what: &str, guest: &mut Guest, driver: &str, address: &str) -> [Census; 2] {
    let once =
        format!("cd /sys/bus/pci/drivers/{driver}; echo {address} > unbind; echo {address} > bind");
    // The first time is not counted: the allocator has seen nothing like it yet.
    guest.ok(&once);
    let before = Census::of(guest);
    let started = Instant::now();
    guest.begin(&format!(
        "for i in $(seq {REBINDS}); do {once} || exit 1; done"
    ));
    let output = guest.end(REBINDING);
    assert_eq!(output.status, 0, "{output:?}");
    let after = Census::of(guest);
    figure(&format!(
        "{what}, {REBINDS} times off its driver and on in {} s: {before:?}, then {after:?}",
        started.elapsed().as_secs()
    ));
    [before, after]
}

struct Rebound {
    /// e1000 on INTx, e1000e on MSI-X; before and after.
    censuses: [[Census; 2]; 2],
    modes: Vec<Mode>,
    slept: Slept,
}

static REBOUND: LazyLock<Rebound> = LazyLock::new(|| {
    let _pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let [e1000, e1000e] = ["e1000", "pair"].map(|role| site::device(role).assign());
    let mut guest = Run::new(Kernel::Elf)
        .memory("256M")
        .modules("e1000,e1000e")
        .cmdline("iomem=relaxed")
        .device(&e1000, ",addr=1")
        .device(&e1000e, ",addr=2")
        .boot();
    let censuses = [
        rebind("e1000 (INTx)", &mut guest, "e1000", E1000),
        rebind("e1000e (MSI-X)", &mut guest, "e1000e", E1000E),
    ];
    let peer = Peer::of("eth1", 1);
    let modes = modes::switch(&mut guest, E1000E, &peer);
    let slept = power::sleep(&mut guest, E1000E, &peer);
    guest.stop();
    Rebound {
        censuses,
        modes,
        slept,
    }
});

/// How the e1000e worked by line and by MSI-X.
pub(crate) fn modes() -> &'static [Mode] {
    &REBOUND.modes
}

/// How the e1000e slept and woke.
pub(crate) fn slept() -> &'static Slept {
    &REBOUND.slept
}

#[test]
fn rebinding_drivers_leaves_nothing_behind() {
    for [before, after] in &REBOUND.censuses {
        assert_no_growth(before, after);
    }
}
