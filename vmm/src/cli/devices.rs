//! `ferry devices`: what this host has for a guest.

pub(super) mod table;

use super::Failure;
use super::report::Place;
use devices::driver::BoundRecords;
use devices::host::{Hindrance, HostError, ListedFunction, PciNames, Standing};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What is said of a device that a run with `managed=on` has left on vfio-pci.
const LEFT: &str = "left by a ferry run that was killed: sudo ferry unbind --stale";

/// List this host's PCI devices and say which of them a guest can have
#[derive(clap::Args)]
#[command(after_help = "\
READY tells whether a guest can have the device: yes; bind, once vfio-pci has it; bind --group, once vfio-pci has others of \
its IOMMU group too, which a line below names; in use, by the host, \
as a line below tells; never. OTHERS is how many others there are in the group, RESET is what the kernel resets it by, VECTORS \
the most interrupts it has (root only), VFS its virtual functions, those there are of those there may be.")]
pub(super) struct Arguments {
    /// Also list what no guest can have: bridges, and devices that no IOMMU translates
    #[arg(long)]
    all: bool,
    /// Print JSON (docs/host.md has its shape)
    #[arg(long)]
    json: bool,
    /// List the devices of the host that a file of ferry check --save-report is of
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A function as `--json` prints it.
#[derive(Serialize)]
pub(super) struct Entry<'a> {
    address: String,
    class: String,
    vendor_id: String,
    device_id: String,
    class_name: String,
    vendor_name: Option<&'a str>,
    device_name: Option<&'a str>,
    driver: Option<&'a str>,
    group: Option<u32>,
    other_members: Vec<String>,
    reset_methods: &'a [String],
    vectors: Option<Vectors>,
    virtual_functions: Option<VirtualFunctions>,
    /// Whether a run that was killed has left it; `None` if that can't be seen.
    left: Option<bool>,
    ready: &'static str,
    /// What stands in the way: addresses or a reason.
    obstacles: Vec<String>,
}

#[derive(Serialize)]
struct Vectors {
    msix: u16,
    msi: u16,
    intx: bool,
}

#[derive(Serialize)]
struct VirtualFunctions {
    enabled: u64,
    total: u64,
}

impl<'a> Entry<'a> {
    pub(super) fn new(listed: &'a ListedFunction, names: &'a PciNames, left: Option<bool>) -> Self {
        let function = &listed.function;
        let (ready, obstacles) = match &listed.standing {
            Standing::Now => ("yes", Vec::new()),
            Standing::AfterBind => ("bind", Vec::new()),
            Standing::AfterBindOfGroup(others) => (
                "bind-group",
                others.iter().map(ToString::to_string).collect(),
            ),
            Standing::InUse(uses) => ("in-use", uses.iter().map(ToString::to_string).collect()),
            Standing::Never(hindrance) => ("never", vec![hindrance.to_string()]),
        };
        Self {
            address: function.sbdf.to_string(),
            class: format!("{:06x}", function.class),
            vendor_id: format!("{:04x}", function.vendor),
            device_id: format!("{:04x}", function.device),
            class_name: names.kind(function),
            vendor_name: names.vendor(function),
            device_name: names.device(function),
            driver: function.driver.as_deref(),
            group: function.group,
            other_members: listed.members.iter().map(ToString::to_string).collect(),
            reset_methods: &listed.reset,
            vectors: listed.vectors.map(|vectors| Vectors {
                msix: vectors.msix,
                msi: vectors.msi,
                intx: vectors.intx,
            }),
            virtual_functions: listed.virtual_functions.map(|some| VirtualFunctions {
                enabled: some.enabled,
                total: some.total,
            }),
            left,
            ready,
            obstacles,
        }
    }
}

/// The table, with a note on what was left bound as `for_reader` has it.
fn text_of(
    shown: &[&ListedFunction],
    names: &PciNames,
    left: &[Option<bool>],
    for_reader: &dyn Fn(String) -> String,
) -> String {
    let stale = shown
        .iter()
        .zip(left)
        .filter(|(_, left)| **left == Some(true));
    let notes: Vec<_> = stale
        .map(|(one, _)| (one.function.sbdf, for_reader(LEFT.to_owned())))
        .collect();
    table::table(shown, names, &notes)
}

/// Whether a guest can have it, or could if something else on this host were different.
fn is_worth_showing(listed: &ListedFunction) -> bool {
    !matches!(
        listed.standing,
        Standing::Never(Hindrance::Bridge | Hindrance::NoIommu)
    )
}

/// Prints the list; success even if nothing can be given to a guest.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let place = Place::new(arguments.report.as_deref())?;
    let root = &place.root;
    let host_failure = |error: HostError| Failure::host(error.problem());
    let all = root.inventory().map_err(host_failure)?;
    let functions: Vec<_> = all.iter().map(|listed| listed.function.clone()).collect();
    let names = root.pci_names(&functions);
    let shown = all
        .iter()
        .filter(|listed| arguments.all || is_worth_showing(listed));
    let shown: Vec<_> = shown.collect();
    let records = BoundRecords::of(root).map_err(host_failure)?;
    let left = |one: &&ListedFunction| records.is_stale(root, one.function.sbdf);
    let left: Vec<_> = shown.iter().map(left).collect();
    let text = if arguments.json {
        let entries = shown.iter().zip(&left);
        let entries: Vec<_> = entries
            .map(|(one, left)| Entry::new(one, &names, *left))
            .collect();
        // Plain data: there is nothing in it that can't be written.
        serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n"
    } else {
        text_of(&shown, &names, &left, &|note| place.for_reader(note))
            + &table::left_out(all.len() - shown.len())
            + table::unseen(left.contains(&None))
    };
    // Who reads may have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::host::HostRoot;
    use std::fs;

    fn listed(standing: Standing) -> ListedFunction {
        ListedFunction {
            function: devices::host::HostFunction {
                sbdf: "0000:01:00.0".parse().unwrap(),
                vendor: 0x8086,
                device: 0x10c9,
                class: 0x02_0000,
                driver: None,
                group: None,
            },
            members: Vec::new(),
            reset: Vec::new(),
            vectors: None,
            virtual_functions: None,
            standing,
        }
    }

    #[test]
    fn endpoints_that_something_keeps_from_a_guest_are_listed_with_it() {
        let shown = |standing| is_worth_showing(&listed(standing));
        assert!(shown(Standing::AfterBind));
        assert!(shown(Standing::Never(Hindrance::Withheld)));
        assert!(shown(Standing::Never(Hindrance::BridgeInGroup)));
        assert!(!shown(Standing::Never(Hindrance::Bridge)));
        assert!(!shown(Standing::Never(Hindrance::NoIommu)));
    }

    #[test]
    fn name_of_a_device_is_no_command() {
        let folder = tempfile::tempdir().unwrap();
        let ids = folder.path().join("usr/share/misc");
        fs::create_dir_all(&ids).unwrap();
        fs::write(ids.join("pci.ids"), "8086  Intel\n\t10c9  Pseudo Card\n").unwrap();
        let one = listed(Standing::AfterBind);
        let root = HostRoot::at(folder.path());
        let names = root.pci_names(std::slice::from_ref(&one.function));
        let text = text_of(&[&one], &names, &[Some(true)], &|note| {
            note.replace("sudo ", "")
        });
        assert!(text.contains("Intel Pseudo Card"), "{text}");
        assert!(text.contains("killed: ferry unbind --stale"), "{text}");
    }
}
