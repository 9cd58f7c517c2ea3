//! The sides of a comparison, each started as a sensible user would start it.

use std::path::PathBuf;
use std::process::Command;

use crate::borrowed::Function;

/// What every side is given.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) ferry: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) cmdline: String,
    pub(super) device: Function,
    /// Where Ferry writes its figures.
    pub(super) figures: PathBuf,
    /// Where a monitor listens.
    pub(super) socket: PathBuf,
}

/// A virtual machine monitor with or without an assigned device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Ferry,
    Q35,
    FerryBare,
    Microvm,
    FerryServed,
    Q35Served,
}

impl Side {
    /// Where QEMU's guest takes a device while it runs.
    pub(super) const ROOT_PORT: &'static str = "port0";

    /// What the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ferry => "Ferry, igb assigned",
            Self::Q35 => "QEMU q35, igb assigned",
            Self::FerryBare => "Ferry, no device",
            Self::Microvm => "QEMU microvm, no device",
            Self::FerryServed => "Ferry",
            Self::Q35Served => "QEMU q35",
        }
    }

    /// The command line.
    pub(super) fn words(self, guest: &Guest) -> Vec<String> {
        let image = |path: &PathBuf| path.display().to_string();
        let mut words: Vec<String> = Vec::new();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        match self {
            Self::Ferry | Self::FerryBare | Self::FerryServed => {
                add(&[
                    &image(&guest.ferry),
                    "run",
                    "--cpus",
                    "1",
                    "--memory",
                    "512M",
                ]);
                add(&["--kernel", &image(&guest.kernel)]);
                add(&["--initramfs", &image(&guest.initramfs)]);
                add(&["--cmdline", &guest.cmdline]);
                add(&["--stats", &image(&guest.figures)]);
            }
            Self::Q35 | Self::Microvm | Self::Q35Served => {
                let machine = match self {
                    Self::Microvm => "microvm,rtc=on",
                    _ => "q35",
                };
                add(&["qemu-system-x86_64", "-machine", machine]);
                add(&["-enable-kvm", "-cpu", "host", "-smp", "1", "-m", "512"]);
                // Without defaults, -nographic alone would leave the guest without its serial port.
                add(&[
                    "-nodefaults",
                    "-no-user-config",
                    "-nographic",
                    "-serial",
                    "stdio",
                ]);
                add(&["-no-reboot", "-kernel", &image(&guest.kernel)]);
                add(&["-initrd", &image(&guest.initramfs)]);
                add(&["-append", &guest.cmdline]);
            }
        }
        let host = format!("host={}", guest.device.short());
        match self {
            Self::Ferry => add(&["--device", &host]),
            Self::Q35 => add(&["-device", &format!("vfio-pci,{host}")]),
            Self::FerryBare | Self::Microvm => {}
            Self::FerryServed => add(&["--api-socket", &image(&guest.socket)]),
            Self::Q35Served => {
                let port = format!("pcie-root-port,id={}", Self::ROOT_PORT);
                let monitor = format!("unix:{},server=on,wait=off", guest.socket.display());
                add(&["-device", &port, "-qmp", &monitor]);
            }
        }
        words
    }

    /// The command line as a command.
    pub(super) fn command(self, guest: &Guest) -> Command {
        let words = self.words(guest);
        let (program, arguments) = words.split_at(1);
        let mut command = Command::new(program.first().map_or("", String::as_str));
        command.args(arguments);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 6] = [
        Side::Ferry,
        Side::Q35,
        Side::FerryBare,
        Side::Microvm,
        Side::FerryServed,
        Side::Q35Served,
    ];

    fn guest() -> Guest {
        Guest {
            ferry: "/f".into(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            cmdline: "console=ttyS0 quiet".into(),
            device: Function::new("01:00.0").unwrap(),
            figures: "/s".into(),
            socket: "/a".into(),
        }
    }

    #[test]
    fn all_sides_get_the_same_kernel_initramfs_and_command_line() {
        for side in SIDES {
            let words = side.words(&guest());
            for shared in ["/k", "/i", "console=ttyS0 quiet"] {
                assert!(
                    words.iter().any(|word| word == shared),
                    "{side:?}: {shared}"
                );
            }
        }
    }

    #[test]
    fn the_device_goes_to_the_sides_that_say_so() {
        let assigned = |side: Side| side.words(&guest()).join(" ").contains("host=01:00.0");
        assert!(assigned(Side::Ferry) && assigned(Side::Q35));
        assert!(!SIDES[2..].iter().any(|side| assigned(*side)));
    }
}
