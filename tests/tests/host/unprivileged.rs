//! Runs without root, by what `resources/host` holds for them: a rule for udev, a unit for systemd.

use crate::{is_back, quietly};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output};
use tests::site::{self, Kernel};
use tests::{BOOT, Guest, HostDevice, Lent, MOMENT, Peer, Rebound, Run, shell, until};

const RESOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/host");
const RULES: &str = "/run/udev/rules.d";
/// The number of the group kvm here; a Debian system has it from the package udev.
const KVM: u32 = 104;

/// udev with Ferry's rule and Debian's, those left out by which it would rename network interfaces. It is gone when this
/// is dropped.
struct Udev {
    _kvm: Lent,
}

impl Udev {
    fn start() -> Self {
        let group = format!("kvm:x:{KVM}:");
        shell(&format!(
            "grep -qx {group} /etc/group || echo {group} >> /etc/group"
        ));
        fs::create_dir_all(RULES).unwrap();
        let rule = "60-ferry-vfio.rules";
        fs::copy(format!("{RESOURCES}/{rule}"), format!("{RULES}/{rule}")).unwrap();
        let _ = symlink("/dev/null", format!("{RULES}/80-net-setup-link.rules"));
        shell(&format!("udevadm verify --no-summary {RULES}/{rule}"));
        let kvm = Lent::with_mode("/dev/kvm", 0o600);
        shell("/usr/lib/systemd/systemd-udevd --daemon");
        shell("udevadm trigger --settle --subsystem-match=misc");
        Self { _kvm: kvm }
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        let _ = Command::new("udevadm").args(["control", "--exit"]).status();
        let _ = fs::remove_dir_all(RULES);
    }
}

/// systemd as the first process of a container that shares all but processes and mounts with the host. It is killed with
/// all it has started when this is dropped.
struct Systemd {
    container: Child,
    pid: String,
}

impl Systemd {
    fn start() -> Self {
        let target = "[Unit]\nDefaultDependencies=no\n";
        fs::write("/etc/systemd/system/quiet.target", target).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["/usr/lib/systemd/systemd", "--unit=quiet.target"]);
        let container = command.env("container", "lab").spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", container.id());
        let pid = until("the first process of the container", MOMENT, || {
            let text = fs::read_to_string(&children).ok()?;
            text.split_whitespace().next().map(str::to_owned)
        });
        let systemd = Self { container, pid };
        until("a running systemd", BOOT, || {
            systemd
                .ctl(&["is-system-running"])
                .status
                .success()
                .then_some(())
        });
        systemd
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid", "systemctl"]);
        command.args(words).output().unwrap()
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> String {
        let output = self.ctl(&["show", "--value", "--property", name, unit]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.container.kill();
        let _ = self.container.wait();
    }
}

#[test]
fn a_member_of_the_group_that_the_rule_names_runs_a_guest_with_a_device() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let _udev = Udev::start();
    quietly(&["bind", nic.address()]);
    shell("udevadm settle");
    let node = fs::metadata(nic.node()).unwrap();
    assert_eq!(
        (node.uid(), node.gid(), node.mode() & 0o777),
        (0, KVM, 0o660)
    );
    let device = format!("host={}", nic.address());
    let run = Run::new(Kernel::Elf)
        .modules("igb")
        .option("--device", device);
    let mut guest = Guest::of(run.as_member(KVM, "ulimit -l unlimited").start());
    let peer = Peer::up();
    peer.set_up_guest(&mut guest);
    let text = peer.ping(&mut guest, 3);
    assert!(text.contains("3 packets received"), "{text}");
    assert_eq!(guest.power_off(), 0);
    quietly(&["unbind", nic.address()]);
    is_back(&nic, &driver);
}

/// Writes what `systemctl start ferry@test` needs.
fn install(nic: &HostDevice) {
    let unit = "/etc/systemd/system/ferry@.service";
    fs::copy(format!("{RESOURCES}/ferry@.service"), unit).unwrap();
    let settings = format!("{unit}.d");
    for folder in ["/etc/ferry", "/srv/test", "/usr/local/bin", &settings] {
        fs::create_dir_all(folder).unwrap();
    }
    // What a whole system has and this one has not, such as mounted disks.
    let without = "[Unit]\nDefaultDependencies=no\n";
    fs::write(format!("{settings}/lab.conf"), without).unwrap();
    let own = "/usr/local/bin/ferry";
    fs::copy(shell("command -v ferry").trim(), own).unwrap();
    // Of a user that knows neither root's home nor the folders of a cache.
    let files = [Kernel::Elf.path(), Kernel::Elf.initramfs()];
    for (file, name) in files.iter().zip(["vmlinux", "initramfs"]) {
        let copy = Path::new("/srv/test").join(name);
        fs::copy(file, &copy).unwrap();
        shell(&format!("chmod a+r {}", copy.display()));
    }
    let address = nic.address();
    let words = format!(
        "DEVICES={address}\n\
         OPTIONS=\"--kernel /srv/test/vmlinux --initramfs /srv/test/initramfs --device host={address} \\\n\
         --cmdline 'console=ttyS0 ferry.modules=igb'\"\n"
    );
    fs::write("/etc/ferry/test.conf", words).unwrap();
}

#[test]
fn the_service_binds_runs_without_rights_and_gives_back() {
    let nic = site::device("nic");
    let driver = nic.driver().unwrap();
    let _back = Rebound(nic.clone());
    let _udev = Udev::start();
    install(&nic);
    let unit = "ferry@test.service";
    let verified = Command::new("systemd-analyze")
        .args(["verify", "/etc/systemd/system/ferry@.service"])
        .output()
        .unwrap();
    assert!(
        verified.status.success() && verified.stderr.is_empty(),
        "{verified:?}"
    );

    // As after a boot, when nothing has used VFIO yet.
    shell("modprobe -r vfio_pci vfio_iommu_type1 vfio");
    let systemd = Systemd::start();
    let started = systemd.ctl(&["start", unit]);
    assert!(started.status.success(), "{started:?}");
    assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
    let console = "/var/lib/private/ferry/test/console.log";
    until("the guest's driver", BOOT, || {
        let text = fs::read_to_string(console).ok()?;
        text.contains("igb 0000:00:01.0: Using MSI-X interrupts")
            .then_some(())
    });
    let rights = shell("grep -E '^(Uid|CapEff):' /proc/$(pgrep -x ferry)/status");
    let without = !rights.contains("Uid:\t0\t") && rights.contains("CapEff:\t0000000000000000\n");
    assert!(without, "{rights}");

    let stopped = systemd.ctl(&["stop", unit]);
    assert!(stopped.status.success(), "{stopped:?}");
    // Of a unit that failed this is "failed".
    assert_eq!(systemd.property(unit, "ActiveState"), "inactive");
    is_back(&nic, &driver);
}
