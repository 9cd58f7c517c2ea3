//! The socket's file.

use crate::{served, small};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use tests::site::Kernel;
use tests::{Api, Attempt, MOMENT};

fn refused(api: &Api) {
    let socket = api.socket();
    let before = fs::symlink_metadata(&socket).unwrap();
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
    assert_eq!(fs::symlink_metadata(&socket).unwrap().len(), before.len());
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
