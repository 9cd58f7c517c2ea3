//! What of a file's text goes into a report: for each file of [`super::masks`] its lines without what is nobody's business,
//! such that Ferry still finds in them what it looks for.

use std::collections::BTreeSet;

use super::super::usage::{self, Mount};
use super::process;
use super::pseudonyms::Pseudonyms;

pub(super) fn cmdline(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const KEYS: [&str; 22] = [
        "iommu",
        "intel_iommu",
        "amd_iommu",
        "amd_iommu_intr",
        "iommu.passthrough",
        "iommu.strict",
        "intremap",
        "nointremap",
        "nox2apic",
        "noapic",
        "nolapic",
        "x2apic_phys",
        "pci",
        "pcie_aspm",
        "pcie_ports",
        "pcie_acs_override",
        "hugepages",
        "hugepagesz",
        "default_hugepagesz",
        "mem_encrypt",
        "nokaslr",
        "nosmt",
    ];
    const MODULES: [&str; 7] = [
        "vfio",
        "vfio_pci",
        "vfio_iommu_type1",
        "iommufd",
        "kvm",
        "kvm_intel",
        "kvm_amd",
    ];
    let words = lines.iter().flat_map(|line| line.split_whitespace());
    let words: Vec<_> = words
        .map(|word| {
            let key = word.split('=').next().unwrap_or_default();
            let module = key
                .split_once('.')
                .map(|(module, _)| module.replace('-', "_"));
            let known = KEYS.contains(&key)
                || module.is_some_and(|module| MODULES.contains(&module.as_str()));
            if known { word } else { "*" }
        })
        .collect();
    vec![words.join(" ")]
}

pub(super) fn cpuinfo(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let first = lines.iter().take_while(|line| !line.trim().is_empty());
    let key = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
    first
        .filter(|line| {
            matches!(
                key(line).as_str(),
                "vendor_id" | "model name" | "flags" | "address sizes"
            )
        })
        .cloned()
        .collect()
}

pub(super) fn interrupts(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let words = lines.iter().flat_map(|line| line.split_whitespace());
    let kinds: BTreeSet<_> = words
        .filter(|word| matches!(*word, "IO-APIC" | "IR-IO-APIC"))
        .collect();
    kinds.into_iter().map(str::to_owned).collect()
}

pub(super) fn ipv4_routes(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let interfaces = lines.iter().filter_map(|line| usage::ipv4_default(line));
    let line = |interface: String| {
        let interface = names.interface(&interface);
        format!("{interface}\t00000000\t00000000\t0003\t0\t0\t0\t00000000")
    };
    interfaces.map(line).collect()
}

pub(super) fn ipv6_routes(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let interfaces: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| usage::ipv6_default(line))
        .collect();
    let line = |interface: String| format!("{} 00 {}", "0".repeat(32), names.interface(&interface));
    interfaces.into_iter().map(line).collect()
}

pub(super) fn mounts(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const WELL_KNOWN: [&str; 14] = [
        "/",
        "/boot",
        "/boot/efi",
        "/efi",
        "/home",
        "/mnt",
        "/nix",
        "/nix/store",
        "/opt",
        "/root",
        "/srv",
        "/tmp",
        "/usr",
        "/var",
    ];
    let mounts = lines.iter().filter_map(|line| Mount::parse(line));
    // What has no device is nobody's disk.
    let mounts =
        mounts.filter(|mount| !mount.number.starts_with("0:") || mount.source.starts_with("/dev/"));
    let line = |mount: Mount| {
        let source = if mount.source.starts_with("/dev/") {
            names.block_node(&mount.source)
        } else {
            "*".to_owned()
        };
        let point = if WELL_KNOWN.contains(&mount.mount_point.as_str()) {
            mount.mount_point
        } else {
            format!("/{}", names.of("mount", &mount.mount_point))
        };
        format!("0 0 {} / {point} rw - * {source} rw", mount.number)
    };
    mounts.map(line).collect()
}

pub(super) fn swaps(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let files = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let nodes = files
        .map(usage::unescape)
        .filter(|file| file.starts_with("/dev/"));
    let nodes: Vec<_> = nodes.map(|node| names.block_node(&node)).collect();
    ["Filename".to_owned()].into_iter().chain(nodes).collect()
}

pub(super) fn process_stat(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const START: usize = 22;
    let line = lines.first().map(String::as_str).unwrap_or_default();
    let pid = line
        .split(' ')
        .next()
        .filter(|pid| pid.parse::<u32>().is_ok());
    let start = line
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(START - 3));
    let start = start.filter(|start| start.parse::<u64>().is_ok());
    match (pid, start) {
        (Some(pid), Some(start)) => {
            vec![format!("{pid} (*) *{} {start}", " 0".repeat(START - 4))]
        }
        _ => Vec::new(),
    }
}

pub(super) fn kernel_release(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const OF_DISTRIBUTIONS: [&str; 8] = [
        "amd64",
        "generic",
        "default",
        "x86_64",
        "arch1",
        "pve",
        "lts",
        "lowlatency",
    ];
    let release = lines.first().map(String::as_str).unwrap_or_default();
    let of_version = |letter: char| letter.is_ascii_digit() || letter == '.';
    let end = release.find(|letter| !of_version(letter));
    let (version, rest) = release.split_at(end.unwrap_or(release.len()));
    let mut parts = rest.split(['-', '.', '+']);
    let known = parts.any(|part| OF_DISTRIBUTIONS.contains(&part));
    vec![if known { release } else { version }.to_owned()]
}

pub(super) fn actions(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let hide = |user: &str| {
        let user = user.trim();
        // A network driver names its queues after the interface.
        let ends = user
            .match_indices('-')
            .map(|(at, _)| at)
            .chain([user.len()]);
        for end in ends {
            let (interface, queue) = user.split_at(end);
            if let Some(name) = names.known("interface", interface) {
                return name + queue;
            }
        }
        user.to_owned()
    };
    let users = lines.iter().flat_map(|line| line.split(',')).map(hide);
    vec![users.collect::<Vec<_>>().join(",")]
}

pub(super) fn node(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const OF_THE_SYSTEM: [&str; 9] = [
        "root",
        "kvm",
        "vfio",
        "qemu",
        "libvirt",
        "libvirt-qemu",
        "disk",
        "video",
        "nogroup",
    ];
    let of_system = |name: String, other: &str| {
        if OF_THE_SYSTEM.contains(&name.as_str()) {
            name
        } else {
            other.to_owned()
        }
    };
    let accesses = lines.iter().filter_map(|line| process::parse_access(line));
    accesses
        .map(|mut access| {
            access.owner = of_system(access.owner, "somebody");
            access.group = of_system(access.group, "somegroup");
            process::access_line(&access)
        })
        .collect()
}
