//! What is taken out of a report before anybody sees it: one table, each row with its reason.

use std::collections::BTreeSet;

use super::super::answers::{Answer, Answers, Question};
use super::super::usage::{self, Mount};
use super::process;
use super::pseudonyms::Pseudonyms;

/// A kind of secret.
pub(super) struct Mask {
    /// Where it is; `*` is any one component, `**` any path.
    pub(super) path: &'static str,
    /// What of that stays.
    pub(super) stays: &'static str,
    /// Why the rest goes.
    pub(super) why: &'static str,
    hide: Hide,
}

/// How it is hidden.
enum Hide {
    Text(fn(&mut Pseudonyms, &[String]) -> Vec<String>),
    Bytes(fn(&[u8]) -> Vec<u8>),
    /// Everywhere, by [`path`] and [`Pseudonyms::sweep`].
    Names,
}

/// All of them. docs/host.md has the same rows.
pub(super) const MASKS: &[Mask] = &[
    Mask {
        path: "/proc/cmdline",
        stays: "words about IOMMU, interrupts, PCI, VFIO, KVM and huge pages",
        why: "the others may hold passwords, addresses and names",
        hide: Hide::Text(cmdline),
    },
    Mask {
        path: "/proc/cpuinfo",
        stays: "vendor, model, flags and address sizes of one processor",
        why: "no other line is of use",
        hide: Hide::Text(cpuinfo),
    },
    Mask {
        path: "/proc/interrupts",
        stays: "the kinds of IO-APIC",
        why: "names of devices and how busy they are",
        hide: Hide::Text(interrupts),
    },
    Mask {
        path: "/proc/net/route",
        stays: "interfaces of default routes",
        why: "addresses of networks and gateways",
        hide: Hide::Text(ipv4_routes),
    },
    Mask {
        path: "/proc/net/ipv6_route",
        stays: "interfaces of default routes",
        why: "addresses of networks and gateways",
        hide: Hide::Text(ipv6_routes),
    },
    Mask {
        path: "/proc/self/mountinfo",
        stays: "device numbers, block devices, well-known mount points",
        why: "paths and servers tell names of people, projects and hosts",
        hide: Hide::Text(mounts),
    },
    Mask {
        path: "/proc/swaps",
        stays: "block devices",
        why: "paths of swap files",
        hide: Hide::Text(swaps),
    },
    Mask {
        path: "/proc/*/stat",
        stays: "process id and start time",
        why: "the process's name and figures",
        hide: Hide::Text(process_stat),
    },
    Mask {
        path: "/proc/sys/kernel/osrelease",
        stays: "the version, and what a distribution adds to it",
        why: "names that somebody gave a kernel",
        hide: Hide::Text(kernel_release),
    },
    Mask {
        path: "/sys/kernel/irq/*/actions",
        stays: "drivers, usual names of interfaces",
        why: "names of interfaces that somebody chose",
        hide: Hide::Text(actions),
    },
    Mask {
        path: "/sys/bus/pci/devices/*/config",
        stays: "header, capability chains, capabilities with no data of their own",
        why: "serial numbers (Device Serial Number, VPD) and registers that only the vendor knows",
        hide: Hide::Bytes(super::config::masked),
    },
    Mask {
        path: "/dev/**",
        stays: "owners and groups of the system",
        why: "names of people",
        hide: Hide::Text(node),
    },
    Mask {
        path: "**",
        stays: "all but MAC addresses, UUIDs, World Wide Names, and names of interfaces and volumes that somebody chose",
        why: "they identify the machine and its owner",
        hide: Hide::Names,
    },
];

/// The answers as they may be seen by others.
pub(super) fn masked(answers: &Answers) -> Answers {
    let answers = pruned(answers);
    let mut names = Pseudonyms::default();
    let mut copy = Answers::default();
    for (at, question, answer) in answers.iter() {
        let hidden = hidden(&mut names, at, question, answer);
        copy.note(path(&mut names, at, question), question, hidden);
    }
    copy
}

fn hidden(names: &mut Pseudonyms, at: &str, question: Question, answer: &Answer) -> Answer {
    let lines = match answer {
        Answer::Fails(errno) => return Answer::Fails(*errno),
        Answer::Bytes(bytes) => {
            let mask = row(at).and_then(|mask| match mask.hide {
                Hide::Bytes(hide) => Some(hide),
                Hide::Text(_) | Hide::Names => None,
            });
            // Bytes that no row knows are not for others.
            return Answer::Bytes(mask.map(|hide| hide(bytes)).unwrap_or_default());
        }
        Answer::Lines(lines) => lines,
    };
    let lines = match question {
        Question::Folder | Question::Subfolders => lines
            .iter()
            .map(|name| {
                let path = path(names, &format!("{at}/{name}"), question);
                path.rsplit('/').next().unwrap_or_default().to_owned()
            })
            .collect(),
        Question::Link if at.starts_with("/dev/") => {
            lines.iter().map(|name| names.block(name)).collect()
        }
        _ => match row(at).map(|mask| &mask.hide) {
            Some(Hide::Text(hide)) => hide(names, lines),
            _ => lines.clone(),
        },
    };
    Answer::Lines(
        lines
            .iter()
            .map(|line| visible(&names.sweep(line)))
            .collect(),
    )
}

/// The row for what is at a path.
fn row(at: &str) -> Option<&'static Mask> {
    MASKS.iter().find(|mask| {
        let mut parts = at.split('/');
        let matches = mask.path.split('/').all(|wanted| match wanted {
            "**" => {
                while parts.next().is_some() {}
                true
            }
            "*" => parts.next().is_some(),
            wanted => parts.next() == Some(wanted),
        });
        matches && parts.next().is_none()
    })
}

/// A path without names that somebody chose.
fn path(names: &mut Pseudonyms, at: &str, question: Question) -> String {
    if question == Question::Link && at.starts_with("/dev/") {
        return names.block_node(at);
    }
    let in_sys = at.starts_with("/sys/");
    let in_btrfs = at.starts_with("/sys/fs/btrfs/");
    let (mut above, mut before) = ("", "");
    let mut parts = Vec::new();
    for part in at.split('/') {
        let hidden = match (above, before) {
            (_, "net") if in_sys => names.interface(part),
            ("net", _) if in_sys => match part.strip_prefix("upper_") {
                Some(upper) => format!("upper_{}", names.interface(upper)),
                None => part.to_owned(),
            },
            (_, "block" | "holders") if in_sys => names.block(part),
            (_, "devices") if in_btrfs => names.block(part),
            // A partition.
            ("block", disk) if in_sys && part.starts_with(disk) => names.block(part),
            _ => part.to_owned(),
        };
        parts.push(names.sweep(&hidden));
        (above, before) = (before, part);
    }
    visible(&parts.join("/"))
}

/// Leaves out what nobody asks for again: folders on the way to no disk and no interface, attributes of interfaces and
/// disks, and that something is there where more is known of it.
fn pruned(answers: &Answers) -> Answers {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let is_class = |path: &str| matches!(last(path).as_str(), "net" | "block");
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (at, question, answer) in answers.iter() {
        match (question, answer) {
            (Question::There, _) => wanted.extend(at.strip_suffix("/nsid").map(str::to_owned)),
            (Question::Subfolders, Answer::Lines(names)) => {
                let paths = names.iter().map(|name| format!("{at}/{name}"));
                wanted.extend(paths.filter(|path| is_class(path)));
            }
            _ => {}
        }
    }
    let leads = |path: &str| {
        let below = format!("{path}/");
        let next = wanted.range(path.to_owned()..).next();
        next.is_some_and(|found| found == path)
            || wanted
                .range(below.clone()..)
                .next()
                .is_some_and(|found| found.starts_with(&below))
    };
    let mut copy = Answers::default();
    for (at, question, answer) in answers.iter() {
        let keep = |name: &str| match question {
            Question::Subfolders => is_class(at) || leads(&format!("{at}/{name}")),
            Question::Folder if at.starts_with("/sys/class/net/") => name.starts_with("upper_"),
            Question::Folder if is_disk(at) => name.starts_with(&last(at)),
            _ => true,
        };
        let answer = match answer {
            Answer::Lines(lines) if matches!(question, Question::Folder | Question::Subfolders) => {
                let kept: Vec<_> = lines.iter().filter(|name| keep(name)).cloned().collect();
                if kept.is_empty() {
                    continue;
                }
                Answer::Lines(kept)
            }
            answer => answer.clone(),
        };
        copy.note(at.to_owned(), question, answer);
    }
    copy.without_the_obvious()
}

fn is_disk(at: &str) -> bool {
    let name = at.strip_prefix("/sys/class/block/");
    name.is_some_and(|name| !name.contains('/'))
}

/// No letter but those that can be seen: the others are replaced.
fn visible(text: &str) -> String {
    let seen = |letter: char| letter == '\t' || !super::is_invisible(letter);
    text.chars()
        .map(|letter| {
            if seen(letter) {
                letter
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

fn cmdline(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn cpuinfo(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn interrupts(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let words = lines.iter().flat_map(|line| line.split_whitespace());
    let kinds: BTreeSet<_> = words
        .filter(|word| matches!(*word, "IO-APIC" | "IR-IO-APIC"))
        .collect();
    kinds.into_iter().map(str::to_owned).collect()
}

fn ipv4_routes(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let interfaces = lines.iter().filter_map(|line| usage::ipv4_default(line));
    let line = |interface: String| {
        let interface = names.interface(&interface);
        format!("{interface}\t00000000\t00000000\t0003\t0\t0\t0\t00000000")
    };
    interfaces.map(line).collect()
}

fn ipv6_routes(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
    let interfaces: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| usage::ipv6_default(line))
        .collect();
    let line = |interface: String| format!("{} 00 {}", "0".repeat(32), names.interface(&interface));
    interfaces.into_iter().map(line).collect()
}

fn mounts(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn swaps(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn process_stat(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn kernel_release(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn actions(names: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

fn node(_: &mut Pseudonyms, lines: &[String]) -> Vec<String> {
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

#[cfg(test)]
mod tests;
