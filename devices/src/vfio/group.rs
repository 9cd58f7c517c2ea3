//! IOMMU groups: the unit in which VFIO hands devices to a container (Linux `Documentation/driver-api/vfio.rst`).
//!
//! vfio-ioctls has groups, too, but a device that leaves while the machine runs can't be given back through them: they find
//! a device's group in sysfs only after they closed it, by when the host may have removed it, and panic; and they take a
//! group out of its container with the first of its devices to close.

use super::passed::{PassedDescriptors, PassedGroup};
use super::sys;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Where the nodes of the groups are.
const NODES: &str = "/dev/vfio";

/// Is told of each group that a machine uses; KVM's VFIO device.
pub trait GroupObserver: Send + Sync {
    /// `group`, the descriptor of a group, is in the machine's container.
    ///
    /// # Errors
    /// The errno of the ioctl.
    fn group_added(&self, group: BorrowedFd<'_>) -> io::Result<()>;

    /// `group`, which was added, is about to leave.
    ///
    /// # Errors
    /// The errno of the ioctl.
    fn group_removed(&self, group: BorrowedFd<'_>) -> io::Result<()>;
}

/// Why a device could not be had from its group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The device has no IOMMU group.
    #[error("it has no IOMMU group")]
    None(#[source] io::Error),
    /// The group's node can't be opened.
    #[error("/dev/vfio/{group} can't be opened")]
    Open {
        /// The group's number.
        group: u32,
        /// The errno; `EBUSY` while somebody has it open.
        #[source]
        source: io::Error,
    },
    /// A device of the group is on a driver of the host.
    #[error("group {0} is not viable: a device in it is on a driver other than vfio-pci")]
    NotViable(u32),
    /// Whoever has opened the group has it in a container, and a device of it open.
    #[error("a device of group {group} is open elsewhere")]
    Elsewhere {
        /// The group's number.
        group: u32,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The container that was passed has groups of somebody else's, for whose devices guest RAM would be mapped, too.
    #[error("the container that was passed has another group in it")]
    SharedContainer,
    /// An ioctl failed.
    #[error("{ioctl} failed for group {group}")]
    Ioctl {
        /// Its name.
        ioctl: &'static str,
        /// The group's number.
        group: u32,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The container can't have the IOMMU that the group needs.
    #[error("the container can't have the IOMMU of group {group}")]
    Iommu {
        /// The group's number.
        group: u32,
        /// The errno; `EPERM` where interrupts can't be remapped.
        #[source]
        source: io::Error,
    },
}

/// The groups in one container.
#[derive(Default)]
pub(super) struct Groups {
    open: BTreeMap<u32, Group>,
    passed: PassedDescriptors,
}

struct Group {
    node: Arc<OwnedFd>,
    devices: usize,
}

impl Groups {
    /// None yet; those of `passed` need not be opened.
    pub(super) fn new(passed: PassedDescriptors) -> Self {
        Self {
            open: BTreeMap::new(),
            passed,
        }
    }

    /// Opens the device at `path` in sysfs; its group enters `container` first, if it is not in it.
    pub(super) fn open(
        &mut self,
        path: &Path,
        container: BorrowedFd<'_>,
        observer: Option<&Arc<dyn GroupObserver>>,
    ) -> Result<(File, u32), GroupError> {
        let number = group_of(path).map_err(GroupError::None)?;
        if !self.open.contains_key(&number) {
            let group = self.enter(number, container)?;
            if let Some(observer) = observer {
                // Without it DMA still works.
                if let Err(error) = observer.group_added(group.node.as_fd()) {
                    log::warn!("KVM does not take IOMMU group {number}: {error}");
                }
            }
            self.open.insert(number, group);
        }
        let opened = self.device(number, path);
        if opened.is_err() {
            self.leave(number, observer);
        }
        opened.map(|file| (file, number))
    }

    fn enter(&self, number: u32, container: BorrowedFd<'_>) -> Result<Group, GroupError> {
        let node = self.node(number)?;
        let failed = |ioctl| {
            move |source| GroupError::Ioctl {
                ioctl,
                group: number,
                source,
            }
        };
        let status = sys::group_status(node.as_fd());
        let status = status.map_err(failed("VFIO_GROUP_GET_STATUS"))?;
        if !status.viable {
            return Err(GroupError::NotViable(number));
        }
        if self.open.is_empty() {
            self.gather()?;
            if sys::iommu_info(container).is_ok() {
                return Err(GroupError::SharedContainer);
            }
        }
        sys::group_enter(node.as_fd(), container).map_err(failed("VFIO_GROUP_SET_CONTAINER"))?;
        // The first group brings the IOMMU, the last takes it along.
        if self.open.is_empty()
            && let Err(source) = sys::set_iommu(container)
        {
            // A node that was passed stays open.
            let _ = sys::group_leave(node.as_fd());
            return Err(GroupError::Iommu {
                group: number,
                source,
            });
        }
        Ok(Group { node, devices: 0 })
    }

    /// Takes the groups that were passed out of whichever container they are in. It can't be seen which that is, and guest RAM
    /// is mapped in this process's.
    fn gather(&self) -> Result<(), GroupError> {
        for PassedGroup { number, node } in &self.passed.groups {
            let group = *number;
            let status = sys::group_status(node.as_fd());
            let status = status.map_err(|source| GroupError::Ioctl {
                ioctl: "VFIO_GROUP_GET_STATUS",
                group,
                source,
            })?;
            if status.in_container {
                sys::group_leave(node.as_fd())
                    .map_err(|source| GroupError::Elsewhere { group, source })?;
            }
        }
        Ok(())
    }

    fn node(&self, number: u32) -> Result<Arc<OwnedFd>, GroupError> {
        if let Some(passed) = self.passed.group(number) {
            return Ok(Arc::clone(passed));
        }
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(NODES).join(number.to_string()));
        let node = node.map_err(|source| GroupError::Open {
            group: number,
            source,
        })?;
        Ok(Arc::new(node.into()))
    }

    fn device(&mut self, number: u32, path: &Path) -> Result<File, GroupError> {
        let failed = |source| GroupError::Ioctl {
            ioctl: "VFIO_GROUP_GET_DEVICE_FD",
            group: number,
            source,
        };
        let absent = || io::Error::from_raw_os_error(libc::ENODEV);
        let group = self
            .open
            .get_mut(&number)
            .ok_or_else(absent)
            .map_err(failed)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let name = CString::new(name).map_err(|_| failed(absent()))?;
        let file = sys::group_device(group.node.as_fd(), &name).map_err(failed)?;
        group.devices += 1;
        Ok(file)
    }

    /// A device of group `number` was closed.
    pub(super) fn closed(&mut self, number: u32, observer: Option<&Arc<dyn GroupObserver>>) {
        if let Some(group) = self.open.get_mut(&number) {
            group.devices = group.devices.saturating_sub(1);
        }
        self.leave(number, observer);
    }

    /// Resets the bus or slot of `device`, of which all functions are in the groups `numbers`.
    ///
    /// # Errors
    /// `ENOENT` when one of the groups is not open; otherwise the errno of the ioctl.
    pub(super) fn reset_bus(&self, device: BorrowedFd<'_>, numbers: &[u32]) -> io::Result<()> {
        let node = |number| {
            let group = self.open.get(number).map(|group| group.node.as_fd());
            group.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        };
        let nodes: io::Result<Vec<_>> = numbers.iter().map(node).collect();
        sys::hot_reset(device, &nodes?)
    }

    /// Takes group `number` out of the container, unless a device of it is open.
    fn leave(&mut self, number: u32, observer: Option<&Arc<dyn GroupObserver>>) {
        if self.open.get(&number).is_none_or(|group| group.devices > 0) {
            return;
        }
        let Some(group) = self.open.remove(&number) else {
            return;
        };
        if let Some(observer) = observer
            && let Err(error) = observer.group_removed(group.node.as_fd())
        {
            log::debug!("KVM does not let go of IOMMU group {number}: {error}");
        }
        // A host that waited for the group's last device has taken it out by now: then there is nothing left to do.
        if let Err(error) = sys::group_leave(group.node.as_fd()) {
            log::debug!("IOMMU group {number} has left its container already: {error}");
        }
    }
}

/// The number of the group that the device at `path` in sysfs is in.
fn group_of(path: &Path) -> io::Result<u32> {
    let link = path.join("iommu_group").read_link()?;
    let name = link.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn group_of_a_device_is_the_end_of_its_link() {
        let folder = tempfile::tempdir().unwrap();
        assert!(group_of(folder.path()).is_err());
        let link = folder.path().join("iommu_group");
        symlink("../../../../kernel/iommu_groups/17", &link).unwrap();
        assert_eq!(group_of(folder.path()).unwrap(), 17);
        std::fs::remove_file(&link).unwrap();
        symlink("../../nothing", &link).unwrap();
        assert!(group_of(folder.path()).is_err());
    }

    #[test]
    fn a_device_without_a_group_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut groups = Groups::default();
        let error = groups.open(folder.path(), file.as_fd(), None).unwrap_err();
        assert!(matches!(error, GroupError::None(_)), "{error}");
        assert!(groups.open.is_empty());
    }
}
