//! `ferry vf`: SR-IOV virtual functions, made, set up and removed.

use super::bind::{Work, host_problem, say};
use super::devices::{Entry, table};
use super::{Failure, address, for_reader, link};
use devices::driver::{
    BoundRecords, DriverError, LinkSetting, RouteNetlink, VirtualFunctionsError, VirtualLink,
    link_of, nobody_loses, set_link, set_virtual_functions,
};
use devices::host::{HostError, HostRoot, ListedFunction, Problem};
use devices::pci::HostSbdf;
use serde::Serialize;
use std::process::ExitCode;

/// Make, set up, remove and list virtual functions of a device (SR-IOV), each of which a guest can have
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Set(Set),
    List(List),
}

/// Give a device COUNT virtual functions; or set up those, or one of them. Needs root
#[derive(clap::Args)]
#[command(after_help = "\
With COUNT, the virtual functions that the device had are gone, and the settings are those of all new ones. Without it, BDF \
is a virtual function. A setting that the driver of the physical function does not have is refused. For example:
  ferry vf set 01:00.0 4
  ferry vf set 01:10.0 --mac 52:54:00:12:34:56 --vlan 5")]
struct Set {
    /// Its address, as listed by: ferry devices
    #[arg(value_name = "BDF")]
    device: String,
    /// How many virtual functions; 0 removes them all
    count: Option<u64>,
    /// The address that a virtual function's driver finds; none leaves it to the driver
    #[arg(long, value_name = "ADDRESS|none")]
    mac: Option<String>,
    /// The VLAN that the card adds and takes away, so that a virtual function is in it and no other
    #[arg(long, value_name = "ID|none")]
    vlan: Option<String>,
    /// Whether a virtual function's driver may change its address and receive all packets
    #[arg(long, value_name = "on|off")]
    trust: Option<String>,
    /// Whether the card drops what a virtual function sends with another's address
    #[arg(long, value_name = "on|off")]
    spoof_check: Option<String>,
    /// Remove also those that the host uses
    #[arg(long)]
    force: bool,
}

/// List the virtual functions of a device, in the order of their numbers
#[derive(clap::Args)]
struct List {
    /// Its address, as listed by: ferry devices
    #[arg(value_name = "BDF")]
    device: String,
    /// Print JSON (docs/host.md has its shape)
    #[arg(long)]
    json: bool,
}

/// Does it, and lists what there is then.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let root = HostRoot::system();
    let text = match &arguments.command {
        Command::List(list) => {
            let device = address(&list.device).map_err(Failure::usage)?;
            physical(&root, device)?;
            let functions = root.virtual_functions_of(device);
            listed(&root, device, &functions.map_err(unreadable)?, list.json)?
        }
        Command::Set(set) => {
            let device = address(&set.device).map_err(Failure::usage)?;
            let settings = set.settings().map_err(Failure::usage)?;
            set.makes_sense(&settings).map_err(Failure::usage)?;
            let work = Work::begin("vf set")?;
            let functions = match set.count {
                Some(count) => make(&work, device, (count, set.force), &settings)?,
                None => vec![device],
            };
            set_up(&work, &functions, &settings).map_err(|error| set.refused(&error))?;
            listed(&root, device, &functions, false)?
        }
    };
    say(std::iter::once(text));
    Ok(ExitCode::SUCCESS)
}

impl Set {
    fn settings(&self) -> Result<Vec<LinkSetting>, Problem> {
        let values = [&self.mac, &self.vlan, &self.trust, &self.spoof_check];
        let given = link::NAMES.into_iter().zip(values);
        let given = given.filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let made = given.map(|(name, value)| {
            let written = format!("--{name} {} is not understood", super::shown(value));
            link::setting(name, value, &written)
        });
        made.collect()
    }

    /// Why the settings are not there.
    fn refused(&self, error: &DriverError) -> Failure {
        let mut problem = error.problem();
        if self.count.is_some() {
            problem.why += "; the virtual functions are there, and none has the settings";
        }
        host_problem(problem)
    }

    fn makes_sense(&self, settings: &[LinkSetting]) -> Result<(), Problem> {
        let device = &self.device;
        let problem = |what: &str, why: &str, remedy: String| Err(Problem::new(what, why, remedy));
        match self.count {
            None if settings.is_empty() => problem(
                "<COUNT> is missing",
                "ferry vf set is told a device and how many virtual functions it is to have, or settings of one",
                format!("write, for example: sudo ferry vf set {device} 2"),
            ),
            None if self.force => problem(
                "--force has no use here",
                "no virtual function is removed",
                "leave it out".to_owned(),
            ),
            Some(0) if !settings.is_empty() => problem(
                "there is nothing to be set up",
                "with 0 no virtual function is left",
                format!("leave the settings out: sudo ferry vf set {device} 0"),
            ),
            Some(count) if self.mac.is_some() && count > 1 => problem(
                "one --mac can't be the address of several virtual functions",
                "each on a wire has its own",
                format!("make them, then give each its own: sudo ferry vf set {device} {count}"),
            ),
            _ => Ok(()),
        }
    }
}

/// Makes virtual functions, and forgets those that are gone.
fn make(
    work: &Work,
    device: HostSbdf,
    count: (u64, bool),
    settings: &[LinkSetting],
) -> Result<Vec<HostSbdf>, Failure> {
    let root = &work.root;
    let failed = |error: VirtualFunctionsError| host_problem(error.problem());
    let before = root.virtual_functions_of(device).unwrap_or_default();
    // As many as there are stay, and so does who has them.
    if !settings.is_empty() {
        nobody_loses(root, device, count.1).map_err(failed)?;
    }
    let made = set_virtual_functions(root, root, device, count);
    let forgotten = work.binder().forget_gone(&before);
    let made = made.map_err(failed)?;
    forgotten.map_err(|error| host_problem(error.problem()))?;
    Ok(made)
}

/// Gives all of them the settings, or none. The user's word holds also when a run gives one of them back that it has set up.
fn set_up(
    work: &Work,
    functions: &[HostSbdf],
    settings: &[LinkSetting],
) -> Result<(), DriverError> {
    let root = &work.root;
    let mut former: Vec<(HostSbdf, Vec<LinkSetting>)> = Vec::new();
    for sbdf in functions.iter().filter(|_| !settings.is_empty()) {
        match set_link(root, &RouteNetlink, *sbdf, settings) {
            Ok(before) => former.push((*sbdf, before)),
            Err(error) => {
                for (sbdf, before) in former.iter().rev() {
                    if let Err(error) = set_link(root, &RouteNetlink, *sbdf, before) {
                        log::warn!("{error}, which it had before");
                    }
                }
                return Err(error.into());
            }
        }
        work.binder().settle(*sbdf, settings)?;
    }
    Ok(())
}

/// A device that may have virtual functions.
fn physical(root: &HostRoot, device: HostSbdf) -> Result<(), Failure> {
    let look = || -> Result<(), VirtualFunctionsError> {
        let function = root.function(device)?;
        if root.virtual_functions(device)?.is_some() {
            return Ok(());
        }
        let physical = root.physical_function(device)?;
        Err(VirtualFunctionsError::NotPhysical { function, physical })
    };
    look().map_err(|error| host_problem(error.problem()))
}

fn unreadable(error: HostError) -> Failure {
    host_problem(error.problem())
}

/// A virtual function as `--json` prints it.
#[derive(Serialize)]
struct VirtualEntry<'a> {
    #[serde(flatten)]
    entry: Entry<'a>,
    /// What its physical function settles for it.
    link: Option<Link>,
}

#[derive(Serialize)]
struct Link {
    mac: Option<String>,
    vlan: Option<u16>,
    trust: bool,
    spoof_check: bool,
}

impl From<VirtualLink> for Link {
    fn from(link: VirtualLink) -> Self {
        let mac = link.mac;
        Self {
            mac: mac.is_of_a_station().then(|| mac.to_string()),
            vlan: Some(link.vlan.id).filter(|id| *id != 0),
            trust: link.trust,
            spoof_check: link.spoof_check,
        }
    }
}

/// `functions` of `device` with their settings.
fn listed(
    root: &HostRoot,
    device: HostSbdf,
    functions: &[HostSbdf],
    json: bool,
) -> Result<String, Failure> {
    if functions.is_empty() && !json {
        let total = root.virtual_functions(device).map_err(unreadable)?;
        let total = total.map_or(0, |some| some.total);
        return Ok(for_reader(none(device, total)));
    }
    let all = root.inventory().map_err(unreadable)?;
    let found = |sbdf: &HostSbdf| all.iter().find(|one| one.function.sbdf == *sbdf);
    let shown: Vec<&ListedFunction> = functions.iter().filter_map(found).collect();
    let identities: Vec<_> = shown.iter().map(|one| one.function.clone()).collect();
    let names = root.pci_names(&identities);
    let link = |one: &ListedFunction| {
        let link = link_of(root, &RouteNetlink, one.function.sbdf);
        link.unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        })
    };
    if json {
        let records = BoundRecords::of(root).map_err(unreadable)?;
        let entries: Vec<_> = shown
            .iter()
            .map(|one| VirtualEntry {
                entry: Entry::new(one, &names, records.is_stale(root, one.function.sbdf)),
                link: link(one).map(Link::from),
            })
            .collect();
        // Plain data: there is nothing in it that can't be written.
        return Ok(serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n");
    }
    let notes: Vec<_> = shown
        .iter()
        .filter_map(|one| Some((one.function.sbdf, link::line(&link(one)?))))
        .collect();
    Ok(table::table(&shown, &names, &notes))
}

/// What to say of a device that may have `total` virtual functions.
fn none(device: HostSbdf, total: u64) -> String {
    match total {
        0 => format!("{device} has no virtual functions, and its driver allows none.\n"),
        _ => format!(
            "{device} has no virtual functions; it may have {total}: sudo ferry vf set {device} COUNT\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use clap::Parser;

    /// What is wrong with the words behind `ferry vf set`.
    fn told(words: &str) -> Option<String> {
        let line = format!("ferry vf set {words}");
        let arguments = cli::Arguments::try_parse_from(line.split(' ')).ok()?;
        let cli::Command::Vf(Arguments {
            command: Command::Set(set),
        }) = arguments.command
        else {
            return None;
        };
        let settings = set.settings();
        let problem = settings.and_then(|settings| set.makes_sense(&settings));
        problem.err().map(|problem| problem.to_string())
    }

    #[test]
    fn words_that_make_no_sense_together_are_refused() {
        let starts = |words, start: &str| {
            let text = told(words).unwrap();
            assert!(text.starts_with(start), "{text}");
            assert_eq!(text.lines().count(), 3, "{text}");
        };
        starts("01:00.0", "<COUNT> is missing\n");
        starts("01:00.0 2 --mac 52:54:00:12:34:56", "one --mac can't be");
        starts("01:10.0 --vlan 5 --force", "--force has no use here\n");
        starts("01:00.0 0 --vlan 5", "there is nothing to be set up\n");
        starts("01:10.0 --vlan x", "--vlan x is not understood\n");
    }

    #[test]
    fn a_count_settings_or_both_make_sense() {
        for words in [
            "01:00.0 2",
            "01:00.0 0 --force",
            "01:10.0 --mac none",
            "01:00.0 1 --mac 52:54:00:12:34:56",
            "01:00.0 4 --vlan 5 --trust off --spoof-check on",
        ] {
            assert_eq!(told(words), None, "{words}");
        }
    }

    #[test]
    fn device_that_may_have_none_gets_no_hint_how_to_make_some() {
        let device = "01:00.0".parse().unwrap();
        assert!(
            none(device, 7).ends_with("; it may have 7: sudo ferry vf set 0000:01:00.0 COUNT\n")
        );
        assert!(none(device, 0).ends_with(", and its driver allows none.\n"));
    }
}
