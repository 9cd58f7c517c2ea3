//! Hosts without a usable `/dev/kvm`.

use crate::HOST_SET_UP;
use std::os::unix::fs::{MetadataExt, chown};
use tests::{AS_USER, Attempt, Terminal, USER};

const KVM: &str = "/dev/kvm";
/// No function of any host: a bus that is never enumerated.
const NO_DEVICE: &str = "host=ffff:ff:1f.7";

#[test]
fn missing_node_is_made_by_the_command() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let without = "mount -t tmpfs none /dev";
    let run = Attempt::run(&[]).after(without).on(&terminal);
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        "/dev/kvm is missing",
        "module is loaded",
        "--device /dev/kvm",
    );
    assert_eq!(problem.command(), "mknod /dev/kvm c 10 232");
    assert_eq!(terminal.modes(), before);

    let with = format!("{without}; {}", problem.command());
    let run = Attempt::run(&["--device", NO_DEVICE]).after(&with);
    run.refused_for_one(HOST_SET_UP)
        .tells("no PCI device", "", "ferry devices --all");
}

#[test]
fn something_else_in_its_place_is_not_taken_for_it() {
    let run = Attempt::run(&[]).after("mount --bind /dev/null /dev/kvm");
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        "/dev/kvm is not KVM",
        "KVM_GET_API_VERSION",
        "ls -l /dev/kvm",
    );
    let run = Attempt::run(&[])
        .after("mount -t tmpfs none /boot; touch /boot/x; mount --bind /boot/x /dev/kvm");
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        "/dev/kvm is not KVM",
        "another device or file",
        "ls -l /dev/kvm",
    );
}

/// Puts the owner of a node back.
struct Owner(u32);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = chown(KVM, Some(self.0), None);
    }
}

#[test]
fn node_of_another_is_opened_by_the_command() {
    let metadata = std::fs::metadata(KVM).unwrap();
    let _owner = Owner(metadata.uid());
    let closed = format!(
        "mount -t tmpfs none /boot; mknod -m 600 /boot/kvm c 10 232; mount --bind /boot/kvm {KVM}"
    );
    let as_user = AS_USER.join(" ");
    let user = |script: &str| {
        let script = format!("set -e; {script}; exec {as_user} \"$@\"");
        Attempt::run(&["--device", NO_DEVICE])
            .through(&["unshare", "--mount", "sh", "-c", &script, "sh"])
    };
    let problems = user(&closed).refused(HOST_SET_UP);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    problems[0].tells(
        "can't open /dev/kvm",
        "owner root, group root, mode 0600",
        KVM,
    );
    problems[1].tells("no PCI device", "", "");
    assert_eq!(problems[0].command(), "sudo chown $USER /dev/kvm");

    let opened = format!(
        "{closed}; sudo() {{ \"$@\"; }}; USER={USER}; {}",
        problems[0].command()
    );
    user(&opened)
        .refused_for_one(HOST_SET_UP)
        .tells("no PCI device", "", "");
}
