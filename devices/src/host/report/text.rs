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

/// What `Owner::of` reads, at the places of proc_pid_stat(5).
pub(super) fn process_stat(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const STATE: usize = 3;
    const THREADS: usize = 20;
    const START: usize = 22;
    let masked = |line: &String| {
        let (pid, behind) = (line.split(' ').next()?, line.rsplit_once(')')?.1);
        let fields: Vec<_> = behind.split_whitespace().collect();
        let number = |at: usize| {
            let field = fields.get(at - STATE).copied()?;
            field.parse::<u64>().ok()
        };
        let state = fields
            .first()
            .and_then(|state| state.parse::<char>().ok())?;
        let (pid, threads, start) = (pid.parse::<u32>().ok()?, number(THREADS)?, number(START)?);
        let zeroes = |count: usize| " 0".repeat(count);
        let (before, between) = (zeroes(THREADS - STATE - 1), zeroes(START - THREADS - 1));
        Some(format!(
            "{pid} (*) {state}{before} {threads}{between} {start}"
        ))
    };
    lines.first().and_then(masked).into_iter().collect()
}

/// The lines of a `BoundRecord` that decide whether it is stale, as the record itself has them.
pub(super) fn bound_record(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let stays = |line: &&String| match line.split_once('=') {
        // The boot's is a UUID, which is hidden as any is.
        Some(("boot-id" | "former-driver", value)) => value.bytes().all(word),
        Some(("owner", value)) => value
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b' '),
        _ => false,
    };
    lines.iter().filter(stays).cloned().collect()
}

/// The release, if all of its parts are numbers or words of distributions, else the version alone.
pub(super) fn kernel_release(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    const OF_DISTRIBUTIONS: [&str; 14] = [
        "amd64",
        "generic",
        "default",
        "x86_64",
        "pve",
        "lts",
        "lowlatency",
        "cloud",
        "rt",
        "azure",
        "aws",
        "gcp",
        "hwe",
        "bpo",
    ];
    /// These have a number behind them.
    const NUMBERED: [&str; 5] = ["arch", "deb", "fc", "el", "bpo"];
    let release = lines.first().map(String::as_str).unwrap_or_default();
    let of_version = |letter: char| letter.is_ascii_digit() || letter == '.';
    let end = release.find(|letter| !of_version(letter));
    let (version, rest) = release.split_at(end.unwrap_or(release.len()));
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    let usual = |part: &str| {
        number(part)
            || OF_DISTRIBUTIONS.contains(&part)
            || NUMBERED
                .iter()
                .any(|word| part.strip_prefix(word).is_some_and(number))
    };
    let usual = rest.split(['-', '.', '+', '~']).all(usual);
    vec![if usual { release } else { version }.to_owned()]
}

/// Who listens to an interrupt: drivers and interfaces by their usual names, the interfaces that are hidden elsewhere by the
/// names that they have there.
pub(super) fn actions(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let mut hide = |user: &str| {
        let user = user.trim();
        if names.is_usual_listener(user) {
            return user.to_owned();
        }
        // A network driver names its queues after the interface.
        let ends = user
            .match_indices('-')
            .map(|(at, _)| at)
            .chain([user.len()]);
        for end in ends {
            let (interface, queue) = user.split_at(end);
            if let Some(name) = names.known("interface", interface)
                && names.is_usual_listener(queue)
            {
                return name + queue;
            }
        }
        names.of("listener", user)
    };
    let users = lines.iter().flat_map(|line| line.split(','));
    let users = users.filter(|user| !user.trim().is_empty());
    let users: Vec<_> = users.map(&mut hide).collect();
    vec![users.join(",")]
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
