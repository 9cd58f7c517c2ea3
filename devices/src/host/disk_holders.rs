//! Processes that use disks in ways that the kernel's own tables don't show: they have one open, or see it mounted where
//! others don't.
//!
//! This walks `/proc`, of which only root sees all. Sources: Documentation/filesystems/proc.rst of Linux 6.12 (fd, fdinfo,
//! mountinfo), mount_namespaces(7).

use super::holder::Holder;
use super::root::{HostError, HostRoot};
use super::usage::HostUse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

impl HostRoot {
    /// What processes use disks for, given by name and `major:minor`. A disk that is mounted here counts as that already.
    pub(super) fn disk_holders(
        &self,
        disks: &BTreeMap<String, String>,
        mounted: &BTreeSet<String>,
    ) -> Result<Vec<HostUse>, HostError> {
        // What processes do is nothing for a report.
        if disks.is_empty() || self.is_report() {
            return Ok(Vec::new());
        }
        self.unnoted().disk_users(disks, mounted)
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
        let folder = format!("proc/{pid}/fd");
        // One that has ended or is not this user's has none.
        let names = self.names(&folder).unwrap_or_default();
        let open = names.iter().filter_map(|fd| {
            let disk = self.disk_at(&Path::new(&folder).join(fd), disks)?;
            self.is_writable(pid, fd).then_some(disk)
        });
        open.collect()
    }

    /// The disk that a descriptor is open on: by the name of its node, or if that is one of another root folder's, by number.
    fn disk_at(&self, fd: &Path, disks: &BTreeMap<String, String>) -> Option<String> {
        let path = self.path(fd);
        let target = fs::read_link(&path).ok()?;
        let target = target.to_str().filter(|target| target.contains("/dev/"))?;
        let named = self.block_name(target);
        if let Some(name) = named.filter(|name| disks.contains_key(name)) {
            return Some(name);
        }
        let node = fs::metadata(&path).ok()?;
        if !node.file_type().is_block_device() {
            return None;
        }
        let (major, minor) = (
            rustix::fs::major(node.rdev()),
            rustix::fs::minor(node.rdev()),
        );
        let number = format!("{major}:{minor}");
        let (name, _) = disks.iter().find(|(_, one)| **one == number)?;
        Some(name.clone())
    }

    /// Whether a descriptor's flags, in octal, say anything but `O_RDONLY`.
    fn is_writable(&self, pid: u32, fd: &str) -> bool {
        const ACCESS_MODE: u32 = 3;
        let text = self.text_or_empty(format!("proc/{pid}/fdinfo/{fd}"));
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & ACCESS_MODE != 0)
    }
}
