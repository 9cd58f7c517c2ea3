//! `ferry unbind`: functions of the host go back to the drivers they had.

use super::bind::{self, Work, addresses, driver_name, short};
use super::{Exit, Failure};
use devices::driver::Binder;
use devices::host::{HostFunction, HostRoot, Problem, explain_busy};
use devices::pci::HostSbdf;
use std::process::ExitCode;
use std::time::Duration;

/// Give devices back to the drivers that ferry bind took them from
#[derive(clap::Args)]
#[command(after_help = "\
A device that something else than ferry bind gave to vfio-pci gets the driver that the kernel has for it. One that a guest \
has is left alone. Needs root.")]
pub(super) struct Arguments {
    /// Addresses, as listed by: ferry devices
    #[arg(value_name = "BDF", required_unless_present = "stale")]
    devices: Vec<String>,
    /// Also all that a ferry run with managed=on has left, because it was killed
    #[arg(long)]
    stale: bool,
}

/// Unbinds, and says what went where: nothing if it is known before that one of them can't be; but what
/// fails in the middle does not keep the others from their drivers.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut devices = addresses(&arguments.devices)?;
    let work = Work::begin("unbind", Duration::ZERO)?;
    let binder = work.binder();
    if arguments.stale {
        let stale = binder.records.stale(&work.root);
        devices.extend(stale.map_err(|error| bind::host_problem(error.problem()))?);
        if devices.is_empty() {
            bind::say(std::iter::once("Nothing was left.\n".to_owned()));
        }
    }
    let functions = unbindable(&binder, &devices)?;
    let names = work.root.pci_names(&functions);
    let mut problems = Vec::new();
    for function in &functions {
        match binder.unbind(function.sbdf) {
            Ok(driver) => bind::say(std::iter::once(format!(
                "{} {}: {} -> {}\n",
                short(function.sbdf),
                names.kind(function),
                driver_name(function.driver.as_deref()),
                driver_name(driver.as_deref()),
            ))),
            Err(error) => {
                let cause = error.problem();
                problems.push(Problem::new(
                    format!("{function} is not back on its driver"),
                    format!("{}: {}", cause.what, cause.why),
                    cause.remedy,
                ));
            }
        }
    }
    done(problems).map(|()| ExitCode::SUCCESS)
}

/// The functions to unbind, each once; or what is wrong with any of them.
fn unbindable(binder: &Binder<'_>, devices: &[HostSbdf]) -> Result<Vec<HostFunction>, Failure> {
    let mut functions: Vec<HostFunction> = Vec::new();
    let mut problems = Vec::new();
    for sbdf in devices {
        if functions.iter().any(|function| function.sbdf == *sbdf) {
            continue;
        }
        let function = match binder.root.function(*sbdf) {
            Ok(function) => function,
            Err(error) => {
                problems.push(error.problem());
                continue;
            }
        };
        // One that a bind cut short has left without a driver is given back, too.
        let record = binder.records.read(*sbdf);
        let left = function.driver.is_none() && record.is_ok_and(|record| record.is_some());
        if function.on_vfio() || left {
            problems.extend(held(binder.root, &function));
        } else {
            problems.push(not_bound(&function));
        }
        functions.push(function);
    }
    done(problems).map(|()| functions)
}

fn done(problems: Vec<Problem>) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::HostSetUp,
        problems,
    })
}

fn not_bound(function: &HostFunction) -> Problem {
    let why = match &function.driver {
        Some(driver) => format!("its driver is {driver}"),
        None => "it has no driver, and ferry bind took it from none".to_owned(),
    };
    Problem::new(
        format!("{function} is not on vfio-pci"),
        why,
        "name only devices that are; their drivers are listed by: ferry devices",
    )
}

/// The kernel would wait until nobody has the device open, and the host's driver can't have a device
/// whose group a guest has.
fn held(root: &HostRoot, function: &HostFunction) -> Option<Problem> {
    let group = function.group?;
    let holders = match root.holders_of_group(group) {
        Ok(holders) => holders,
        Err(error) => return Some(error.problem()),
    };
    let busy = explain_busy(root, group);
    (!holders.is_empty()).then(|| Problem {
        what: format!("{function} is in use"),
        ..busy
    })
}
