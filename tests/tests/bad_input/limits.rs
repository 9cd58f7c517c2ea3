//! Limits of the process: locked memory, free memory, rights to the nodes.

use crate::{HOST_SET_UP, NO_INITRAMFS, got_past};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use tests::site::{self, Kernel};
use tests::{AS_USER, Attempt, BOOT, Run, USER};

/// A limit of 8 MiB on locked memory, held against a root without CAP_IPC_LOCK.
fn limited<'a>(limit: &'a str, script: &'a str) -> [&'a str; 7] {
    [
        "prlimit",
        limit,
        "setpriv",
        "--bounding-set=-ipc_lock",
        "sh",
        "-c",
        script,
    ]
}

const START: &str = "exec \"$0\" \"$@\"";

#[test]
fn low_limit_on_locked_memory_is_raised_by_the_command() {
    let nic = site::device("nic").assign();
    let device = format!("host={}", nic.address());
    let needed = (256 << 10) + 1024;
    for (limit, hard, command) in [
        (
            "--memlock=8388608:8388608",
            "8 MiB",
            format!("prlimit --pid $$ --memlock={0}:{0}", needed << 10),
        ),
        (
            "--memlock=8388608:unlimited",
            "unlimited",
            format!("ulimit -S -l {needed}"),
        ),
    ] {
        let run = Attempt::run(&["--memory", "256M", "--device", &device]);
        let problem = run
            .through(&limited(limit, START))
            .refused_for_one(HOST_SET_UP);
        problem.tells(
            "the locked-memory limit is too low for 256 MiB of guest RAM",
            &format!("all are pinned: {needed} KiB; the limit is 8 MiB (hard limit {hard})"),
            &format!("LimitMEMLOCK={}", needed << 10),
        );
        assert_eq!(problem.command(), command);

        let raised = format!("{command} && {START}");
        let run = Attempt::run(&["--memory", "256M", "--device", &device]);
        got_past(run.and(&NO_INITRAMFS).through(&limited(limit, &raised)));
    }
    // What Ferry asks for is what the kernel holds against it.
    let exact = format!("--memlock={}", needed << 10);
    Run::new(Kernel::Elf)
        .through(&limited(&exact, START))
        .without_input()
        .memory("256M")
        .device(&nic, "")
        .command("true")
        .start()
        .finish();
}

#[test]
fn limit_on_locked_memory_means_nothing_without_a_device() {
    let limit = limited("--memlock=65536:65536", START);
    got_past(Attempt::run(&NO_INITRAMFS).through(&limit));
}

#[test]
fn guest_that_can_not_be_pinned_is_told_how_much_can() {
    let nic = site::device("nic").assign();
    let device = format!("host={}", nic.address());
    let run = Attempt::run(&["--memory", "1T", "--device", &device]);
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        "a guest with 1048576 MiB",
        "all are pinned; ",
        "give --memory ",
    );
}

/// Puts the owner of a node back.
struct Owner(&'static str);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = chown(self.0, Some(0), None);
    }
}

#[test]
fn node_of_another_user_is_opened_by_the_command() {
    let nic = site::device("nic").assign();
    let _kvm = Owner("/dev/kvm");
    chown("/dev/kvm", Some(USER.parse().unwrap()), None).unwrap();
    let node = nic.node();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o640)).unwrap();
    let device = format!("host={}", nic.address());
    let run = Attempt::run(&["--device", &device]).through(&AS_USER);
    let problem = run.refused_for_one(HOST_SET_UP);
    let node = node.display();
    problem.tells(
        &format!("can't open {node}: permission denied"),
        "owner root, group root, mode 0640",
        "a udev rule (SUBSYSTEM==\"vfio\", GROUP=\"kvm\", MODE=\"0660\")",
    );
    assert_eq!(problem.command(), format!("sudo chown $USER {node}"));

    problem.paste_for(USER);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |path: &std::path::Path, name| {
        let to = folder.path().join(name);
        fs::copy(path, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
        to.to_str().unwrap().to_owned()
    };
    let kernel = copy(&Kernel::Elf.path(), "kernel");
    let initramfs = copy(&Kernel::Elf.initramfs(), "initramfs");
    let cmdline = "console=ttyS0 panic=-1 quiet ferry.run=\"true\"";
    let run = Attempt::ferry(&[
        "run",
        "--kernel",
        &kernel,
        "--initramfs",
        &initramfs,
        "--cmdline",
        cmdline,
        "--device",
        &device,
    ]);
    let (code, console, errors) = run.through(&AS_USER).end(BOOT);
    assert_eq!(code, 0, "{errors}\n{console}");
}
