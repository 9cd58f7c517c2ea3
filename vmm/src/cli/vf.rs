//! `ferry vf`: SR-IOV virtual functions, made and removed.

use super::bind::{Work, host_problem, say};
use super::devices::table;
use super::{Failure, address, for_reader};
use devices::driver::{VirtualFunctionsError, set_virtual_functions};
use devices::host::{HostRoot, ListedFunction};
use devices::pci::HostSbdf;
use std::process::ExitCode;
use std::time::Duration;

/// Make, remove and list virtual functions of a device (SR-IOV), each of which a guest can have
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Give a device as many virtual functions as COUNT; the ones it had are gone. Needs root
    Set {
        /// Its address, as listed by: ferry devices
        #[arg(value_name = "BDF")]
        device: String,
        /// How many; 0 removes them all
        count: u64,
        /// Remove also those that the host uses
        #[arg(long)]
        force: bool,
    },
    /// List the virtual functions of a device, in the order of their numbers
    List {
        /// Its address, as listed by: ferry devices
        #[arg(value_name = "BDF")]
        device: String,
    },
}

/// Does it, and lists what there is then.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let root = HostRoot::system();
    let device = match &arguments.command {
        Command::List { device } => {
            let device = address(device).map_err(Failure::usage)?;
            physical(&root, device)?;
            device
        }
        Command::Set {
            device,
            count,
            force,
        } => {
            let device = address(device).map_err(Failure::usage)?;
            let work = Work::begin("vf set", Duration::ZERO)?;
            let before = root.virtual_functions_of(device).unwrap_or_default();
            let set = set_virtual_functions(&root, &root, device, (*count, *force));
            let forgotten = work.binder().forget_gone(&before);
            set.map_err(|error| host_problem(error.problem()))?;
            forgotten.map_err(|error| host_problem(error.problem()))?;
            device
        }
    };
    list(&root, device).map(|text| {
        say(std::iter::once(text));
        ExitCode::SUCCESS
    })
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

fn list(root: &HostRoot, device: HostSbdf) -> Result<String, Failure> {
    let host_failure = |error: devices::host::HostError| host_problem(error.problem());
    let wanted = root.virtual_functions_of(device).map_err(host_failure)?;
    if wanted.is_empty() {
        let total = root.virtual_functions(device).map_err(host_failure)?;
        let total = total.map_or(0, |some| some.total);
        return Ok(for_reader(none(device, total)));
    }
    let all = root.inventory().map_err(host_failure)?;
    let listed = |sbdf: &HostSbdf| all.iter().find(|one| one.function.sbdf == *sbdf);
    let shown: Vec<&ListedFunction> = wanted.iter().filter_map(listed).collect();
    let functions: Vec<_> = shown.iter().map(|one| one.function.clone()).collect();
    Ok(table::table(&shown, &root.pci_names(&functions), &[]))
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

    #[test]
    fn device_that_may_have_none_gets_no_hint_how_to_make_some() {
        let device = "01:00.0".parse().unwrap();
        assert!(
            none(device, 7).ends_with("; it may have 7: sudo ferry vf set 0000:01:00.0 COUNT\n")
        );
        assert!(none(device, 0).ends_with(", and its driver allows none.\n"));
    }
}
