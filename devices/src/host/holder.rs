//! Who has an IOMMU group open.

use std::fmt;
use std::fs;

use super::function;
use super::problem::Problem;
use super::root::{HostError, HostRoot};

/// A process that holds a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name (`/proc/<pid>/comm`).
    pub comm: String,
}

/// `qemu-system-x86 (pid 4711)`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.comm, self.pid)
    }
}

impl HostRoot {
    /// Processes with an open descriptor of the group or of the cdev of one of its members, in order
    /// of pid. Walks all of `/proc`: for when an open has failed with EBUSY. Without privileges only
    /// the caller's own processes can be seen.
    ///
    /// # Errors
    /// When `/proc` or the group's directory can't be listed.
    pub fn holders_of_group(&self, group: u32) -> Result<Vec<Holder>, HostError> {
        let mut nodes = vec![format!("/dev/vfio/{group}")];
        for member in self.group(group)?.members {
            // A member's cdev blocks the group as well (since 6.6).
            let cdevs = self.names(function::directory(member.sbdf).join("vfio-dev"))?;
            nodes.extend(cdevs.iter().map(|name| format!("/dev/vfio/devices/{name}")));
        }
        let mut holders: Vec<Holder> = self
            .names("proc")?
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|pid| self.has_open(*pid, &nodes))
            .map(|pid| Holder {
                pid,
                comm: self.text_or_empty(format!("proc/{pid}/comm")),
            })
            .collect();
        holders.sort();
        Ok(holders)
    }

    /// A process that ends or belongs to someone else counts as not holding: nothing can be seen.
    fn has_open(&self, pid: u32, nodes: &[String]) -> bool {
        let Ok(entries) = fs::read_dir(self.path(format!("proc/{pid}/fd"))) else {
            return false;
        };
        entries
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| nodes.iter().any(|node| target.as_os_str() == node.as_str()))
    }
}

/// For the moment when opening `/dev/vfio/<group>` gives EBUSY.
#[must_use]
pub fn explain_busy(root: &HostRoot, group: u32) -> Problem {
    let holders = root.holders_of_group(group).unwrap_or_default();
    let what = format!("IOMMU group {group} is already in use");
    if holders.is_empty() {
        return Problem::new(
            what,
            format!("a process of another user has /dev/vfio/{group} open; a group has one owner"),
            format!("find it: sudo fuser -v /dev/vfio/{group}"),
        );
    }
    let names: Vec<_> = holders.iter().map(Holder::to_string).collect();
    let pids: Vec<_> = holders
        .iter()
        .map(|holder| holder.pid.to_string())
        .collect();
    Problem::new(
        what,
        format!(
            "{} has /dev/vfio/{group} open; a group has one owner",
            names.join(", ")
        ),
        format!("stop it first: kill {}", pids.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use crate::host::saved::SavedHost;
    use crate::host::{Holder, explain_busy};

    fn process(host: &SavedHost, pid: u32, comm: &str, descriptor: &str) {
        host.file(&format!("proc/{pid}/comm"), format!("{comm}\n"));
        host.link(&format!("proc/{pid}/fd/0"), "/dev/null");
        host.link(&format!("proc/{pid}/fd/17"), descriptor);
    }

    #[test]
    fn holder_of_the_group_is_found_by_its_descriptor() {
        let host = SavedHost::intel();
        process(&host, 4242, "qemu-system-x86", "/dev/vfio/16");
        process(&host, 99, "other", "/dev/vfio/1");
        host.file("proc/self/comm", "no pid\n");
        let holder = Holder {
            pid: 4242,
            comm: "qemu-system-x86".to_owned(),
        };
        assert_eq!(host.root().holders_of_group(16).unwrap(), [holder]);
        assert_eq!(
            explain_busy(&host.root(), 16).to_string(),
            "IOMMU group 16 is already in use\n  \
             why: qemu-system-x86 (pid 4242) has /dev/vfio/16 open; a group has one owner\n  \
             fix: stop it first: kill 4242"
        );
    }

    #[test]
    fn open_cdev_of_a_member_holds_the_group() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:03:00.0/vfio-dev/vfio3/dev", "");
        process(&host, 7, "cloud-hyperviso", "/dev/vfio/devices/vfio3");
        assert_eq!(host.root().holders_of_group(16).unwrap().len(), 1);
    }

    #[test]
    fn holder_of_another_user_is_left_to_fuser() {
        let host = SavedHost::intel();
        host.file("proc/1/comm", "systemd\n");
        let text = explain_busy(&host.root(), 16).to_string();
        assert!(
            text.ends_with("find it: sudo fuser -v /dev/vfio/16"),
            "{text}"
        );
    }
}
