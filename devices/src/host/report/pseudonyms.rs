//! Names that stand for others in a report: the same for the same, so that what belongs together is still seen to.

use std::collections::BTreeMap;

/// The names given so far.
#[derive(Debug, Default)]
pub(super) struct Pseudonyms(BTreeMap<(&'static str, String), String>);

impl Pseudonyms {
    /// The name of a secret of some kind: `KIND-1`, `KIND-2`, ….
    pub(super) fn of(&mut self, kind: &'static str, secret: &str) -> String {
        if let Some(name) = self.known(kind, secret) {
            return name;
        }
        let number = self.0.keys().filter(|(known, _)| *known == kind).count() + 1;
        let name = format!("{kind}-{number}");
        self.0.insert((kind, secret.to_owned()), name.clone());
        name
    }

    /// The same where it has one already.
    pub(super) fn known(&self, kind: &'static str, secret: &str) -> Option<String> {
        self.0.get(&(kind, secret.to_owned())).cloned()
    }

    /// The kernel's or udev's name of a network interface as it is; another's, or one with a MAC address in it, hidden.
    pub(super) fn interface(&mut self, name: &str) -> String {
        if is_usual_interface(name) {
            name.to_owned()
        } else {
            self.of("interface", name)
        }
    }

    /// The kernel's name of a block device as it is; one that somebody chose (`md_home`) hidden.
    pub(super) fn block(&mut self, name: &str) -> String {
        if is_usual_block(name) {
            name.to_owned()
        } else {
            self.of("disk", name)
        }
    }

    /// A node of a block device in /dev: links to one are named after what they are for.
    pub(super) fn block_node(&mut self, path: &str) -> String {
        if path.strip_prefix("/dev/").is_some_and(is_usual_block) {
            path.to_owned()
        } else {
            format!("/dev/{}", self.of("volume", path))
        }
    }

    /// Hides addresses and identifiers in any text: MAC addresses, World Wide Names, UUIDs.
    pub(super) fn sweep(&mut self, text: &str) -> String {
        let in_run = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, ':' | '-');
        let mut swept = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(in_run) {
            let (before, run) = rest.split_at(start);
            let end = run.find(|letter| !in_run(letter)).unwrap_or(run.len());
            let (run, after) = run.split_at(end);
            swept.push_str(before);
            match identifier(run) {
                Some(kind) => swept.push_str(&self.of(kind, run)),
                None => swept.push_str(run),
            }
            rest = after;
        }
        swept + rest
    }
}

/// The kernel's own names and those that udev makes of a card's place, less those it makes of the MAC address.
fn is_usual_interface(name: &str) -> bool {
    const KERNELS: [&str; 16] = [
        "eth", "wlan", "wwan", "usb", "bond", "br", "team", "virbr", "vmbr", "docker", "tap",
        "tun", "dummy", "ib", "vlan", "macvtap",
    ];
    const PLACES: [&str; 5] = ["en", "wl", "ww", "ib", "sl"];
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match name.rsplit_once('.') {
        Some((name, vlan)) if digits(vlan) => name,
        _ => name,
    };
    let of_place = |rest: &str| {
        let mut letters = rest.chars();
        let kind = letters.next().is_some_and(|kind| "aospPv".contains(kind));
        let number = letters.next().is_some_and(|number| number.is_ascii_digit());
        kind && number && letters.all(|letter| letter.is_ascii_alphanumeric())
    };
    name == "lo"
        || KERNELS
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(digits))
        || PLACES
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(of_place))
}

/// The kernel's names: letters and digits, or a number of the device mapper's.
fn is_usual_block(name: &str) -> bool {
    let name = name.strip_prefix("dm-").unwrap_or(name);
    let usual = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty() && name.bytes().all(usual)
}

/// What a run of letters, digits, colons and hyphens identifies.
fn identifier(run: &str) -> Option<&'static str> {
    for separator in [':', '-'] {
        let groups: Vec<&str> = run.split(separator).collect();
        let hexadecimal = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !groups.iter().all(hexadecimal) {
            continue;
        }
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        match lengths.as_slice() {
            [8, 4, 4, 4, 12] => return Some("uuid"),
            [4, 4, 4, 4] => return Some("wwn"),
            lengths if lengths.len() >= 6 && lengths.iter().all(|length| *length == 2) => {
                return Some("mac");
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_found_in_any_text_and_addresses_of_functions_are_none() {
        let mut names = Pseudonyms::default();
        let mut sweep = |text: &str| names.sweep(text);
        assert_eq!(sweep("at 52:54:00:aB:cd:ef."), "at mac-1.");
        assert_eq!(sweep("leds/52-54-00-ab-cd-ee/x"), "leds/mac-2/x");
        assert_eq!(
            sweep("boot-id=01234567-89ab-cdef-0123-456789abcdef"),
            "boot-id=uuid-1"
        );
        assert_eq!(sweep("5001:4380:0000:1234"), "wwn-1");
        for plain in [
            "0000:01:00.0",
            "vfio-pci",
            "12:30:45",
            "a-b",
            "dead:beef",
            "--",
            "",
        ] {
            assert_eq!(sweep(plain), plain);
        }
    }

    #[test]
    fn interfaces_that_somebody_named_are_hidden_alike_everywhere() {
        let mut names = Pseudonyms::default();
        for plain in [
            "lo",
            "eth0",
            "enp3s0f0np0",
            "enP2p1s0",
            "ens3",
            "eno1",
            "wlp2s0.100",
            "bond0",
            "br1",
        ] {
            assert_eq!(names.interface(plain), plain);
        }
        for (name, hidden) in [
            ("enx525400abcdef", "interface-1"),
            ("br-acme", "interface-2"),
            ("alice", "interface-3"),
            ("br-acme", "interface-2"),
        ] {
            assert_eq!(names.interface(name), hidden);
        }
    }

    #[test]
    fn volumes_that_somebody_named_are_hidden() {
        let mut names = Pseudonyms::default();
        for plain in ["/dev/sda1", "/dev/nvme0n1p2", "/dev/dm-3", "/dev/root"] {
            assert_eq!(names.block_node(plain), plain);
        }
        assert_eq!(names.block_node("/dev/mapper/alice-home"), "/dev/volume-1");
        assert_eq!(names.block_node("/dev/disk/by-uuid/1-2"), "/dev/volume-2");
        assert_eq!(names.block("md_home"), "disk-1");
    }
}
