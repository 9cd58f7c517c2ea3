//! Descriptors that this process was started with: what they are.

use super::root::HostRoot;
use rustix::fs::{FileType, fstat, major, minor};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// What a descriptor is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// `/dev/vfio/GROUP`.
    Group(u32),
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/devices/NAME`, a device for iommufd.
    Device(String),
    /// Something else that is a device's node, by its place in sysfs, or is none.
    Other(Option<String>),
}

/// A descriptor of this process by its number, for good: the number stays open, too.
///
/// # Errors
/// `EBADF` when no descriptor has the number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // A process gets at its own descriptors by their numbers without having to promise that nobody else owns them.
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    if this.as_raw_fd() == number {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(pidfd_getfd(this, number, PidfdGetfdFlags::empty())?)
}

impl HostRoot {
    /// What a descriptor is of, told by the device's number and not by the path that it was opened by.
    ///
    /// # Errors
    /// The errno of fstat(2).
    pub fn descriptor(&self, fd: BorrowedFd<'_>) -> io::Result<Descriptor> {
        let stat = fstat(fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Ok(Descriptor::Other(None));
        }
        Ok(self.device_node(major(stat.st_rdev), minor(stat.st_rdev)))
    }

    fn device_node(&self, major: u32, minor: u32) -> Descriptor {
        let link = self.path(format!("sys/dev/char/{major}:{minor}"));
        let Ok(target) = fs::read_link(link) else {
            return Descriptor::Other(None);
        };
        let name = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name);
            name.map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let own = name(Some(&target));
        match (name(target.parent()).as_str(), own.parse()) {
            ("vfio", Ok(group)) => Descriptor::Group(group),
            ("misc", _) if own == "vfio" => Descriptor::Container,
            ("vfio-dev", _) => Descriptor::Device(own),
            _ => Descriptor::Other(Some(own)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::saved::SavedHost;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn nodes_are_known_by_their_numbers() {
        let host = SavedHost::empty();
        for (number, target) in [
            ("242:3", "../../devices/virtual/vfio/17"),
            ("10:196", "../../devices/virtual/misc/vfio"),
            (
                "511:0",
                "../../devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0",
            ),
            ("1:3", "../../devices/virtual/mem/null"),
        ] {
            host.link(&format!("sys/dev/char/{number}"), target);
        }
        let root = host.root();
        assert_eq!(root.device_node(242, 3), Descriptor::Group(17));
        assert_eq!(root.device_node(10, 196), Descriptor::Container);
        let device = Descriptor::Device("vfio0".to_owned());
        assert_eq!(root.device_node(511, 0), device);
        let null = Descriptor::Other(Some("null".to_owned()));
        assert_eq!(root.device_node(1, 3), null);
        assert_eq!(root.device_node(9, 9), Descriptor::Other(None));
    }

    #[test]
    fn a_descriptor_is_had_by_its_number_and_a_number_without_one_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        let again = inherited(null.as_raw_fd()).unwrap();
        let found = HostRoot::system().descriptor(again.as_fd()).unwrap();
        assert_eq!(found, Descriptor::Other(Some("null".to_owned())));
        let file = tempfile::tempfile().unwrap();
        let found = HostRoot::system().descriptor(file.as_fd()).unwrap();
        assert_eq!(found, Descriptor::Other(None));
        let error = inherited(9999).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
