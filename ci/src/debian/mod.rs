//! Debian packages without root: fetched through a private apt root, unpacked into a folder, never installed.

mod apt;
mod keyring;

pub use apt::{AptRoot, Kernel, Package};

/// A Debian release to fetch from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12, whose kernel 6.1 is the older of the two guest kernels.
    Bookworm,
    /// Debian 13, the system of L1.
    Trixie,
}

impl Suite {
    /// The name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// The programs of L1; their dependencies come along.
pub const LAB_PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "bsdutils",
    "busybox-static",
    "coreutils",
    "debianutils",
    "diffutils",
    "ethtool",
    "findutils",
    "fio",
    "gdb-minimal",
    "grep",
    "gzip",
    "iperf3",
    "iproute2",
    "iputils-arping",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "mawk",
    "mount",
    "nvme-cli",
    "pciutils",
    "procps",
    "psmisc",
    "qemu-system-x86",
    "sed",
    "socat",
    "strace",
    "tar",
    "tcpdump",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// The package that names the current kernel of a release.
pub const KERNEL_PACKAGE: &str = "linux-image-amd64";
