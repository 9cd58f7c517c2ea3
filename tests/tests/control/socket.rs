//! The socket's file.

use crate::{served, small};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{Api, Attempt, MOMENT, until};

/// Which file it is.
fn identity(api: &Api) -> (u64, u64) {
    let metadata = fs::symlink_metadata(api.socket()).unwrap();
    (metadata.dev(), metadata.ino())
}

fn refused(api: &Api) {
    let socket = api.socket();
    let before = identity(api);
    let words = ["--initramfs", "--api-socket"].map(str::to_owned);
    let initramfs = Kernel::Elf.initramfs();
    let attempt = Attempt::run(&[
        &words[0],
        initramfs.to_str().unwrap(),
        &words[1],
        socket.to_str().unwrap(),
    ]);
    let problem = attempt.refused_for_one(4);
    assert!(
        problem.what.starts_with("the API socket can't be"),
        "{problem:?}"
    );
    assert_eq!(identity(api), before);
}

#[test]
fn only_its_owner_reaches_a_guest_and_the_socket_goes_with_it() {
    let (mut guest, api) = served();
    let mode = fs::metadata(api.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    refused(&api);
    // It was not touched.
    api.ok(&["info"]);
    guest.stop();
    assert!(!api.socket().exists());
}

#[test]
fn a_socket_that_a_killed_ferry_left_is_replaced() {
    let (mut guest, api) = served();
    guest.ferry_mut().kill();
    assert!(api.socket().exists());
    let mut guest = api.of(small()).boot();
    api.ok(&["info"]);
    guest.stop();
}

#[test]
fn what_else_is_there_stays_there() {
    let api = Api::new();
    fs::write(api.socket(), "mine").unwrap();
    refused(&api);
    assert_eq!(fs::read_to_string(api.socket()).unwrap(), "mine");
    fs::remove_file(api.socket()).unwrap();
    let _other = UnixListener::bind(api.socket()).unwrap();
    refused(&api);
}

#[test]
fn a_guest_that_cannot_start_leaves_no_socket() {
    let api = Api::new();
    let run = small().memory("128M").option("--api-socket", api.socket());
    // A kernel that is none is found out after the socket is there.
    let mut ferry = run.option("--initramfs", "/dev/null").start();
    assert_ne!(ferry.exit(MOMENT), 0);
    assert!(!api.socket().exists());
}

/// The socket is there before another ferry has bound its devices, for which this one waits.
#[test]
fn a_signal_before_the_guest_is_there_leaves_no_socket_and_the_devices_driver() {
    let nic = site::device("nic");
    let driver = nic.driver();
    // Makes the folder of the lock.
    assert!(tests::shell("ferry unbind --stale; ls /run/ferry/bound").contains("lock"));
    let lock = fs::File::options()
        .write(true)
        .open("/run/ferry/bound/lock");
    let lock = lock.unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let api = Api::new();
    let device = format!("host={},managed=on", nic.address());
    let mut ferry = api.of(small()).option("--device", device).start();
    until("the socket", MOMENT, || api.socket().exists().then_some(()));
    thread::sleep(Duration::from_millis(200));
    ferry.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(200));
    drop(lock);
    assert_eq!(ferry.exit(MOMENT), 10);
    assert!(!api.socket().exists());
    assert_eq!(nic.driver(), driver);
}
