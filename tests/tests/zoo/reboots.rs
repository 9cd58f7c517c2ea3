//! A guest may reboot as often as it likes: Ferry holds no more of the host afterwards.

use std::panic;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Instant;
use tests::site::{self, Kernel};
use tests::{Census, assert_no_growth};
use tests::{Guest, Run, figure};

/// How often the guest reboots.
const REBOOTS: u32 = 20;

/// Held by a guest that has the pair of e1000e.
pub(crate) static PAIR: Mutex<()> = Mutex::new(());

static REBOOTED: LazyLock<[Census; 2]> = LazyLock::new(|| {
    let _pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let pair = site::devices("pair");
    let [first, second] = [0, 1].map(|index: usize| pair[index].assign());
    let mut guest = Run::new(Kernel::Elf)
        .memory("256M")
        .modules("e1000e")
        // Function 0 by its line, function 1 by MSI-X.
        .cmdline("e1000e.IntMode=0,2")
        .device(&first, ",addr=1.0")
        .device(&second, ",addr=1.1")
        .boot();
    let boot = |guest: &mut Guest| {
        guest.begin("reboot -f");
        guest.wait_for_shell();
        // Interrupts of both, which the next reboot cuts off.
        guest.ok("ip link set eth0 up; ip link set eth1 up");
    };
    boot(&mut guest);
    let before = Census::of(&guest);
    let started = Instant::now();
    for _ in 0..REBOOTS {
        boot(&mut guest);
    }
    let after = Census::of(&guest);
    assert_eq!(
        guest.figures().number("/boots"),
        u64::from(REBOOTS) + 2,
        "{}",
        guest.ferry().state()
    );
    guest.stop();
    figure(&format!(
        "{REBOOTS} reboots in {} s: {before:?}, then {after:?}",
        started.elapsed().as_secs()
    ));
    [before, after]
});

/// Starts what takes longest, for another guest with other devices to run beside it.
pub(crate) fn reboot_in_the_background() {
    thread::spawn(|| {
        // The test that looks at it would only tell that it failed, not why.
        if let Err(why) = panic::catch_unwind(|| LazyLock::force(&REBOOTED)) {
            let why = why.downcast_ref::<String>().map_or("?", String::as_str);
            figure(&format!("the guest that is rebooted failed: {why}"));
        }
    });
}

#[test]
fn twenty_leave_nothing_behind() {
    let [before, after] = &*REBOOTED;
    assert_no_growth(before, after);
}
