//! Ends of a guest that somebody else wants: by its power button, or without asking it.

use crate::{listen_to_button, served, small};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use tests::{Api, Guest, MOMENT, figure, told, until};

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

/// As many clients as there may be, but for one. Each has always asked for more than is answered, until nobody answers.
fn pester(api: &Api) -> Vec<thread::JoinHandle<usize>> {
    const AT_ONCE: usize = 40;
    let client = |socket: PathBuf| {
        let mut answered = 0;
        let Ok(mut stream) = UnixStream::connect(socket) else {
            return answered;
        };
        let stats = b"GET /api/v1/ferry.stats HTTP/1.1\r\n\r\n".repeat(AT_ONCE);
        let (mut asked, mut text) = (0, Vec::new());
        loop {
            if asked < answered + AT_ONCE {
                if stream.write_all(&stats).is_err() {
                    return answered;
                }
                asked += AT_ONCE;
            }
            let mut bytes = [0; 1 << 16];
            match stream.read(&mut bytes) {
                Ok(count @ 1..) => text.extend_from_slice(&bytes[..count]),
                _ => return answered,
            }
            // What is left may be the beginning of the next answer's first words.
            let parts = String::from_utf8_lossy(&text).into_owned();
            answered += parts.matches("HTTP/1.1 ").count();
            text.drain(..text.len().saturating_sub("HTTP/1.1".len()));
        }
    };
    let clients = (0..7).map(|_| api.socket());
    let clients = clients.map(|socket| thread::spawn(move || client(socket)));
    clients.collect()
}

#[test]
fn clients_that_never_stop_asking_keep_nobody_from_ending_a_guest() {
    // Also its own end, and a deadline.
    type End = fn(&mut Guest) -> Option<Signal>;
    let ends: [(End, i32); 3] = [
        (|_| Some(Signal::INT), 10),
        (|_| Some(Signal::TERM), 10),
        (
            |guest| {
                guest.begin("poweroff -f");
                None
            },
            0,
        ),
    ];
    for (end, code) in ends {
        let api = Api::new();
        let run = small().option("--stop-timeout", "1");
        let mut guest = api.of(run).boot();
        let clients = pester(&api);
        thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        if let Some(signal) = end(&mut guest) {
            guest.ferry().signal(signal);
        }
        assert_eq!(guest.ferry_mut().exit(MOMENT), code);
        let ended = started.elapsed();
        let asked: usize = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum();
        figure(&format!(
            "exit code {code} after {ended:?}, {asked} answers"
        ));
        assert!(asked > 0 && ended < Duration::from_secs(5), "{ended:?}");
    }
}

#[test]
fn stop_ends_a_guest_for_whose_end_others_wait() {
    let (mut guest, api) = served();
    listen_to_button(&mut guest);
    let wait = || {
        let mut wait = api.command(&["wait"]);
        let wait = wait.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        wait.unwrap()
    };
    let waiting: Vec<_> = (0..6).map(|_| wait()).collect();
    thread::sleep(Duration::from_secs(1));
    api.ok(&["stop"]);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 0);
    for wait in waiting {
        assert_eq!(told(wait.wait_with_output()).code, Some(0));
    }
}

#[test]
fn stop_of_a_stopped_ferry_gives_up_in_the_time_given() {
    let (mut guest, api) = served();
    guest.ferry().signal(Signal::STOP);
    let started = Instant::now();
    let stop = api.ferry(&["stop", "--timeout", "2"]);
    assert_eq!(stop.code, Some(4), "{stop:?}");
    assert!(stop.errors.contains("--timeout SECONDS"), "{stop:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    guest.ferry().signal(Signal::CONT);
    api.ok(&["info"]);
    guest.stop();
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
