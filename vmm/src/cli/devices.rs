//! `ferry devices`: what this host has for a guest.

pub(super) mod table;

use super::report::Place;
use super::{Exit, Failure};
use devices::driver::BoundRecords;
use devices::host::{ListedFunction, PciNames, Standing};
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

/// Prints the list; success even if nothing can be given to a guest.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let place = Place::new(arguments.report.as_deref())?;
    let root = &place.root;
    let host_failure = |problem| Failure {
        exit: Exit::HostSetUp,
        problems: vec![problem],
    };
    let all = root
        .inventory()
        .map_err(|error| host_failure(error.problem()))?;
    let functions: Vec<_> = all.iter().map(|listed| listed.function.clone()).collect();
    let names = root.pci_names(&functions);
    let never = |listed: &&ListedFunction| matches!(listed.standing, Standing::Never(_));
    let shown: Vec<_> = all
        .iter()
        .filter(|listed| arguments.all || !never(listed))
        .collect();
    let records = BoundRecords::of(root).map_err(|error| host_failure(error.problem()))?;
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
        let stale = shown
            .iter()
            .zip(&left)
            .filter(|(_, left)| **left == Some(true));
        let notes: Vec<_> = stale
            .map(|(one, _)| (one.function.sbdf, LEFT.to_owned()))
            .collect();
        place.for_reader(table::table(&shown, &names, &notes))
            + &table::left_out(all.len() - shown.len())
            + table::unseen(left.contains(&None))
    };
    // Who reads may have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
