//! Reboot, power-off, sudden death: the device works afterwards.

use crate::guests::{killed, large, plain};

#[test]
fn network_works_again_after_a_reboot() {
    let again = &plain().again;
    assert_eq!(again.driver, "igb");
    assert!(again.ping.contains(" 0% packet loss"), "{}", again.ping);
    let exits = &again.exchange.exits;
    assert_eq!(exits.total(), 0, "{exits}");
}

#[test]
fn interrupts_of_both_boots_are_counted() {
    for (vector, (first, again)) in plain()
        .first
        .after
        .iter()
        .zip(&plain().again.after)
        .enumerate()
    {
        let host = plain().again.host[&format!("msix {vector}")];
        assert!(host >= first.count + again.count, "vector {vector}: {host}");
    }
}

#[test]
fn power_off_ends_with_0() {
    assert_eq!(plain().exit, 0);
}

/// It pinged there, or there would be no answers.
#[test]
fn host_has_its_card_back_after_a_power_off() {
    let [before, after] = &plain().drivers;
    assert_eq!(before, after);
    assert_eq!(after.as_deref(), Some("igb"));
}

#[test]
fn card_of_a_killed_ferry_can_be_assigned_at_once_and_works() {
    let next = &killed().next;
    assert_eq!(next.driver, "igb");
    assert!(next.ping.contains(" 0% packet loss"), "{}", next.ping);
    let exits = &next.exchange.exits;
    assert_eq!(exits.total(), 0, "{exits}");
}

#[test]
fn nothing_is_said_when_all_is_well() {
    assert_eq!(large().messages, "");
}
