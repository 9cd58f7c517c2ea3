//! Where the tests run: the program under test, the images it boots, the devices it may have.
//!
//! | Variable | Names |
//! |---|---|
//! | `FERRY_BIN` | the program under test; else `ferry` on the path |
//! | `FERRY_KERNEL`, `FERRY_INITRAMFS` | bzImage of kernel 6.12 and its initramfs |
//! | `FERRY_KERNEL_6_1`, `FERRY_INITRAMFS_6_1` | the same of kernel 6.1 |
//! | `FERRY_INITRAMFS_TOOLS` | the initramfs of 6.12 with programs for measuring |
//! | `FERRY_VMLINUX` | ELF file of kernel 6.12 |
//! | `FERRY_DEVICES` | a file with a line `ROLE ADDRESS` for each device; else the lab's are taken |

use crate::HostDevice;
use std::env;
use std::fs;
use std::path::PathBuf;

/// The devices of the lab's topologies. What two of them have is at the same place in both; the second half is only in
/// the one with one of everything.
const LAB_DEVICES: &str = "\
nic 0000:01:00.0
peer 0000:02:00.0
disk 0000:03:00.0
conventional 0000:05:01.0
conventional 0000:05:02.0
edu 0000:00:0b.0
vga 0000:00:02.0
usb 0000:00:03.0
testdev 0000:00:04.0
shared 0000:00:05.0
pair 0000:06:00.0
pair 0000:07:00.0
e1000 0000:00:0d.0
rtl8139 0000:00:0e.0
";

/// A kernel to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 6.12 as a bzImage.
    Packed,
    /// 6.1 as a bzImage.
    Older,
    /// 6.12 as an ELF file. Boots fastest, since nothing is unpacked under emulation.
    Elf,
}

impl Kernel {
    /// The kernel's file.
    #[must_use]
    pub fn path(self) -> PathBuf {
        named(match self {
            Self::Packed => "FERRY_KERNEL",
            Self::Older => "FERRY_KERNEL_6_1",
            Self::Elf => "FERRY_VMLINUX",
        })
    }

    /// The initramfs with its modules.
    #[must_use]
    pub fn initramfs(self) -> PathBuf {
        named(match self {
            Self::Packed | Self::Elf => "FERRY_INITRAMFS",
            Self::Older => "FERRY_INITRAMFS_6_1",
        })
    }
}

/// The initramfs of kernel 6.12 with programs for measuring.
#[must_use]
pub fn tools() -> PathBuf {
    named("FERRY_INITRAMFS_TOOLS")
}

fn named(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set; run the tests with `cargo ci test`"),
    }
}

/// The program under test.
#[must_use]
pub fn ferry() -> PathBuf {
    env::var_os("FERRY_BIN").map_or_else(|| "ferry".into(), PathBuf::from)
}

/// The devices of one role, in the order they are listed.
///
/// # Panics
/// When there is none: a test without its device must not pass.
#[must_use]
pub fn devices(role: &str) -> Vec<HostDevice> {
    let list = match env::var("FERRY_DEVICES") {
        Ok(path) => match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => panic!("FERRY_DEVICES: {path}: {error}"),
        },
        Err(_) => LAB_DEVICES.to_owned(),
    };
    let found = with_role(&list, role);
    assert!(
        !found.is_empty(),
        "this test needs a device of role '{role}'"
    );
    found
        .iter()
        .map(|address| HostDevice::at(address))
        .collect()
}

/// The first device of a role.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn device(role: &str) -> HostDevice {
    devices(role).remove(0)
}

fn with_role<'a>(list: &'a str, role: &str) -> Vec<&'a str> {
    list.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == role)
        .map(|(_, address)| address.trim())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_have_several_devices() {
        assert_eq!(with_role(LAB_DEVICES, "nic"), ["0000:01:00.0"]);
        assert_eq!(with_role(LAB_DEVICES, "conventional").len(), 2);
        assert!(with_role(LAB_DEVICES, "ni").is_empty());
    }
}
