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

    /// The archives that packages are looked for in.
    fn archives(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &["bookworm"],
            Self::Trixie => &["trixie", "trixie-backports"],
        }
    }

    /// What apt prefers, as apt_preferences(5) has it: backports only for QEMU.
    ///
    /// QEMU before 10.2 loses interrupts of a processor that runs nested guests: at each VMEXIT it clears one of the
    /// pending interrupts' bits without a lock, and with it at times the one that another thread has just set. A timer
    /// interrupt that is lost like this stops L1, once in some ten minutes of work.
    fn preferences(self) -> String {
        match self {
            Self::Bookworm => String::new(),
            Self::Trixie => "Package: qemu-* seabios ipxe-qemu\n\
                             Pin: release n=trixie-backports\n\
                             Pin-Priority: 990\n"
                .to_owned(),
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
    "systemd",
    "tar",
    "tcpdump",
    "udev",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// The package that names the current kernel of a release.
pub const KERNEL_PACKAGE: &str = "linux-image-amd64";
