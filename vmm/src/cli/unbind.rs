//! `ferry unbind`: functions of the host go back to the drivers they had.

use super::Failure;
use super::bind::{self, Work, addresses, driver_name, short};
use devices::driver::{Binder, DriverError};
use devices::host::{HostError, HostFunction, HostRoot, Problem, explain_busy, is_vfio};
use devices::pci::HostSbdf;
use std::process::ExitCode;

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
    let devices = addresses(&arguments.devices)?;
    let work = Work::begin("unbind")?;
    let binder = work.binder();
    let mut functions = unbindable(&binder, &devices)?;
    let mut problems = Vec::new();
    if arguments.stale {
        let left = stale(&binder, &mut problems)?;
        if left.is_empty() && functions.is_empty() && problems.is_empty() {
            bind::say(std::iter::once("Nothing was left.\n".to_owned()));
        }
        functions.extend(left);
    }
    let names = work.root.pci_names(&functions);
    for function in &functions {
        match give_back(&binder, function) {
            Ok(to) => bind::say(std::iter::once(format!(
                "{} {}: {} -> {to}\n",
                short(function.sbdf),
                names.kind(function),
                driver_name(function.driver.as_deref()),
            ))),
            Err(problem) => problems.push(problem),
        }
    }
    done(problems).map(|()| ExitCode::SUCCESS)
}

/// Tells who has it then.
fn give_back(binder: &Binder<'_>, function: &HostFunction) -> Result<String, Problem> {
    let sbdf = function.sbdf;
    let failed = |error: DriverError| {
        let cause = error.problem();
        Problem::new(
            format!("{function} is not back on its driver"),
            format!("{}: {}", cause.what, cause.why),
            cause.remedy,
        )
    };
    let record = binder.records.read(sbdf).map_err(failed)?;
    let virtual_functions = binder.root.virtual_functions_of(sbdf).unwrap_or_default();
    let mut driver = binder.unbind(sbdf).map_err(failed)?;
    if driver.is_none() && record.is_none() {
        // Its driver may never have been loaded: vfio-pci was quicker.
        match binder
            .root
            .modalias(sbdf)
            .map(|alias| bind::modprobe(&alias))
        {
            Some(Err(why)) => log::info!("no module for {sbdf}: {why}"),
            _ => driver = binder.unbind(sbdf).map_err(failed)?,
        }
    }
    binder.forget_gone(&virtual_functions).map_err(failed)?;
    match driver {
        Some(driver) if is_vfio(&driver) => Err(taken_again(function, &driver)),
        None if record.is_none() => Ok("no driver, as none of this host takes it".to_owned()),
        driver => Ok(driver_name(driver.as_deref()).to_owned()),
    }
}

/// A vfio driver that has the device without having been told by anyone but its configuration.
fn taken_again(function: &HostFunction, driver: &str) -> Problem {
    let HostFunction {
        sbdf,
        vendor,
        device,
        ..
    } = function;
    Problem::new(
        format!("{function} is on {driver} again"),
        format!(
            "{driver} takes every device [{vendor:04x}:{device:04x}] by itself, as its option ids= or its file new_id has it"
        ),
        format!(
            "take the ID from {driver}, and from its options in /etc/modprobe.d or on the kernel's command line for the \
             next boot: echo {vendor:04x} {device:04x} | sudo tee /sys/bus/pci/drivers/{driver}/remove_id && \
             sudo ferry unbind {sbdf}"
        ),
    )
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
        // What a bind that was cut short has left is put right, too, whichever driver it has.
        let left = binder
            .records
            .read(*sbdf)
            .is_ok_and(|record| record.is_some());
        if function.on_vfio() || left {
            problems.extend(held(binder, &function));
        } else {
            problems.push(not_bound(&function));
        }
        functions.push(function);
    }
    done(problems).map(|()| functions)
}

/// What runs that were killed have left. Each is judged alone: one that somebody has open by now keeps no other from its
/// driver, and of one that is gone the record goes.
fn stale(binder: &Binder<'_>, problems: &mut Vec<Problem>) -> Result<Vec<HostFunction>, Failure> {
    let left = binder.records.stale(binder.root);
    let mut functions = Vec::new();
    for sbdf in left.map_err(|error| bind::host_problem(error.problem()))? {
        match binder.root.function(sbdf) {
            Ok(function) => match held_open(binder.root, &function) {
                Some(problem) => problems.push(problem),
                None => functions.push(function),
            },
            Err(HostError::NoSuchFunction { .. }) => {
                let removed = binder.records.remove(sbdf);
                problems.extend(removed.err().map(|error| error.problem()));
            }
            Err(error) => problems.push(error.problem()),
        }
    }
    Ok(functions)
}

fn done(problems: Vec<Problem>) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(bind::host_problems(problems))
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

/// Who has a function: a process that it was bound for, or that has it open.
fn held(binder: &Binder<'_>, function: &HostFunction) -> Option<Problem> {
    let record = binder.records.read(function.sbdf).ok().flatten();
    let owner = record.and_then(|record| record.owner);
    held_open(binder.root, function).or_else(|| {
        let owner = owner.filter(|owner| owner.has_ended(binder.root) != Some(true))?;
        Some(Problem::new(
            format!("{function} is in use"),
            format!("a ferry run has bound it for itself (pid {})", owner.pid),
            format!("stop it first: kill {}", owner.pid),
        ))
    })
}

/// The kernel would wait until nobody has the device open, or a virtual function of it, which goes with its driver; and
/// the host's driver can't have a device whose group a guest has.
pub(super) fn held_open(root: &HostRoot, function: &HostFunction) -> Option<Problem> {
    let look = || -> Result<Option<Problem>, HostError> {
        if let Some(busy) = busy(root, function)? {
            return Ok(Some(busy));
        }
        for sbdf in root.virtual_functions_of(function.sbdf)? {
            if let Some(busy) = busy(root, &root.function(sbdf)?)? {
                let why = format!("{sbdf} goes with its driver, and {}", busy.why);
                return Ok(Some(Problem { why, ..busy }));
            }
        }
        Ok(None)
    };
    let busy = look().unwrap_or_else(|error| Some(error.problem()))?;
    Some(Problem {
        what: format!("{function} is in use"),
        ..busy
    })
}

fn busy(root: &HostRoot, function: &HostFunction) -> Result<Option<Problem>, HostError> {
    let Some(group) = function.group else {
        return Ok(None);
    };
    let holders = root.holders_of_group(group)?;
    Ok((!holders.is_empty()).then(|| explain_busy(root, group)))
}
