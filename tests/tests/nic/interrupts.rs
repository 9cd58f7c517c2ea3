//! The older ways of interrupting: a line, and MSI.

use crate::guests::{RAISED, wired};

#[test]
fn a_card_on_intx_works() {
    let driven = &wired().driven;
    assert_eq!(driven.driver, "igb");
    assert!(driven.ping.contains(" 0% packet loss"), "{}", driven.ping);
    let [interrupt] = driven.after.as_slice() else {
        panic!("one line expected: {:#?}", driven.after);
    };
    assert_eq!(interrupt.chip, "IO-APIC");
    assert!(interrupt.count > 100, "{interrupt:?}");
    // A line that is still asserted when VFIO unmasks it is passed on without another interrupt of
    // the host, so the host may count fewer.
    let host = driven.host["intx 0"];
    assert!(host > 100, "{host} on the host, {interrupt:?}");
}

/// The end of interrupt reaches VFIO through the resample fd.
#[test]
fn intx_takes_no_exit_to_user_space() {
    let exits = &wired().driven.exchange.exits;
    assert_eq!(exits.total(), 0, "{exits}");
}

#[test]
fn every_msi_message_reaches_its_vector() {
    let [before, after] = wired().reschedules;
    assert_eq!(after - before, u64::from(RAISED));
    assert_eq!(wired().counted["msi 0"], u64::from(RAISED));
}

#[test]
fn msi_takes_no_exit_to_user_space() {
    for (name, count) in &wired().exits.0 {
        // The command comes and its end goes through the console.
        assert!(name.contains("serial"), "{name}: {count}");
    }
}
