//! What the host itself uses a function for, so that it isn't taken from it by mistake.
//!
//! Sources: Documentation/filesystems/proc.rst of Linux 6.12 (mountinfo, swaps), the `upper_*` links of
//! net/core/dev.c, `holders` of block/holder.c.

use super::function;
use super::holder::Holder;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

const BLOCK: &str = "sys/class/block";
const NET: &str = "sys/class/net";

/// A use that the host makes of a function and loses when its driver goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostUse {
    /// The firmware's screen, and the console's until another takes over.
    BootVga,
    /// A mounted file system is on it.
    Disk {
        /// The block device that is mounted: a disk, a partition, or a volume made of it.
        device: String,
        /// Where, or the first of several places.
        mount_point: String,
    },
    /// A process has a disk on it open and may write to it.
    Open {
        /// The block device.
        device: String,
        /// The process.
        holder: Holder,
    },
    /// A file system on it is mounted where only some processes see it.
    MountedElsewhere {
        /// The block device that is mounted.
        device: String,
        /// Where they see it.
        mount_point: String,
        /// One of them.
        holder: Holder,
    },
    /// Memory is swapped to it.
    Swap {
        /// The block device.
        device: String,
    },
    /// Packets to anywhere go through it.
    DefaultRoute {
        /// Its network interface. The route may name a bridge, bond or VLAN above it.
        interface: String,
    },
}

/// Continues a sentence: `… because enp1s0 carries the default route`.
impl fmt::Display for HostUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootVga => f.write_str("it is the screen that the host started on"),
            Self::Disk {
                device,
                mount_point,
            } => write!(f, "{device} is mounted at {mount_point}"),
            Self::Open { device, holder } => write!(f, "{device} is open in {holder}"),
            Self::MountedElsewhere {
                device,
                mount_point,
                holder,
            } => write!(
                f,
                "{device} is mounted at {mount_point} in the mount namespace of {holder}"
            ),
            Self::Swap { device } => write!(f, "{device} is swap space"),
            Self::DefaultRoute { interface } => write!(f, "{interface} carries the default route"),
        }
    }
}

impl HostRoot {
    /// What the host uses a function for; of a bridge, what it uses those behind it for. A disk counts
    /// by what is made of it, too: partitions, device-mapper and md volumes, btrfs. Not seen are ZFS
    /// pools, loop devices and what [`Self::host_uses_by_processes`] tells.
    ///
    /// # Errors
    /// When a file of sysfs or procfs is there and can't be read.
    pub fn host_uses(&self, sbdf: HostSbdf) -> Result<Vec<HostUse>, HostError> {
        let directory = function::directory(sbdf);
        let mut uses = Vec::new();
        if self.count(directory.join("boot_vga"))? == Some(1) {
            uses.push(HostUse::BootVga);
        }
        let below = Below::of(self, sbdf);
        let volumes = self.volumes_of(&below.disks)?;
        uses.extend(self.disk_uses(&volumes)?);
        let routed = self.default_route_interfaces()?;
        for interface in below.interfaces {
            let names = self.with_uppers(&interface)?;
            if names.iter().any(|name| routed.contains(name)) {
                uses.push(HostUse::DefaultRoute { interface });
            }
        }
        Ok(uses)
    }

    /// The same and what only a walk through all processes shows, of which a user sees his own: disks that are open for
    /// writing, or mounted in other mount namespaces.
    ///
    /// # Errors
    /// When a file of sysfs or procfs is there and can't be read.
    pub fn host_uses_by_processes(&self, sbdf: HostSbdf) -> Result<Vec<HostUse>, HostError> {
        let mut uses = self.host_uses(sbdf)?;
        let volumes = self.volumes_of(&Below::of(self, sbdf).disks)?;
        let mounted = uses.iter().filter_map(|one| match one {
            HostUse::Disk { device, .. } => Some(device.clone()),
            _ => None,
        });
        let mounted = mounted.collect();
        uses.extend(self.disk_holders(&volumes, &mounted)?);
        Ok(uses)
    }

    fn disk_uses(&self, volumes: &BTreeMap<String, String>) -> Result<Vec<HostUse>, HostError> {
        if volumes.is_empty() {
            return Ok(Vec::new());
        }
        let mut uses = Vec::new();
        let mounts = self.text("proc/self/mountinfo")?.unwrap_or_default();
        let mounted = self.mounts_of(volumes, &mounts);
        uses.extend(
            mounted
                .into_iter()
                .map(|(device, mount_point)| HostUse::Disk {
                    device,
                    mount_point,
                }),
        );
        let swaps = self.text("proc/swaps")?.unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let file = unescape(line.split_whitespace().next().unwrap_or_default());
            let name = self.block_name(&file);
            if let Some(device) = name.filter(|name| volumes.contains_key(name)) {
                uses.push(HostUse::Swap { device });
            }
        }
        Ok(uses)
    }

    /// Which of the volumes a list of mounts has, each with the first of its places.
    pub(super) fn mounts_of(
        &self,
        volumes: &BTreeMap<String, String>,
        mountinfo: &str,
    ) -> BTreeMap<String, String> {
        let mut mounted = BTreeMap::new();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            let by_number = volumes.iter().find(|(_, number)| **number == mount.number);
            // btrfs mounts have a number of their own.
            let by_source = || volumes.get_key_value(&self.block_name(&mount.source)?);
            if let Some((device, _)) = by_number.or_else(by_source) {
                mounted.entry(device.clone()).or_insert(mount.mount_point);
            }
        }
        mounted
    }

    /// Disks and all that is made of them, each with its `major:minor`.
    fn volumes_of(&self, disks: &BTreeSet<String>) -> Result<BTreeMap<String, String>, HostError> {
        let mut volumes = BTreeMap::new();
        let btrfs = self.btrfs_volumes()?;
        let mut ahead: Vec<String> = disks.iter().cloned().collect();
        while let Some(name) = ahead.pop() {
            if volumes.contains_key(&name) {
                continue;
            }
            let directory = Path::new(BLOCK).join(&name);
            ahead.extend(self.names(directory.join("holders"))?);
            for child in self.names(&directory)? {
                if self.exists(directory.join(&child).join("partition")) {
                    ahead.push(child);
                }
            }
            for volume in btrfs.iter().filter(|volume| volume.contains(&name)) {
                ahead.extend(volume.iter().cloned());
            }
            let number = self.text(directory.join("dev"))?.unwrap_or_default();
            volumes.insert(name, number);
        }
        Ok(volumes)
    }

    /// The block devices of each mounted btrfs.
    fn btrfs_volumes(&self) -> Result<Vec<Vec<String>>, HostError> {
        const BTRFS: &str = "sys/fs/btrfs";
        let volumes = self.names(BTRFS)?.into_iter().map(|uuid| {
            let devices = Path::new(BTRFS).join(uuid).join("devices");
            self.names(devices)
        });
        volumes.collect()
    }

    /// The kernel's name of a node in /dev, which may be a link.
    pub(super) fn block_name(&self, node: &str) -> Option<String> {
        let relative = node
            .strip_prefix('/')
            .filter(|node| node.starts_with("dev/"))?;
        self.final_name(Path::new(relative))
    }

    /// An interface with those above it: its bridge, bond, VLANs, and theirs.
    fn with_uppers(&self, interface: &str) -> Result<BTreeSet<String>, HostError> {
        let mut found = BTreeSet::new();
        let mut ahead = vec![interface.to_owned()];
        while let Some(name) = ahead.pop() {
            let entries = self.names(Path::new(NET).join(&name))?;
            let uppers = entries
                .iter()
                .filter_map(|name| name.strip_prefix("upper_"));
            if found.insert(name) {
                ahead.extend(uppers.map(str::to_owned));
            }
        }
        Ok(found)
    }

    fn default_route_interfaces(&self) -> Result<BTreeSet<String>, HostError> {
        let v4 = self.text("proc/net/route")?.unwrap_or_default();
        let v6 = self.text("proc/net/ipv6_route")?.unwrap_or_default();
        let v4 = v4.lines().filter_map(ipv4_default);
        Ok(v4.chain(v6.lines().filter_map(ipv6_default)).collect())
    }
}

/// Disks and network interfaces below a function, by the kernel's names.
#[derive(Default)]
struct Below {
    disks: BTreeSet<String>,
    interfaces: BTreeSet<String>,
}

impl Below {
    fn of(root: &HostRoot, sbdf: HostSbdf) -> Self {
        let mut below = Self::default();
        below.walk(root, &function::directory(sbdf));
        below
    }

    /// A driver's devices may be several folders down (SCSI, USB). Links lead elsewhere and aren't
    /// followed; what goes away meanwhile is not there.
    fn walk(&mut self, root: &HostRoot, directory: &Path) {
        let class = directory.file_name().map(|name| name.to_string_lossy());
        for name in root.subfolders(directory) {
            let folder = directory.join(&name);
            match class.as_deref() {
                Some("block") => {
                    self.disks.insert(name);
                }
                Some("net") => {
                    self.interfaces.insert(name);
                }
                _ if root.exists(folder.join("nsid")) => {
                    self.disks.insert(nvme_head(&name));
                }
                _ => self.walk(root, &folder),
            }
        }
    }
}

/// The disk that a path to an NVMe namespace belongs to: `nvme0c1n1` is one of the paths to `nvme0n1`,
/// which as a disk with several paths is not below any of its controllers.
fn nvme_head(name: &str) -> String {
    let parts = name.rsplit_once('n').and_then(|(controller, namespace)| {
        let (subsystem, path) = controller.rsplit_once('c')?;
        path.parse::<u32>().ok()?;
        Some(format!("{subsystem}n{namespace}"))
    });
    parts.unwrap_or_else(|| name.to_owned())
}

/// A line of mountinfo: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`.
pub(super) struct Mount {
    pub(super) number: String,
    pub(super) mount_point: String,
    pub(super) source: String,
}

impl Mount {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        Some(Self {
            number: mount.next()?.to_owned(),
            mount_point: unescape(mount.nth(1)?),
            source: unescape(file_system.split(' ').nth(1)?),
        })
    }
}

/// Undoes the octal escapes of procfs (`\040` is a blank).
pub(super) fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            bytes.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Interface of a default route: `Iface Destination Gateway Flags RefCnt Use Metric Mask …`.
pub(super) fn ipv4_default(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [interface, destination, _, _, _, _, _, mask, ..] = fields.as_slice() else {
        return None;
    };
    let zero = |field: &str| field.bytes().all(|digit| digit == b'0');
    (zero(destination) && zero(mask)).then(|| (*interface).to_owned())
}

/// The same of IPv6: destination and its prefix length first, the interface last.
pub(super) fn ipv6_default(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [destination, length, .., interface] = fields.as_slice() else {
        return None;
    };
    let zero = |field: &str| field.bytes().all(|digit| digit == b'0');
    (zero(destination) && zero(length)).then(|| (*interface).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::saved::{GPU, NIC, SavedHost, sbdf};
    use super::*;

    const NVME: (&str, &str, &str) = ("0000:04:00.0", "1b36:0010", "0x010802");
    const ROUTE: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";

    /// A disk with two partitions below the NVMe controller.
    fn with_disk() -> SavedHost {
        let host = SavedHost::intel();
        host.function(NVME, Some("nvme"), Some(17));
        let below = "sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/nvme0n1";
        host.file(&format!("{below}/nsid"), "1\n");
        block(&host, "nvme0n1", "259:0");
        for (partition, number) in [("nvme0n1p1", "259:1"), ("nvme0n1p2", "259:2")] {
            host.file(&format!("{BLOCK}/nvme0n1/{partition}/partition"), "1\n");
            block(&host, partition, number);
        }
        host
    }

    fn block(host: &SavedHost, name: &str, number: &str) {
        host.file(&format!("{BLOCK}/{name}/dev"), format!("{number}\n"));
    }

    fn uses(host: &SavedHost, address: &str) -> Vec<String> {
        let uses = host.root().host_uses_by_processes(sbdf(address)).unwrap();
        uses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn idle_functions_are_used_for_nothing() {
        let host = with_disk();
        host.file(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n",
        );
        for address in [NIC.0, GPU.0, NVME.0] {
            assert_eq!(uses(&host, address), [""; 0], "{address}");
        }
    }

    #[test]
    fn screen_of_the_firmware_is_in_use() {
        let host = SavedHost::intel();
        let file = "sys/bus/pci/devices/0000:01:00.0/boot_vga";
        host.file(file, "0\n");
        assert_eq!(host.root().host_uses(sbdf(GPU.0)).unwrap(), []);
        host.file(file, "1\n");
        let uses = host.root().host_uses(sbdf(GPU.0)).unwrap();
        assert_eq!(uses, [HostUse::BootVga]);
    }

    #[test]
    fn mounted_partition_and_swap_are_in_use() {
        let host = with_disk();
        host.file(
            "proc/self/mountinfo",
            "22 1 259:1 / /mnt/with\\040blank rw shared:1 - ext4 /dev/nvme0n1p1 rw\n\
             23 22 259:1 /a /b rw - ext4 /dev/nvme0n1p1 rw\n",
        );
        host.file(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n",
        );
        assert_eq!(
            uses(&host, NVME.0),
            [
                "nvme0n1p1 is mounted at /mnt/with blank",
                "nvme0n1p2 is swap space"
            ]
        );
    }

    /// A process that has opened a node with these flags.
    fn opened(host: &SavedHost, pid: u32, node: &str, flags: &str) {
        host.file(&format!("proc/{pid}/comm"), "dd\n");
        host.link(&format!("proc/{pid}/fd/1"), node);
        let text = format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t2\n");
        host.file(&format!("proc/{pid}/fdinfo/1"), text);
    }

    #[test]
    fn disk_that_a_process_has_open_for_writing_is_in_use() {
        let host = with_disk();
        host.link("dev/disk/by-id/a", "../../nvme0n1p1");
        host.file("dev/nvme0n1p1", "");
        opened(&host, 4711, "/dev/disk/by-id/a", "0100002");
        opened(&host, 99, "/dev/nvme0n1", "0100001");
        opened(&host, 100, "/dev/nvme0n1", "0100000");
        opened(&host, 101, "/dev/sda", "0100001");
        assert_eq!(
            uses(&host, NVME.0),
            [
                "nvme0n1 is open in dd (pid 99)",
                "nvme0n1p1 is open in dd (pid 4711)"
            ]
        );
        assert_eq!(uses(&host, NIC.0), [""; 0]);
        // A list of all devices has no time for that.
        assert_eq!(host.root().host_uses(sbdf(NVME.0)).unwrap(), []);
    }

    #[test]
    fn disk_mounted_in_another_mount_namespace_is_in_use() {
        let host = with_disk();
        host.link("proc/self/ns/mnt", "mnt:[1]");
        let mount = |partition: u32, place: &str| {
            format!("22 1 259:{partition} / {place} rw - ext4 /dev/nvme0n1p{partition} rw\n")
        };
        host.file("proc/self/mountinfo", mount(1, "/here"));
        for (pid, namespace) in [(10, "mnt:[1]"), (20, "mnt:[2]"), (30, "mnt:[2]")] {
            host.file(&format!("proc/{pid}/comm"), "podman\n");
            host.link(&format!("proc/{pid}/ns/mnt"), namespace);
        }
        // A namespace has the host's mounts, too.
        let mounts = mount(1, "/there") + &mount(2, "/data");
        host.file("proc/20/mountinfo", mounts.as_bytes());
        host.file("proc/30/mountinfo", mounts);
        assert_eq!(
            uses(&host, NVME.0),
            [
                "nvme0n1p1 is mounted at /here",
                "nvme0n1p2 is mounted at /data in the mount namespace of podman (pid 20)"
            ]
        );
    }

    #[test]
    fn volume_on_a_volume_on_a_partition_is_in_use() {
        let host = with_disk();
        host.file(&format!("{BLOCK}/nvme0n1p2/holders/md0/dev"), "");
        host.file(&format!("{BLOCK}/md0/holders/dm-3/dev"), "");
        block(&host, "md0", "9:0");
        block(&host, "dm-3", "253:3");
        host.file("dev/dm-3", "");
        host.link("dev/mapper/vg-root", "../dm-3");
        let mount = "22 1 253:3 / / rw - ext4 /dev/mapper/vg-root rw\n";
        host.file("proc/self/mountinfo", mount);
        assert_eq!(uses(&host, NVME.0), ["dm-3 is mounted at /"]);
        // btrfs on it: the number says nothing, the source does.
        let mount = "22 1 0:31 /@ / rw - btrfs /dev/mapper/vg-root rw\n";
        host.file("proc/self/mountinfo", mount);
        assert_eq!(uses(&host, NVME.0), ["dm-3 is mounted at /"]);
    }

    #[test]
    fn disk_in_a_btrfs_mounted_by_another_of_its_disks_is_in_use() {
        let host = with_disk();
        block(&host, "sda", "8:0");
        for name in ["sda", "nvme0n1p2"] {
            host.file(&format!("sys/fs/btrfs/0-1-2/devices/{name}/dev"), "");
        }
        host.file(
            "proc/self/mountinfo",
            "22 1 0:31 / /data rw - btrfs /dev/sda rw\n",
        );
        assert_eq!(uses(&host, NVME.0), ["sda is mounted at /data"]);
    }

    #[test]
    fn disk_behind_scsi_or_with_several_paths_is_found() {
        let host = SavedHost::intel();
        let sata = ("0000:00:1f.2", "8086:2922", "0x010601");
        host.function(sata, Some("ahci"), Some(3));
        let below = "sys/bus/pci/devices/0000:00:1f.2";
        host.file(
            &format!("{below}/ata1/host0/target0:0:0/0:0:0:0/block/sda/size"),
            "",
        );
        block(&host, "sda", "8:0");
        host.function(NVME, Some("nvme"), Some(17));
        let path = "sys/bus/pci/devices/0000:04:00.0/nvme/nvme3/nvme1c3n2";
        host.file(&format!("{path}/nsid"), "2\n");
        block(&host, "nvme1n2", "259:7");
        host.file(
            "proc/self/mountinfo",
            "22 1 8:0 / / rw - ext4 /dev/sda rw\n23 1 259:7 / /x rw - xfs /dev/nvme1n2 rw\n",
        );
        assert_eq!(uses(&host, sata.0), ["sda is mounted at /"]);
        assert_eq!(uses(&host, NVME.0), ["nvme1n2 is mounted at /x"]);
    }

    #[test]
    fn interface_of_the_default_route_is_in_use() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:03:00.0/net/enp3s0/mtu", "1500");
        let line = |line: &str| host.file("proc/net/route", format!("{ROUTE}{line}"));
        line("enp3s0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n");
        assert_eq!(uses(&host, NIC.0), [""; 0]);
        line("enp3s0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n");
        assert_eq!(uses(&host, NIC.0), ["enp3s0 carries the default route"]);
        assert_eq!(uses(&host, GPU.0), [""; 0]);
    }

    #[test]
    fn default_route_through_a_bridge_on_a_bond_is_seen() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:03:00.0/net/enp3s0/mtu", "1500");
        host.file("sys/class/net/enp3s0/upper_bond0/mtu", "");
        host.file("sys/class/net/bond0/upper_br0/mtu", "");
        let zeros = "0".repeat(32);
        let route = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 1 0 00000003 br0\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n"
        );
        host.file("proc/net/ipv6_route", route);
        assert_eq!(uses(&host, NIC.0), ["enp3s0 carries the default route"]);
    }
}
