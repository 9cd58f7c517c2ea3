//! What Ferry changes on the host, and puts back: `ferry bind` and `ferry unbind`, `ferry vf`.
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod bind;
mod chosen;
mod managed;
mod passed;
mod refusals;
mod unbind;
mod unprivileged;
mod virtual_functions;

use std::path::PathBuf;
use tests::{Attempt, HostDevice, MOMENT};

/// The host can't do it.
const HOST_SET_UP: i32 = 4;

/// `ferry` with these words, which has to succeed; gives standard output and standard error.
#[track_caller]
fn ferry(words: &[&str]) -> (String, String) {
    let (code, output, errors) = Attempt::ferry(words).end(MOMENT);
    assert_eq!(code, 0, "{words:?}\n{output}{errors}");
    (output, errors)
}

/// The same with nothing on standard error.
#[track_caller]
fn quietly(words: &[&str]) -> String {
    let (output, errors) = ferry(words);
    assert_eq!(errors, "", "{words:?}");
    output
}

/// The line that tells where a device has gone.
#[track_caller]
fn tells(line: &str, device: &HostDevice, end: &str) {
    let start = format!("{} ", device.short_address());
    let good = line.starts_with(&start) && line.ends_with(&format!(": {end}"));
    assert!(good, "no '{start}…: {end}': {line}");
}

/// What is remembered of a device.
fn record(device: &HostDevice) -> PathBuf {
    PathBuf::from("/run/ferry/bound").join(device.address())
}

/// The driver that it is reserved for.
fn driver_override(device: &HostDevice) -> Option<String> {
    let text = std::fs::read_to_string(device.folder().join("driver_override")).unwrap();
    let name = text.trim();
    (name != "(null)").then(|| name.to_owned())
}

/// It is the host's, as if nothing had been.
#[track_caller]
fn is_back(device: &HostDevice, driver: &str) {
    assert_eq!(device.driver().as_deref(), Some(driver));
    assert_eq!(driver_override(device), None);
    assert!(!record(device).exists(), "{}", device.address());
}
