//! Descriptors of VFIO that somebody with the rights to them has opened for Ferry: `--device fd=N`, `--vfio-container`.

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tests::site::{self, Kernel};
use tests::{Assigned, Attempt, Guest, Lent, Peer, Run};
use vfio_ioctls::{VfioContainer, VfioDevice};

/// The command line is wrong.
const USAGE: i32 = 2;
/// Guest RAM is pinned, and that is counted for a user.
const NO_LIMIT: &str = "ulimit -l unlimited";

#[track_caller]
fn pings(mut guest: Guest) {
    let peer = Peer::up();
    peer.set_up_guest(&mut guest);
    let text = peer.ping(&mut guest, 3);
    assert!(text.contains("3 packets received"), "{text}");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_user_without_rights_has_the_device_whose_group_is_open() {
    let nic = site::device("nic").assign();
    let _kvm = Lent::with_mode("/dev/kvm", 0o666);
    let _container = Lent::with_mode("/dev/vfio/vfio", 0o600);
    let open = format!(
        "{NO_LIMIT}; exec 5<>{} 6<>/dev/vfio/vfio",
        nic.node().display()
    );
    let run = Run::new(Kernel::Elf)
        .modules("igb")
        .option("--device", "fd=5,id=nic0")
        .option("--vfio-container", "fd=6");
    pings(Guest::of(run.as_user(&open).start()));
    nic.give_back();
}

#[test]
fn the_container_may_be_opened_by_ferry() {
    let nic = site::device("nic").assign();
    let _kvm = Lent::with_mode("/dev/kvm", 0o666);
    let open = format!("{NO_LIMIT}; exec 5<>{}", nic.node().display());
    let device = format!("host={},fd=5", nic.address());
    let run = Run::new(Kernel::Elf)
        .modules("igb")
        .option("--device", device);
    pings(Guest::of(run.as_user(&open).start()));
}

/// A descriptor of this process whose link in procfs is `node`, for its children too.
fn inherited(node: &Path) -> OwnedFd {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let of_node = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link == node);
    let entry = entries.into_iter().find(of_node).unwrap();
    let number = entry.file_name().to_str().unwrap().parse().unwrap();
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let copy = pidfd_getfd(this, number, PidfdGetfdFlags::empty()).unwrap();
    fcntl_setfd(&copy, FdFlags::empty()).unwrap();
    copy
}

/// A process that has the device in a container with its IOMMU, as it would be passed on.
fn parent(nic: &Assigned) -> (VfioDevice, [OwnedFd; 2]) {
    let container = Arc::new(VfioContainer::new(None).unwrap());
    let device = VfioDevice::new(&nic.folder(), container, false).unwrap();
    let nodes = [nic.node(), "/dev/vfio/vfio".into()];
    (device, nodes.map(|node| inherited(&node)))
}

#[test]
fn a_group_of_which_the_parent_has_a_device_open_is_refused() {
    let nic = site::device("nic").assign();
    let (_open, [group, _container]) = parent(&nic);
    let device = format!("fd={}", group.as_raw_fd());
    let problem = Attempt::run(&["--device", &device]).refused_for_one(crate::HOST_SET_UP);
    let what = format!("{} can't be assigned", nic.address());
    problem.tells(&what, "has a device of it open", "nothing of it there");
}

#[test]
fn a_container_that_has_another_group_is_refused() {
    let [nic, disk] = ["nic", "disk"].map(|role| site::device(role).assign());
    let (_open, [_group, container]) = parent(&disk);
    let device = format!("host={}", nic.address());
    let container = format!("fd={}", container.as_raw_fd());
    let words = ["--device", &device, "--vfio-container", &container];
    let problem = Attempt::run(&words).refused_for_one(crate::HOST_SET_UP);
    let what = format!("{} can't be assigned", nic.address());
    problem.tells(&what, "has another group in it", "of its own");
}

#[test]
fn what_is_no_group_and_a_group_of_two_are_told_apart() {
    let refused = |open: &str, device: &str| {
        let script = format!("exec {open}; exec \"$@\"");
        let through = ["sh", "-c", &script, "sh"];
        let attempt = Attempt::run(&["--device", device]).through(&through);
        attempt.refused_for_one(USAGE)
    };
    let problem = refused("5>&-", "fd=5");
    problem.tells(
        "--device fd=5",
        "without a descriptor 5",
        "5<>/dev/vfio/GROUP",
    );
    let problem = refused("5</dev/null", "fd=5");
    problem.tells(
        "--device fd=5",
        "descriptor 5 is /dev/null",
        "open /dev/vfio/GROUP",
    );

    let [one, other] = site::devices("conventional").try_into().unwrap();
    let (one, other) = (one.assign(), other.assign());
    let open = format!("5<>{}", one.node().display());
    let problem = refused(&open, "fd=5");
    let both = format!("{}, {}", one.address(), other.address());
    problem.tells(
        "--device fd=5",
        &both,
        &format!("add host={}", one.address()),
    );
    let nic = site::device("nic");
    let device = format!("fd=5,host={}", nic.address());
    let problem = refused(&open, &device);
    let not_in = format!("{} is not in that", nic.address());
    problem.tells("--device fd=5", &not_in, one.address());
}
