//! Processes that use disks in ways that the kernel's own tables don't show: they have one open, or see it mounted where
//! others don't.
//!
//! This walks `/proc`, of which only root sees all. Sources: Documentation/filesystems/proc.rst of Linux 6.12 (fd, fdinfo,
//! mountinfo), mount_namespaces(7), statx(2).

use super::holder::Holder;
use super::root::{HostError, HostRoot};
use super::usage::HostUse;
use rustix::fs::{AtFlags, CWD, FileType, PROC_SUPER_MAGIC, StatxFlags, statfs, statx};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

impl HostRoot {
    /// What processes use disks for, given by name and `major:minor`. A disk that is mounted here counts as that already.
    pub(super) fn disk_holders(
        &self,
        disks: &BTreeMap<String, String>,
        mounted: &BTreeSet<String>,
    ) -> Result<Vec<HostUse>, HostError> {
        // What processes do is nothing for a report.
        if disks.is_empty() || self.is_report() || self.is_recording() {
            return Ok(Vec::new());
        }
        self.disk_users(disks, mounted)
    }

    fn disk_users(
        &self,
        disks: &BTreeMap<String, String>,
        mounted: &BTreeSet<String>,
    ) -> Result<Vec<HostUse>, HostError> {
        let mut uses = Vec::new();
        let mut mounted = mounted.clone();
        let mut namespaces: BTreeSet<_> = self.mount_namespace("self").into_iter().collect();
        let mut pids: Vec<u32> = self
            .names("proc")?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        pids.sort_unstable();
        for pid in pids {
            let holder = || Holder {
                pid,
                comm: self.text_or_empty(format!("proc/{pid}/comm")),
            };
            for device in self.written_by(pid, disks) {
                let holder = holder();
                uses.push(HostUse::Open { device, holder });
            }
            let namespace = self.mount_namespace(&pid.to_string());
            if !namespace.is_some_and(|namespace| namespaces.insert(namespace)) {
                continue;
            }
            let mounts = self.text_or_empty(format!("proc/{pid}/mountinfo"));
            for (device, mount_point) in self.mounts_of(disks, &mounts) {
                if mounted.insert(device.clone()) {
                    uses.push(HostUse::MountedElsewhere {
                        device,
                        mount_point,
                        holder: holder(),
                    });
                }
            }
        }
        Ok(uses)
    }

    /// Its name, as in `mnt:[4026531841]`.
    fn mount_namespace(&self, process: &str) -> Option<String> {
        let link = format!("proc/{process}/ns/mnt");
        self.link_name(link).ok().flatten()
    }

    /// The disks that a process has open and may write to. Who only reads loses nothing of his own, and udev reads any disk
    /// at any time.
    fn written_by(&self, pid: u32, disks: &BTreeMap<String, String>) -> BTreeSet<String> {
        // One that has ended or is not this user's has none.
        let names = self.names(format!("proc/{pid}/fd")).unwrap_or_default();
        let open = names.iter().filter_map(|fd| {
            let text = self.text_or_empty(format!("proc/{pid}/fdinfo/{fd}"));
            let descriptor = OpenFile::parse(&text).filter(OpenFile::is_writable)?;
            self.disk_at(pid, fd, &descriptor, disks)
        });
        open.collect()
    }

    /// The disk that a descriptor is open on: by the number of its node, which may be one of another root folder's, in a saved
    /// tree by its name.
    ///
    /// What is behind a descriptor may be a file of an NFS server that is gone or of a hostile FUSE, and looking at that may take
    /// for ever. So no file system is asked for more than it knows, and but for what is in /dev only those are that have nobody
    /// else to ask.
    fn disk_at(
        &self,
        pid: u32,
        fd: &str,
        descriptor: &OpenFile,
        disks: &BTreeMap<String, String>,
    ) -> Option<String> {
        let path = self.path(format!("proc/{pid}/fd/{fd}"));
        let target = fs::read_link(&path).ok()?;
        let target = target.to_str().filter(|target| target.contains("/dev/"))?;
        if !self.has_procfs() {
            let name = self.block_name(target)?;
            return disks.contains_key(&name).then_some(name);
        }
        let is_local = || {
            let mounts = self.text_or_empty(format!("proc/{pid}/mountinfo"));
            is_local(&mounts, descriptor.mount)
        };
        if !target.starts_with("/dev/") && !is_local() {
            return None;
        }
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let node = statx(CWD, &path, flags, StatxFlags::TYPE).ok()?;
        if FileType::from_raw_mode(node.stx_mode.into()) != FileType::BlockDevice {
            return None;
        }
        let number = format!("{}:{}", node.stx_rdev_major, node.stx_rdev_minor);
        let (name, _) = disks.iter().find(|(_, one)| **one == number)?;
        Some(name.clone())
    }

    /// Whether the links to open files are the kernel's, which lead to the files themselves.
    fn has_procfs(&self) -> bool {
        statfs(self.path("proc")).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC)
    }
}

/// What fdinfo tells of an open file.
struct OpenFile {
    /// Of open(2).
    flags: u32,
    /// Number of its mount, as in mountinfo.
    mount: u32,
}

impl OpenFile {
    fn parse(fdinfo: &str) -> Option<Self> {
        let value = |key: &str| fdinfo.lines().find_map(|line| line.strip_prefix(key));
        Some(Self {
            flags: u32::from_str_radix(value("flags:")?.trim(), 8).ok()?,
            mount: value("mnt_id:")?.trim().parse().ok()?,
        })
    }

    /// Whether it was opened for anything but `O_RDONLY`.
    fn is_writable(&self) -> bool {
        const ACCESS_MODE: u32 = 3;
        self.flags & ACCESS_MODE != 0
    }
}

/// Whether a mount is of a file system that answers without a server's or another process's help.
fn is_local(mountinfo: &str, mount: u32) -> bool {
    const LOCAL: [&str; 7] = [
        "devtmpfs", "tmpfs", "ramfs", "rootfs", "ext4", "xfs", "btrfs",
    ];
    let mount = mount.to_string();
    let found = mountinfo
        .lines()
        .find(|line| line.split(' ').next() == Some(&mount));
    let kind = found.and_then(|line| line.split_once(" - ")?.1.split(' ').next());
    kind.is_some_and(|kind| LOCAL.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_is_one_to_look_at_if_it_may_be_written_to() {
        for (flags, writable) in [
            ("0100000", false),
            ("0100001", true),
            ("02", true),
            ("02000000", false),
        ] {
            let text = format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t25\nino:\t9\n");
            let file = OpenFile::parse(&text).unwrap();
            assert_eq!((file.is_writable(), file.mount), (writable, 25), "{flags}");
        }
        assert!(OpenFile::parse("").is_none());
    }

    #[test]
    fn file_system_that_asks_others_is_not_asked() {
        let mounts = "25 1 0:5 / /dev rw shared:2 - devtmpfs udev rw\n\
                      26 1 0:50 / /mnt/dev rw - nfs4 nas:/x rw\n\
                      27 1 0:51 / /home/a/dev rw - fuse.x x rw\n\
                      125 1 8:1 / /srv rw - ext4 /dev/sda1 rw\n";
        let local = [25, 26, 27, 125, 5].map(|mount| is_local(mounts, mount));
        assert_eq!(local, [true, false, false, true, false]);
    }

    #[test]
    fn links_of_procfs_are_told_from_those_of_a_saved_tree() {
        assert!(HostRoot::system().has_procfs());
        assert!(!HostRoot::at("/dev").has_procfs());
    }
}
