//! Names of vendors, devices and classes from the host's `pci.ids`.
//!
//! Source: the file's own header, <https://pci-ids.ucw.cz>.

use std::collections::BTreeMap;

use std::path::Path;

use super::answers::{Answer, Question};
use super::function::HostFunction;
use super::root::HostRoot;

/// Where distributions keep the file, the maintained copy of hwdata first.
const PLACES: [&str; 3] = [
    "usr/share/hwdata/pci.ids",
    "usr/share/misc/pci.ids",
    "usr/share/pci.ids",
];

/// The names, or none where the host has no such file.
#[derive(Clone, Debug, Default)]
pub struct PciNames {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
    /// Upper two bytes of the class code.
    subclasses: BTreeMap<u16, String>,
}

/// Where in the file a line is.
enum Section {
    /// Before the first vendor or class.
    Head,
    Vendor(u16),
    Class(u8),
}

impl HostRoot {
    /// The names that this host has for `functions`. A host without the file has none, which is no error.
    #[must_use]
    pub fn pci_names(&self, functions: &[HostFunction]) -> PciNames {
        for place in PLACES.map(Path::new) {
            let Some(text) = self.untold_text(place) else {
                continue;
            };
            let names = PciNames::parse(&text, functions);
            // The rest of the file is of no interest to who reads a report.
            self.note(place, Question::Text, &Ok(()), |()| {
                Answer::Lines(names.to_lines())
            });
            return names;
        }
        PciNames::default()
    }
}

impl PciNames {
    /// Keeps what `functions` need of some thirty thousand lines.
    fn parse(text: &str, functions: &[HostFunction]) -> Self {
        let mut names = Self::default();
        let mut section = Section::Head;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(class) = line.strip_prefix("C ") {
                let id = class
                    .get(..2)
                    .and_then(|id| u8::from_str_radix(id, 16).ok());
                section = id.map_or(Section::Head, Section::Class);
                continue;
            }
            let depth = line.len() - line.trim_start_matches('\t').len();
            let id = |line: &str| {
                line.split_once("  ")
                    .map(|(id, name)| (id.to_owned(), name.trim().to_owned()))
            };
            let Some((id, name)) = id(line.trim_start_matches('\t')) else {
                continue;
            };
            let Ok(number) = u16::from_str_radix(&id, 16) else {
                continue;
            };
            match (depth, &section) {
                (0, _) => {
                    section = Section::Vendor(number);
                    if functions.iter().any(|f| f.vendor == number) {
                        names.vendors.insert(number, name);
                    }
                }
                (1, Section::Vendor(vendor)) => {
                    let key = (*vendor, number);
                    if functions.iter().any(|f| (f.vendor, f.device) == key) {
                        names.devices.insert(key, name);
                    }
                }
                (1, Section::Class(class)) => {
                    let subclass = u16::from(*class) << 8 | number & 0xff;
                    if functions
                        .iter()
                        .any(|f| f.class >> 8 == u32::from(subclass))
                    {
                        names.subclasses.insert(subclass, name);
                    }
                }
                _ => {}
            }
        }
        names
    }

    /// A `pci.ids` with these names and no others.
    fn to_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut vendors: Vec<u16> = self.vendors.keys().copied().collect();
        vendors.extend(self.devices.keys().map(|(vendor, _)| *vendor));
        vendors.sort_unstable();
        vendors.dedup();
        for vendor in vendors {
            let name = self.vendors.get(&vendor).map_or("", String::as_str);
            lines.push(format!("{vendor:04x}  {name}"));
            let devices = self.devices.range((vendor, 0)..=(vendor, u16::MAX));
            lines.extend(devices.map(|((_, device), name)| format!("\t{device:04x}  {name}")));
        }
        let mut class = None;
        for (subclass, name) in &self.subclasses {
            let [base, sub] = subclass.to_be_bytes();
            if class != Some(base) {
                class = Some(base);
                lines.push(format!("C {base:02x}  Class"));
            }
            lines.push(format!("\t{sub:02x}  {name}"));
        }
        lines
    }

    /// What kind of device it is.
    #[must_use]
    pub fn kind(&self, function: &HostFunction) -> String {
        let subclass = u16::try_from(function.class >> 8 & 0xffff).unwrap_or_default();
        match self.subclasses.get(&subclass) {
            Some(name) => name.clone(),
            None => function.kind().to_owned(),
        }
    }

    /// Who made it, if known.
    #[must_use]
    pub fn vendor(&self, function: &HostFunction) -> Option<&str> {
        self.vendors.get(&function.vendor).map(String::as_str)
    }

    /// What it is called, if known.
    #[must_use]
    pub fn device(&self, function: &HostFunction) -> Option<&str> {
        let key = (function.vendor, function.device);
        self.devices.get(&key).map(String::as_str)
    }

    /// Vendor and device, by number where the name is not known.
    #[must_use]
    pub fn title(&self, function: &HostFunction) -> String {
        match (self.vendor(function), self.device(function)) {
            (Some(vendor), Some(device)) => format!("{vendor} {device}"),
            (Some(vendor), None) => format!("{vendor} device {:04x}", function.device),
            (None, _) => format!("[{:04x}:{:04x}]", function.vendor, function.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::{GPU, NIC, SavedHost, sbdf};
    use super::*;

    const IDS: &str = "# comment\n0001  SafeNet\n\t10c9  not that one\n8086  Intel Corporation\n\t10c9  82576 Gigabit Network \
                       Connection\n\t\t1028 10c9  a subsystem\n\nffff  Illegal Vendor ID\n\nC 02  Network controller\n\t00  \
                       Ethernet controller\nC 03  Display controller\n\t00  VGA compatible controller\n\t\t00  VGA controller\n";

    fn names(host: &SavedHost) -> (PciNames, Vec<HostFunction>) {
        let functions = [NIC, GPU].map(|(at, ..)| host.root().function(sbdf(at)).unwrap());
        let functions = functions.to_vec();
        (host.root().pci_names(&functions), functions)
    }

    #[test]
    fn names_come_from_the_host() {
        let host = SavedHost::intel();
        host.file("usr/share/misc/pci.ids", IDS);
        let (names, functions) = names(&host);
        assert_eq!(names.kind(&functions[0]), "Ethernet controller");
        assert_eq!(names.kind(&functions[1]), "VGA compatible controller");
        assert_eq!(
            names.title(&functions[0]),
            "Intel Corporation 82576 Gigabit Network Connection"
        );
        assert_eq!(names.title(&functions[1]), "[10de:2684]");
    }

    #[test]
    fn a_device_newer_than_the_file_keeps_its_vendors_name() {
        let host = SavedHost::intel();
        host.file(
            "usr/share/hwdata/pci.ids",
            "8086  Intel Corporation\n\t1000  old\n",
        );
        host.file("usr/share/misc/pci.ids", IDS);
        let (names, functions) = names(&host);
        assert_eq!(names.title(&functions[0]), "Intel Corporation device 10c9");
    }

    #[test]
    fn without_the_file_there_are_numbers_and_the_specifications_classes() {
        let (names, functions) = names(&SavedHost::intel());
        assert_eq!(names.kind(&functions[0]), "Ethernet controller");
        assert_eq!(names.title(&functions[0]), "[8086:10c9]");
    }

    #[test]
    fn bytes_that_are_no_pci_ids_give_no_names() {
        let host = SavedHost::intel();
        host.file(
            "usr/share/misc/pci.ids",
            [0xff, b'\n', b'\t', 0xfe, b'C', b' ', 0xc3],
        );
        let (names, functions) = names(&host);
        assert_eq!(names.title(&functions[0]), "[8086:10c9]");
    }
}
