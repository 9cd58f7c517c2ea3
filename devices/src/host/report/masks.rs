//! What is taken out of a report before anybody sees it: one table, each row with its reason.

use std::collections::BTreeSet;

use super::super::answers::{Answer, Answers, Question};
use super::pseudonyms::Pseudonyms;
use super::text;

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
        hide: Hide::Text(text::cmdline),
    },
    Mask {
        path: "/proc/cpuinfo",
        stays: "vendor, model, flags and address sizes of one processor",
        why: "no other line is of use",
        hide: Hide::Text(text::cpuinfo),
    },
    Mask {
        path: "/proc/interrupts",
        stays: "the kinds of IO-APIC",
        why: "names of devices and how busy they are",
        hide: Hide::Text(text::interrupts),
    },
    Mask {
        path: "/proc/net/route",
        stays: "interfaces of default routes",
        why: "addresses of networks and gateways",
        hide: Hide::Text(text::ipv4_routes),
    },
    Mask {
        path: "/proc/net/ipv6_route",
        stays: "interfaces of default routes",
        why: "addresses of networks and gateways",
        hide: Hide::Text(text::ipv6_routes),
    },
    Mask {
        path: "/proc/self/mountinfo",
        stays: "device numbers, block devices, well-known mount points",
        why: "paths and servers tell names of people, projects and hosts",
        hide: Hide::Text(text::mounts),
    },
    Mask {
        path: "/proc/swaps",
        stays: "block devices",
        why: "paths of swap files",
        hide: Hide::Text(text::swaps),
    },
    Mask {
        path: "/proc/*/stat",
        stays: "process id and start time",
        why: "the process's name and figures",
        hide: Hide::Text(text::process_stat),
    },
    Mask {
        path: "/proc/sys/kernel/osrelease",
        stays: "the version, and what a distribution adds to it",
        why: "names that somebody gave a kernel",
        hide: Hide::Text(text::kernel_release),
    },
    Mask {
        path: "/sys/kernel/irq/*/actions",
        stays: "drivers, usual names of interfaces",
        why: "names of interfaces that somebody chose",
        hide: Hide::Text(text::actions),
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
        hide: Hide::Text(text::node),
    },
    Mask {
        path: "**",
        stays: "all but MAC addresses, UUIDs, World Wide Names, and names of interfaces and volumes that somebody chose",
        why: "they identify the machine and its owner",
        hide: Hide::Names,
    },
];

/// Files whose whole text may be told: numbers and words of the kernel's, and records of Ferry's own. A file that Ferry
/// begins to read belongs here or into a row above; its text is in no report otherwise.
const PLAIN: &[&str] = &[
    "/proc/sys/kernel/random/boot_id",
    "/run/ferry/bound/*",
    "/sys/bus/pci/devices/*/boot_vga",
    "/sys/bus/pci/devices/*/class",
    "/sys/bus/pci/devices/*/device",
    "/sys/bus/pci/devices/*/irq",
    "/sys/bus/pci/devices/*/numa_node",
    "/sys/bus/pci/devices/*/reset_method",
    "/sys/bus/pci/devices/*/resource",
    "/sys/bus/pci/devices/*/sriov_numvfs",
    "/sys/bus/pci/devices/*/sriov_totalvfs",
    "/sys/bus/pci/devices/*/vendor",
    "/sys/class/block/*/dev",
    "/sys/class/iommu/*/*/*",
    "/sys/kernel/iommu_groups/*/name",
    "/sys/kernel/iommu_groups/*/reserved_regions",
    "/sys/kernel/iommu_groups/*/type",
    "/sys/kernel/irq/*/chip_name",
    "/sys/kernel/mm/hugepages/*/*",
    "/sys/module/*/parameters/*",
    // Reduced as it is read.
    "/usr/share/hwdata/pci.ids",
    "/usr/share/misc/pci.ids",
    "/usr/share/pci.ids",
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
            // Text that nobody has thought of is not for others either.
            _ if question == Question::Text && !PLAIN.iter().any(|path| is_for(path, at)) => {
                Vec::new()
            }
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
    MASKS.iter().find(|mask| is_for(mask.path, at))
}

/// Whether a pattern is for a path: `*` is any one component, `**` any more.
fn is_for(pattern: &str, at: &str) -> bool {
    let mut parts = at.split('/');
    let matches = pattern.split('/').all(|wanted| match wanted {
        "**" => {
            while parts.next().is_some() {}
            true
        }
        "*" => parts.next().is_some(),
        wanted => parts.next() == Some(wanted),
    });
    matches && parts.next().is_none()
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

#[cfg(test)]
mod tests;
