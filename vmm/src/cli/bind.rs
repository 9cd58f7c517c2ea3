//! `ferry bind`: functions of the host go to vfio-pci.

use super::{Exit, Failure, address, for_reader};
use devices::driver::{Binder, BoundRecords, DriverError, Owner, RouteNetlink, VFIO_PCI};
use devices::host::{
    BindRefusal, BindRequest, HostFunction, HostRoot, PciNames, Problem, bindable,
};
use devices::pci::HostSbdf;
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long VFIO's node may take to appear. The kernel makes it at once; udev may be slow to rename.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long another may bind and unbind meanwhile: some drivers take seconds to let go.
const TURN: Duration = Duration::from_secs(10);
/// How often one that waits for another looks.
const GLANCE: Duration = Duration::from_millis(20);

/// Take devices from the host and give them to vfio-pci, so that a guest can have them
#[derive(clap::Args)]
#[command(after_help = "\
All devices are bound or, if one can't be, none; what each was before is kept in /run/ferry/bound for ferry unbind. A \
device that is on vfio-pci already stays as it is. The module vfio-pci is loaded if need be. Needs root.")]
pub(super) struct Arguments {
    /// Addresses, as listed by: ferry devices
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<String>,
    /// Bind with them the others of their IOMMU groups that the host drives: a group goes as a whole
    #[arg(long)]
    group: bool,
    /// Take also what the host uses: a mounted disk, swap, the default route's card, the boot screen
    #[arg(long)]
    force: bool,
}

/// Binds, and says what went where.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let devices = addresses(&arguments.devices)?;
    let work = Work::begin("bind")?;
    let request = BindRequest {
        functions: &devices,
        groups: arguments.group,
        force: arguments.force,
    };
    let functions = work.bind(&request, None)?;
    let names = work.root.pci_names(&functions);
    say(functions
        .iter()
        .map(|function| line(function, &names) + "\n"));
    tell_of_others(&work.root, &functions);
    Ok(ExitCode::SUCCESS)
}

/// What binding and unbinding begin with: the right to do it, and nobody else doing it.
pub(super) struct Work {
    pub(super) root: HostRoot,
    records: BoundRecords,
    /// Held for as long as it takes.
    _lock: File,
}

impl Work {
    /// Of a command that the user typed, which waits a while for another to end.
    pub(super) fn begin(command: &str) -> Result<Self, Failure> {
        let user = rustix::process::geteuid();
        if !user.is_root() {
            return Err(host_problem(Problem::new(
                format!("ferry {command} needs root"),
                format!("it writes to sysfs, which user {} may not", user.as_raw()),
                format!("sudo ferry {}", typed()),
            )));
        }
        let root = HostRoot::system();
        let records = BoundRecords::of(&root).map_err(|error| host_problem(error.problem()))?;
        let lock = lock(&records, TURN).map_err(|error| host_problem(error.problem()))?;
        Ok(Self {
            root,
            records,
            _lock: lock,
        })
    }

    /// Binds what `request` asks for, for `owner` or until it is unbound; gives the functions as they were before.
    pub(super) fn bind(
        &self,
        request: &BindRequest<'_>,
        owner: Option<Owner>,
    ) -> Result<Vec<HostFunction>, Failure> {
        let functions = bindable(&self.root, request).map_err(|refusals| {
            host_problems(refusals.iter().map(BindRefusal::problem).collect())
        })?;
        if !functions.iter().all(HostFunction::on_vfio) {
            load_vfio_pci(&self.root).map_err(host_problem)?;
        }
        self.binder()
            .bind(&functions, owner)
            .map_err(|failure| host_problems(failure.problems()))?;
        Ok(functions)
    }

    pub(super) fn binder(&self) -> Binder<'_> {
        Binder {
            root: &self.root,
            attributes: &self.root,
            links: &RouteNetlink,
            records: &self.records,
            patience: PATIENCE,
        }
    }
}

fn lock(records: &BoundRecords, patience: Duration) -> Result<File, DriverError> {
    let end = Instant::now() + patience;
    let mut locked = records.lock();
    if matches!(locked, Err(DriverError::Busy { .. })) {
        log::info!("waiting for another ferry that binds or unbinds devices");
    }
    while matches!(locked, Err(DriverError::Busy { .. })) && Instant::now() < end {
        thread::sleep(GLANCE);
        locked = records.lock();
    }
    locked
}

pub(super) fn host_problem(problem: Problem) -> Failure {
    host_problems(vec![problem])
}

pub(super) fn host_problems(problems: Vec<Problem>) -> Failure {
    Failure {
        exit: Exit::HostSetUp,
        problems,
    }
}

/// What the user typed behind `ferry`, to be pasted into a shell.
fn typed() -> String {
    let words = env::args_os().skip(1);
    let quoted = words.map(|word| {
        let word = word.to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(c);
        match !word.is_empty() && word.chars().all(plain) {
            true => word,
            false => format!("'{}'", word.replace('\'', "'\\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

pub(super) fn addresses(words: &[String]) -> Result<Vec<HostSbdf>, Failure> {
    let addresses: Result<Vec<_>, _> = words.iter().map(|word| address(word)).collect();
    addresses.map_err(Failure::usage)
}

/// An address the way most people write it: without the segment, if that is 0.
pub(super) fn short(sbdf: HostSbdf) -> String {
    let text = sbdf.to_string();
    text.strip_prefix("0000:").unwrap_or(&text).to_owned()
}

/// The name of a driver, or that there is none.
pub(super) fn driver_name(driver: Option<&str>) -> &str {
    driver.unwrap_or("no driver")
}

/// Who reads may have seen enough.
pub(super) fn say(lines: impl Iterator<Item = String>) {
    let _ = io::stdout().write_all(lines.collect::<String>().as_bytes());
}

/// `01:00.0 Ethernet controller: igb -> vfio-pci, /dev/vfio/16`, of the function as it was before.
fn line(function: &HostFunction, names: &PciNames) -> String {
    let place = format!("{} {}", short(function.sbdf), names.kind(function));
    let driver = driver_name(function.driver.as_deref());
    let node = match function.group {
        Some(group) => format!(", /dev/vfio/{group}"),
        None => String::new(),
    };
    if function.on_vfio() {
        format!("{place}: already on {driver}{node}")
    } else {
        format!("{place}: {driver} -> {VFIO_PCI}{node}")
    }
}

/// A group of which the host still drives a part is of no use to a guest.
fn tell_of_others(root: &HostRoot, functions: &[HostFunction]) {
    let bound: Vec<_> = functions.iter().map(|function| function.sbdf).collect();
    let mut groups: Vec<_> = functions.iter().filter_map(|f| f.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for id in groups {
        let others = match root.group(id) {
            Ok(group) => group.offenders(&bound),
            Err(error) => {
                log::warn!("{error}");
                continue;
            }
        };
        let names: Vec<_> = others
            .iter()
            .map(|other| {
                let driver = driver_name(other.driver.as_deref());
                format!("{} ({driver})", short(other.sbdf))
            })
            .collect();
        if !names.is_empty() {
            let addresses: Vec<_> = others.iter().map(|other| short(other.sbdf)).collect();
            let command = for_reader(format!("sudo ferry bind {}", addresses.join(" ")));
            log::warn!(
                "the host still drives {} of IOMMU group {id}, which no guest can have before that is bound, too: {command}",
                names.join(", ")
            );
        }
    }
}

/// The driver comes with its container and IOMMU backend.
fn load_vfio_pci(root: &HostRoot) -> Result<(), Problem> {
    if root.path("sys/bus/pci/drivers/vfio-pci").exists() {
        return Ok(());
    }
    modprobe(VFIO_PCI).map_err(|why| {
        Problem::new(
            "the module vfio-pci can't be loaded",
            why,
            "see whether this kernel has it: modinfo vfio-pci",
        )
    })
}

/// Loads a module, or those that an alias names; gives what there is to say if it can't be.
pub(super) fn modprobe(name: &str) -> Result<(), String> {
    log::info!("loading the module {name}");
    let output = Command::new("modprobe")
        .args(["--", name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("modprobe can't be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let reason = errors.lines().next().unwrap_or("it does not say why");
    Err(format!("{}: {reason}", output.status))
}
