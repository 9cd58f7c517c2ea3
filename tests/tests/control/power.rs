//! Ends of a guest that somebody else wants: by its power button, or without asking it.

use crate::{listen_to_button, served, small};
use rustix::process::Signal;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use tests::{MOMENT, told, until};

#[test]
fn the_power_button_turns_off_a_guest_that_listens() {
    let (mut guest, api) = served();
    listen_to_button(&mut guest);
    api.ok(&["power-button"]);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 0);
    assert!(!api.socket().exists());
}

#[test]
fn stop_presses_the_button_and_wait_tells_how_the_guest_ended() {
    let (mut guest, api) = served();
    listen_to_button(&mut guest);
    let mut wait = api.command(&["wait"]);
    let waiting = wait.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let waiting = waiting.unwrap();
    api.ok(&["stop"]);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 0);
    assert_eq!(told(waiting.wait_with_output()).code, Some(0));
}

#[test]
fn stop_gives_up_on_a_deaf_guest_and_by_force_ends_it() {
    let (mut guest, api) = served();
    let mut wait = api.command(&["wait"]);
    let waiting = wait.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let waiting = waiting.unwrap();
    let deaf = api.ferry(&["stop", "--timeout", "2"]);
    assert_eq!(deaf.code, Some(4), "{deaf:?}");
    assert_eq!(deaf.errors.lines().count(), 3, "{deaf:?}");
    guest.ok("true");
    api.ok(&["pause"]);
    api.ok(&["stop", "--force"]);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 10);
    assert_eq!(told(waiting.wait_with_output()).code, Some(10));
    let gone = api.ferry(&["info"]);
    assert_eq!(gone.code, Some(4), "{gone:?}");
    assert!(
        gone.errors.starts_with("ferry: no guest answers at"),
        "{gone:?}"
    );
}

#[test]
fn sigterm_lets_a_guest_power_itself_off() {
    let mut guest = small().boot();
    listen_to_button(&mut guest);
    guest.ferry().signal(Signal::TERM);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 0);
}

#[test]
fn sigterm_ends_a_guest_that_does_not_heed_it_after_the_time_given() {
    let mut guest = small().option("--stop-timeout", "3").boot();
    let started = Instant::now();
    guest.ferry().signal(Signal::TERM);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 10);
    assert!(started.elapsed() >= Duration::from_secs(3));
    let errors = guest.ferry().errors().text();
    assert!(
        errors.contains("has not powered itself off in time"),
        "{errors}"
    );
}

#[test]
fn a_second_sigterm_ends_the_guest_at_once() {
    let mut guest = small().option("--stop-timeout", "3600").boot();
    guest.ferry().signal(Signal::TERM);
    // It runs on meanwhile.
    guest.ok("true");
    guest.ferry().signal(Signal::TERM);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 10);
}

#[test]
fn sigterm_ends_a_paused_guest_at_once() {
    let (mut guest, api) = served();
    api.ok(&["pause"]);
    guest.ferry().signal(Signal::TERM);
    assert_eq!(guest.ferry_mut().exit(Duration::from_secs(10)), 10);
}

#[test]
fn sighup_does_not_end_a_guest() {
    let mut guest = small().boot();
    guest.ferry().signal(Signal::HUP);
    guest.ok("true");
    guest.stop();
}

#[test]
fn a_guest_that_powers_off_while_it_is_paused_and_resumed_ends_once() {
    let (mut guest, api) = served();
    guest.begin("poweroff -f");
    let socket = api.socket();
    until("the guest's end", MOMENT, || {
        let _ = api.ferry(&["pause"]);
        thread::sleep(Duration::from_millis(20));
        let _ = api.ferry(&["resume"]);
        (!socket.exists()).then_some(())
    });
    assert_eq!(guest.ferry_mut().exit(MOMENT), 0);
}

#[test]
fn a_name_is_enough_to_find_a_guest() {
    let mut guest = small().option("--name", "control-test").boot();
    let ferry = |words: &[&str]| {
        let output = std::process::Command::new(tests::site::ferry())
            .args(words)
            .output();
        told(output)
    };
    let info = ferry(&["info", "control-test"]);
    assert_eq!(info.code, Some(0), "{info:?}");
    let again = ferry(&["stop", "control-test", "--force"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(guest.ferry_mut().exit(MOMENT), 10);
}
