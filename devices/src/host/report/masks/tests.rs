use super::super::super::saved::{GPU, NIC, SavedHost};
use super::super::super::usage::{self, Mount};
use super::super::HostReport;
use super::super::text::*;
use super::*;
use crate::host::saved::FakeLimits;
use proptest::prelude::*;

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn hide(mask: fn(&mut Pseudonyms, &[String]) -> Vec<String>, text: &str) -> String {
    mask(&mut Pseudonyms::default(), &lines(text)).join("\n")
}

#[test]
fn of_the_kernels_arguments_those_stay_that_decide() {
    assert_eq!(
        hide(
            cmdline,
            "root=UUID=1-2 luks.key=hush intel_iommu=on,sm_on iommu=pt vfio-pci.ids=10de:2684 ip=192.0.2.1::alice quiet"
        ),
        "* * intel_iommu=on,sm_on iommu=pt vfio-pci.ids=10de:2684 * *"
    );
}

#[test]
fn of_routes_the_default_ones_stay_without_their_gateways() {
    let v4 = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
              eth0 00000000 010200C0 0003 0 0 100 00000000 0 0 0\n\
              br-acme 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
    let masked = hide(ipv4_routes, v4);
    assert_eq!(masked, "eth0\t00000000\t00000000\t0003\t0\t0\t0\t00000000");
    assert_eq!(usage::ipv4_default(&masked).as_deref(), Some("eth0"));
    let zeros = "0".repeat(32);
    let v6 = format!(
        "{zeros} 00 {zeros} 00 fe8000000000000002005efffec0ffee 00000400 1 0 00000003 enx02005ec0ffee\n\
         20010db8000000000000000000000000 40 {zeros} 00 {zeros} 00000100 1 0 00000001 eth1\n"
    );
    let masked = hide(ipv6_routes, &v6);
    assert_eq!(masked, format!("{zeros} 00 interface-1"));
    assert_eq!(usage::ipv6_default(&masked).as_deref(), Some("interface-1"));
}

#[test]
fn of_mounts_the_devices_stay() {
    let masked = hide(
        mounts,
        "22 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw\n\
         23 22 253:0 /alice /home/alice rw - ext4 /dev/mapper/alice--laptop-home rw\n\
         24 22 0:5 / /proc rw - proc proc rw\n\
         25 22 0:50 / /mnt/nas rw - nfs4 nas.example.org:/secret rw,addr=192.0.2.7\n\
         26 22 0:31 /@ /data rw - btrfs /dev/sda rw\n",
    );
    assert_eq!(
        masked,
        "0 0 259:1 / / rw - * /dev/nvme0n1p1 rw\n\
         0 0 253:0 / /mount-1 rw - * /dev/volume-1 rw\n\
         0 0 0:31 / /mount-2 rw - * /dev/sda rw"
    );
    assert_eq!(masked.lines().filter_map(Mount::parse).count(), 3);
}

#[test]
fn of_other_files_only_what_is_asked_for_stays() {
    let swap = "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -2\n/home/alice/swapfile file 1 0 -3\n";
    assert_eq!(hide(swaps, swap), "Filename\n/dev/dm-1");
    let cpu = "processor : 0\nvendor_id\t: GenuineIntel\nserial : 42\nflags : vmx\n\nvendor_id : GenuineIntel\n";
    assert_eq!(hide(cpuinfo, cpu), "vendor_id\t: GenuineIntel\nflags : vmx");
    for release in [
        "6.12.9-amd64",
        "6.12.95+deb13-amd64",
        "6.8.0-45-generic",
        "6.11.4-301.fc41.x86_64",
        "6.1.0",
        "6.17.0-rc3",
    ] {
        let stays = release.strip_suffix("-rc3").unwrap_or(release);
        assert_eq!(hide(kernel_release, release), stays);
    }
    assert_eq!(hide(kernel_release, "6.12.9-acme-prod+"), "6.12.9");
    let table = " CPU0\n 9: 3 IR-IO-APIC 9-fasteoi acpi\n 40: 7 IR-PCI-MSI enp3s0-rx\n";
    assert_eq!(hide(interrupts, table), "IR-IO-APIC");
    assert_eq!(
        hide(node, "owner=alice group=wheel mode=0600 open=granted"),
        "owner=somebody group=somegroup mode=0600 open=granted"
    );
    let stat = format!("4711 (alice) job) S{} 123456 9 9", " 7".repeat(18));
    let masked = hide(process_stat, &stat);
    assert!(
        masked.starts_with("4711 (*) *") && masked.ends_with(" 123456"),
        "{masked}"
    );
    assert_eq!(
        masked
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(19),
        Some("123456")
    );
}

#[test]
fn rows_are_found_by_path() {
    let path = |at| row(at).map(|mask| mask.path);
    assert_eq!(path("/proc/4711/stat"), Some("/proc/*/stat"));
    assert_eq!(path("/dev/vfio/7"), Some("/dev/**"));
    assert_eq!(
        path("/sys/bus/pci/devices/0000:00:00.0/config"),
        Some("/sys/bus/pci/devices/*/config")
    );
    assert_eq!(
        path("/sys/bus/pci/devices/0000:00:00.0/x/config"),
        Some("**")
    );
}

#[test]
fn text_that_nobody_has_thought_of_is_in_no_report() {
    let host = SavedHost::intel();
    host.file("sys/bus/pci/devices/0000:03:00.0/serial_number", "secret");
    let text = HostReport::of(&host.root(), &FakeLimits::generous(), true, |root| {
        let read = root.text("sys/bus/pci/devices/0000:03:00.0/serial_number");
        assert_eq!(read.unwrap().as_deref(), Some("secret"));
    });
    let text = text.to_string();
    assert!(
        text.contains("serial_number") && !text.contains("secret"),
        "{text}"
    );
}

/// What a report is to hold can't be read past [`crate::host::HostRoot`].
#[test]
fn the_host_is_read_through_its_root_alone() {
    // The limits and descriptors of this process, and what others have open.
    let others = [
        "root.rs",
        "limits.rs",
        "holder.rs",
        "disk_holders.rs",
        "descriptor.rs",
        "saved.rs",
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/host");
    let mut ahead = vec![std::path::PathBuf::from(folder)];
    let mut read = 0;
    while let Some(path) = ahead.pop() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            ahead.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if name.ends_with(".rs") && name != "tests.rs" && !others.contains(&name.as_str()) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("fs::"), "{}", path.display());
            read += 1;
        }
    }
    assert!(read > 20);
}

#[test]
fn documentation_has_every_row() {
    let documentation = include_str!("../../../../../docs/host.md");
    for Mask {
        path, stays, why, ..
    } in MASKS
    {
        let row = format!("| `{path}` | {stays} | {why} |");
        assert!(documentation.contains(&row), "{row}");
    }
}

/// One owner's secrets.
struct Secrets {
    owner: String,
    mac: [u8; 6],
    ip: [u8; 4],
}

fn hex(bytes: &[u8], between: &str) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(between)
}

impl Secrets {
    fn uuid(&self) -> String {
        format!(
            "{}-aaaa-bbbb-cccc-{}",
            hex(&self.ip, ""),
            hex(&self.mac, "")
        )
    }

    fn dotted(&self) -> String {
        self.ip.map(|byte| byte.to_string()).join(".")
    }

    fn gateway(&self) -> String {
        let mut reversed = self.ip;
        reversed.reverse();
        hex(&reversed, "")
    }

    /// What must not be found in a report.
    fn texts(&self) -> Vec<String> {
        let mut reversed = self.mac;
        reversed.reverse();
        let mut texts = vec![
            self.owner.clone(),
            self.uuid(),
            self.dotted(),
            self.gateway(),
            hex(&self.ip, ""),
        ];
        for bytes in [self.mac, reversed] {
            // Both halves alone, too: a serial number has something between them.
            for part in [&bytes[..], &bytes[..3], &bytes[3..]] {
                texts.extend(["", ":", " "].map(|between| hex(part, between)));
            }
        }
        texts
    }

    /// A host full of them.
    fn host(&self) -> SavedHost {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        self.network(&host);
        self.storage(&host);
        self.config(&host);
        let Self { owner, .. } = self;
        let (uuid, ip) = (self.uuid(), self.dotted());
        host.file(
            "proc/cmdline",
            format!("root=UUID={uuid} ip={ip} key={owner} iommu=pt\n"),
        );
        host.file("proc/sys/kernel/random/boot_id", uuid);
        host.file("proc/sys/kernel/osrelease", format!("6.12.9-{owner}"));
        host
    }

    fn network(&self, host: &SavedHost) {
        let nic = "sys/bus/pci/devices/0000:03:00.0";
        let (bridge, mac) = (format!("br-{}", self.owner), hex(&self.mac, ""));
        let interface = format!("enx{mac}");
        for path in [
            format!("{nic}/net/{interface}/mtu"),
            format!("{nic}/leds/{}/x", hex(&self.mac, ":")),
            format!("sys/class/net/{interface}/upper_{bridge}/mtu"),
            format!("sys/class/net/{bridge}/mtu"),
        ] {
            host.file(&path, "1500");
        }
        host.file(
            &format!("sys/class/net/{interface}/address"),
            hex(&self.mac, ":"),
        );
        host.file(&format!("{nic}/irq"), "21\n");
        host.file(
            "sys/kernel/irq/21/actions",
            format!("{interface}-TxRx-0,{bridge}"),
        );
        let gateway = self.gateway();
        host.file(
            "proc/net/route",
            format!("Iface\n{bridge} 00000000 {gateway} 0003 0 0 0 00000000 0 0 0\n"),
        );
        let (zeros, half) = ("0".repeat(32), "0".repeat(16));
        host.file(
            "proc/net/ipv6_route",
            format!("{zeros} 00 {zeros} 00 fe80{half}{mac} 0 0 0 0 {interface}\n"),
        );
    }

    /// An NVMe disk with a partition, in an array, with a volume on that, in a mounted btrfs.
    fn storage(&self, host: &SavedHost) {
        let Self { owner, .. } = self;
        host.function(
            ("0000:04:00.0", "1b36:0010", "0x010802"),
            Some("nvme"),
            Some(17),
        );
        let (nvme, block) = (
            "sys/bus/pci/devices/0000:04:00.0/nvme/nvme0",
            "sys/class/block",
        );
        host.file(&format!("{nvme}/nvme0n1/nsid"), "1");
        host.file(&format!("{nvme}/serial"), owner);
        for (name, number) in [
            ("nvme0n1", "259:0"),
            ("nvme0n1p1", "259:1"),
            (&format!("md_{owner}"), "9:1"),
            ("dm-0", "253:0"),
        ] {
            host.file(&format!("{block}/{name}/dev"), number);
        }
        host.file(&format!("{block}/nvme0n1/nvme0n1p1/partition"), "1");
        host.file(&format!("{block}/nvme0n1p1/holders/md_{owner}/dev"), "");
        host.file(&format!("{block}/md_{owner}/holders/dm-0/dev"), "");
        host.file(
            &format!("sys/fs/btrfs/{}/devices/dm-0/dev", self.uuid()),
            "",
        );
        host.file("dev/dm-0", "");
        host.link(&format!("dev/mapper/{owner}-home"), "../dm-0");
        let nas = format!("{owner}:/x rw,addr={}", self.dotted());
        host.file(
            "proc/self/mountinfo",
            format!("22 1 0:31 / /home/{owner} rw - btrfs /dev/mapper/{owner}-home rw\n23 1 0:32 / /n rw - nfs4 {nas}\n"),
        );
        host.file(
            "proc/swaps",
            format!("Filename\n/home/{owner}/swap file 1 0 -2\n"),
        );
    }

    /// A serial number made of the MAC address, and the same behind VPD, in a capability of the vendor's and outside of all.
    fn config(&self, host: &SavedHost) {
        let [m0, m1, m2, m3, m4, m5] = self.mac;
        let mut config = [0_u8; 4096];
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x48].copy_from_slice(&[0x03, 0x80, 0, 0x80, m0, m1, m2, m3]);
        config[0x80..0x89].copy_from_slice(&[0x09, 0, 9, m0, m1, m2, m3, m4, m5]);
        config[0x90..0x96].copy_from_slice(&self.mac);
        config[0x100..0x104].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
        config[0x104..0x10c].copy_from_slice(&[m5, m4, m3, 0xfe, 0xff, m2, m1, m0]);
        host.file("sys/bus/pci/devices/0000:03:00.0/config", config);
    }
}

fn report(host: &SavedHost) -> String {
    HostReport::of(&host.root(), &FakeLimits::generous(), true, |root| {
        let _ = root.text("proc/sys/kernel/random/boot_id");
    })
    .to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_secret_of_a_host_is_in_its_report(
        owner in "[g-z]{6}[A-Z]{2}",
        // No byte that is found everywhere, so that none is taken for a secret.
        mac in prop::array::uniform6(0xc3_u8..=0xfd),
        ip in prop::array::uniform4(0xc3_u8..=0xfd),
    ) {
        let secrets = Secrets { owner, mac, ip };
        let text = report(&secrets.host()).to_lowercase();
        for secret in secrets.texts() {
            prop_assert!(!text.contains(&secret.to_lowercase()), "{secret} in\n{text}");
        }
    }
}

#[test]
fn uses_of_a_host_are_seen_in_its_report_by_other_names() {
    let secrets = Secrets {
        owner: "alice".to_owned(),
        mac: [0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7],
        ip: [192, 168, 200, 201],
    };
    let host = secrets.host();
    let report = HostReport::parse(&report(&host)).unwrap();
    let uses = |address: &str| {
        let uses = report
            .root()
            .host_uses(crate::host::saved::sbdf(address))
            .unwrap();
        uses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(uses(NIC.0), ["interface-1 carries the default route"]);
    assert_eq!(uses("0000:04:00.0"), ["dm-0 is mounted at /mount-1"]);
    assert_eq!(uses(GPU.0), [""; 0]);
    let line = report
        .root()
        .interrupt_line(crate::host::saved::sbdf(NIC.0))
        .unwrap();
    assert_eq!(line.users, ["interface-1-TxRx-0", "interface-2"]);
}
