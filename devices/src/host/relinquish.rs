//! How the host stops using a function.

use super::holder::Holder;
use super::problem::shell_word;
use super::usage::HostUse;
use crate::pci::HostSbdf;

/// What is to be done before a guest can have a function that the host uses, with the rules of
/// [`Problem::remedy`](super::Problem::remedy).
///
/// Processes are looked at and not touched: one that has a disk open may be a virtual machine that writes to it, and what is
/// mounted in a container is for its own tools to take down.
pub(super) fn how_to_free(sbdf: HostSbdf, uses: &[HostUse]) -> String {
    if uses.iter().any(is_root_folder) {
        return "give the guest another disk; this host runs from that one".to_owned();
    }
    let commands: Vec<_> = uses.iter().filter_map(command).collect();
    let commands = commands.join(" && ");
    let mut holders: Vec<_> = uses.iter().filter_map(holder).collect();
    holders.sort_unstable();
    holders.dedup();
    let pids: Vec<_> = holders.iter().map(|one| one.pid.to_string()).collect();
    let pids = pids.join(",");
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let stop = format!(
        "to stop using it, stop the service, container or virtual machine of {}",
        names.join(", ")
    );
    match (holders.is_empty(), commands.is_empty()) {
        (true, true) => format!("if the host can do without it: sudo ferry bind --force {sbdf}"),
        (true, false) => format!("stop using it: {commands}"),
        (false, true) => format!("{stop}, told by: ps -fp {pids}"),
        (false, false) => format!("{stop} (ps -fp {pids}), then: {commands}"),
    }
}

fn is_root_folder(host_use: &HostUse) -> bool {
    matches!(host_use, HostUse::Disk { mount_point, .. } if mount_point == "/")
}

/// The command that ends a use of this mount namespace's.
fn command(host_use: &HostUse) -> Option<String> {
    match host_use {
        HostUse::Disk { mount_point, .. } => {
            Some(format!("sudo umount {}", shell_word(mount_point)))
        }
        HostUse::Swap { device } => {
            let node = format!("/dev/{device}");
            Some(format!("sudo swapoff {}", shell_word(&node)))
        }
        HostUse::BootVga
        | HostUse::DefaultRoute { .. }
        | HostUse::Open { .. }
        | HostUse::MountedElsewhere { .. } => None,
    }
}

fn holder(host_use: &HostUse) -> Option<&Holder> {
    match host_use {
        HostUse::Open { holder, .. } | HostUse::MountedElsewhere { holder, .. } => Some(holder),
        HostUse::BootVga
        | HostUse::Disk { .. }
        | HostUse::Swap { .. }
        | HostUse::DefaultRoute { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::{NIC, sbdf};
    use super::*;

    fn disk(mount_point: &str) -> HostUse {
        HostUse::Disk {
            device: "sda1".to_owned(),
            mount_point: mount_point.to_owned(),
        }
    }

    fn process(pid: u32, comm: &str) -> Holder {
        Holder {
            pid,
            comm: comm.to_owned(),
        }
    }

    fn free(uses: &[HostUse]) -> String {
        how_to_free(sbdf(NIC.0), uses)
    }

    #[test]
    fn use_of_a_disk_ends_by_the_command() {
        let swap = HostUse::Swap {
            device: "sda2".to_owned(),
        };
        assert_eq!(
            free(&[disk("/data"), swap.clone()]),
            "stop using it: sudo umount /data && sudo swapoff /dev/sda2"
        );
        assert_eq!(
            free(&[disk("/"), swap]),
            "give the guest another disk; this host runs from that one"
        );
        assert_eq!(
            free(&[disk("/x'; reboot")]),
            r"stop using it: sudo umount '/x'\''; reboot'"
        );
    }

    #[test]
    fn nothing_of_another_process_is_run_or_ended() {
        let open = HostUse::Open {
            device: "sda".to_owned(),
            holder: process(7, "qemu"),
        };
        // A container's own root folder is not the host's.
        let mounted = HostUse::MountedElsewhere {
            device: "sda1".to_owned(),
            mount_point: "/".to_owned(),
            holder: process(20, "podman"),
        };
        assert_eq!(
            free(&[mounted, open.clone(), open.clone()]),
            "to stop using it, stop the service, container or virtual machine of qemu (pid 7), podman (pid 20), \
             told by: ps -fp 7,20"
        );
        assert_eq!(
            free(&[disk("/data"), open]),
            "to stop using it, stop the service, container or virtual machine of qemu (pid 7) (ps -fp 7), \
             then: sudo umount /data"
        );
    }
}
