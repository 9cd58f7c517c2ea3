//! The command line of the QEMU that emulates L1.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::job::Share;
use super::{Accel, Topology};
use crate::program::Tree;

/// Slots of the root bus for the machine's own devices.
const SHARES_SLOT: u8 = 0x18;
const SERIAL_SLOT: u8 = 0x19;
const SHARES_MAX: usize = 8;

/// Large enough for an L2 guest of 5 GiB beside L1 itself; the host gives pages only as they are touched.
const MEMORY: &str = "8G";

/// The L1 devices are trusted by construction, so they bypass the emulated IOMMU and stay quick.
const OWN_DEVICE: &str = "disable-legacy=on,iommu_platform=off";

/// The serial ports that carry a batch job, by their name in L1; each is a socket `NAME.sock` of the host.
pub(super) const PORTS: [&str; 3] = ["control", "stdout", "stderr"];

/// Everything that differs between two runs.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) tree: &'a Tree,
    pub(super) accel: Accel,
    pub(super) topology: &'a Topology,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// The folder of sockets and disks.
    pub(super) run_dir: &'a Path,
    pub(super) console_log: PathBuf,
    pub(super) kernel_log: PathBuf,
    pub(super) shares: &'a [Share],
    /// Whether standard input and output become the terminal of L1.
    pub(super) interactive: bool,
}

impl Layout<'_> {
    /// QEMU's arguments.
    pub(super) fn args(&self) -> Result<Vec<String>> {
        if self.shares.len() >= SHARES_MAX {
            bail!("a lab machine can show at most {} folders", SHARES_MAX - 1);
        }
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            add(&["-L", &self.tree.path(folder).display().to_string()]);
        }
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-smp",
            "2",
            "-m",
            MEMORY,
        ]);
        add(self.accel.qemu_args());
        add(&[
            "-kernel",
            &self.kernel.display().to_string(),
            "-initrd",
            &self.initramfs.display().to_string(),
        ]);
        add(&["-append", &self.kernel_parameters()]);
        add(&[
            "-chardev",
            &format!("file,id=console,path={}", escaped(&self.console_log)),
            "-serial",
            "chardev:console",
        ]);
        args.extend(
            self.topology
                .qemu_args(|index| escaped(&disk_file(self.run_dir, index))),
        );
        args.extend(self.share_args());
        args.extend(self.port_args());
        Ok(args)
    }

    fn kernel_parameters(&self) -> String {
        // no_timer_check: on a busy host the first timer interrupts come too late for the kernel's test of the IOAPIC, and
        // with interrupt remapping it panics for that.
        format!(
            "console=ttyS0 {} panic=-1 quiet loglevel=4 no_timer_check tsc=reliable mitigations=off",
            self.topology.kernel
        )
    }

    fn share_args(&self) -> Vec<String> {
        let tree = Share {
            tag: "rootfs".to_owned(),
            path: self.tree.root().to_owned(),
        };
        let mut args = Vec::new();
        for (function, share) in [&tree].into_iter().chain(self.shares).enumerate() {
            let Share { tag, path } = share;
            args.push("-fsdev".to_owned());
            args.push(format!(
                "local,id={tag},path={},security_model=none,readonly=on,multidevs=remap",
                escaped(path)
            ));
            args.push("-device".to_owned());
            args.push(format!(
                "virtio-9p-pci,fsdev={tag},mount_tag={tag},addr={SHARES_SLOT:#x}.{function},multifunction=on,{OWN_DEVICE}"
            ));
        }
        args
    }

    fn port_args(&self) -> Vec<String> {
        let socket = |name: &str| escaped(&socket_file(self.run_dir, name));
        let mut chardevs: Vec<String> = PORTS
            .iter()
            .map(|name| format!("socket,id={name},path={}", socket(name)))
            .collect();
        chardevs.push(format!("file,id=dmesg,path={}", escaped(&self.kernel_log)));
        // A test in L1 can pull its own cable: the port ferry.qmp is a client of this machine's monitor.
        chardevs.push(format!(
            "socket,id=monitor,path={},server=on,wait=off",
            socket("qmp")
        ));
        chardevs.push(format!("socket,id=qmp,path={}", socket("qmp")));
        if self.interactive {
            chardevs.push("stdio,id=terminal,signal=off".to_owned());
        }
        let mut args: Vec<String> = chardevs
            .into_iter()
            .flat_map(|chardev| ["-chardev".to_owned(), chardev])
            .collect();
        args.extend(["-mon", "chardev=monitor,mode=control"].map(str::to_owned));
        let mut devices = vec![format!(
            "virtio-serial-pci,addr={SERIAL_SLOT:#x},{OWN_DEVICE}"
        )];
        if self.interactive {
            // Port 0 is the one that may be a console.
            devices.push("virtconsole,chardev=terminal,nr=0".to_owned());
        }
        for name in PORTS.iter().chain(&["dmesg", "qmp"]) {
            devices.push(format!("virtserialport,chardev={name},name=ferry.{name}"));
        }
        args.extend(
            devices
                .into_iter()
                .flat_map(|device| ["-device".to_owned(), device]),
        );
        args
    }
}

/// The socket of a port.
pub(super) fn socket_file(run_dir: &Path, port: &str) -> PathBuf {
    run_dir.join(format!("{port}.sock"))
}

/// The file behind a disk.
pub(super) fn disk_file(run_dir: &Path, index: usize) -> PathBuf {
    run_dir.join(format!("disk{index}.img"))
}

/// QEMU separates options with commas; a doubled one stands for itself.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(interactive: bool, shares: &[Share]) -> Result<Vec<String>> {
        Layout {
            tree: &Tree::new("/cache/root,fs".into()),
            accel: Accel::Tcg,
            topology: &super::super::TOPOLOGIES[0],
            kernel: "/k".into(),
            initramfs: "/i".into(),
            run_dir: Path::new("/run"),
            console_log: "/log/console".into(),
            kernel_log: "/log/dmesg".into(),
            shares,
            interactive,
        }
        .args()
    }

    fn share() -> Share {
        Share {
            tag: "share0".into(),
            path: "/repo".into(),
        }
    }

    #[test]
    fn shares_are_read_only_functions_of_one_slot() {
        let line = args(false, &[share()]).unwrap().join(" ");
        assert!(
            line.contains("id=rootfs,path=/cache/root,,fs,security_model=none,readonly=on"),
            "{line}"
        );
        assert!(
            line.contains("fsdev=share0,mount_tag=share0,addr=0x18.1,multifunction=on"),
            "{line}"
        );
    }

    #[test]
    fn too_many_shares_are_refused() {
        assert!(args(false, &vec![share(); 8]).is_err());
    }

    #[test]
    fn terminal_is_only_used_by_an_interactive_machine() {
        assert!(!args(false, &[]).unwrap().join(" ").contains("stdio"));
        assert!(
            args(true, &[])
                .unwrap()
                .join(" ")
                .contains("virtconsole,chardev=terminal")
        );
    }
}
