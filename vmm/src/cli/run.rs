//! `ferry run`.

use super::device::Requested;
use super::managed::{Loans, Managed};
use super::suggest::nearest;
use super::{Exit, Failure, api, descriptor, device, event_monitor, on_off, shown, size};
use clap::ValueEnum;
use devices::host::{
    BindingObstacle, CurrentProcess, HostRoot, Obstacle, Problem, RunRequirements, obstacles,
};
use devices::pci::HostSbdf;
use devices::vfio::PassedDescriptors;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm::events::Event;
use vmm::machine::{
    Custodian, Machine, MachineError, Outcome, RunSignals, Surroundings, run as run_machine,
};
use vmm::spec::{CpuCount, MachineSpec, PanicPolicy, SerialSpec, StatsSpec, place};
use vmm::stats::{StartupTimes, Stopwatch, micros};

/// Run a Linux guest with assigned PCI devices
///
/// Exit codes: 0 the guest powered off; odd: the guest's own status, (value << 1) | 1 of a write to
/// I/O port 0xf4; 2 usage; 4 the host can't run this guest, which was never started; 6 the guest
/// crashed; 8 the host failed while the guest ran; 10 stopped by Ctrl-A x or a signal; 12 the guest
/// reset itself and --no-reboot was given; 14 a device reported an uncorrectable error; 16 the guest's kernel panicked and
/// told of it.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The guest's kernel: a bzImage (as /boot/vmlinuz-*) or an ELF vmlinux
    #[arg(long, value_name = "PATH")]
    kernel: PathBuf,
    /// The guest's initramfs
    #[arg(long, value_name = "PATH")]
    initramfs: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "STRING", default_value = "console=ttyS0")]
    cmdline: String,
    /// Number of vCPUs, 1 to 254
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_negative_numbers = true
    )]
    cpus: String,
    /// Guest RAM: 512M, 5G, or of huge pages: size=4G,hugepages=2M|1G
    #[arg(
        long,
        value_name = "SIZE|size=SIZE[,…]",
        default_value = "512M",
        allow_negative_numbers = true
    )]
    memory: String,
    /// Assign a host device: host=BDF[,id=NAME][,addr=SLOT[.FN]][,rom=on|off|PATH]; may be repeated.
    /// fd=N instead of host= or beside it is a descriptor under which /dev/vfio/GROUP is open already.
    /// managed=on binds it for this run and gives it back after it. vf=auto takes a free virtual function of it instead,
    /// with mac=ADDRESS, vlan=ID, trust=on|off and spoof-check=on|off for this run. What
    /// follows an uncorrectable error: on-error=stop|unplug|report; how long the guest may keep a device that the host wants
    /// back: request-timeout=SECONDS
    #[arg(long, value_name = "host=BDF[,…]")]
    device: Vec<String>,
    /// The VFIO container, opened by whoever starts ferry, as --device fd=N is for a group
    #[arg(long, value_name = "fd=N")]
    vfio_container: Option<String>,
    /// Whether assigned devices reach each other's BARs by DMA
    #[arg(long, value_name = "on|off", default_value = "on")]
    p2p: String,
    /// The serial console: tty (Ctrl-A x quits), none, or file=PATH
    #[arg(long, value_name = "tty|none|file=PATH", default_value = "tty")]
    serial: String,
    /// Write figures as JSON to PATH (- is standard output) at exit and on SIGUSR1
    #[arg(long, value_name = "PATH|-")]
    stats: Option<String>,
    /// End, with exit code 12 (6 after a triple fault), instead of booting the guest again
    #[arg(long)]
    no_reboot: bool,
    /// What follows when the guest's kernel panics and tells of it (driver pvpanic): it ends with exit code 16, is booted again,
    /// or is let do what its panic= says
    #[arg(long, value_name = "stop|reboot|report", default_value = "stop")]
    on_panic: String,
    /// How long the guest may take to power itself off on SIGTERM, before it is stopped. 0: at once
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        allow_negative_numbers = true
    )]
    stop_timeout: String,
    /// Write what happens to the guest, a JSON object a line, to a file or FIFO, or a descriptor (docs/events.md)
    #[arg(long, value_name = "PATH|fd=N")]
    event_monitor: Option<String>,
    /// Listen at PATH for ferry info, pause and so on --socket PATH, and for programs (docs/api.md)
    #[arg(long, value_name = "PATH")]
    api_socket: Option<PathBuf>,
    /// The same in the runtime directory, for ferry info NAME and so on
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Builds the machine, runs it, and turns its end into an exit code.
pub(super) fn run(mut arguments: Arguments, start: Instant) -> Result<ExitCode, Failure> {
    let (api_socket, name) = (arguments.api_socket.take(), arguments.name.take());
    let told = arguments.event_monitor.take();
    let mut requested = arguments.requested().map_err(Failure::usage)?;
    // All else is understood before the host is looked at; the places of devices follow from the choice.
    let mut spec = arguments.spec().map_err(Failure::usage)?;
    let told = told.as_deref().map(event_monitor::parse).transpose();
    let told = told.map_err(Failure::usage)?;
    let loans = Loans::choose(&mut requested)?;
    give(&mut spec, requested).map_err(Failure::usage)?;
    let managed = loans.addresses();
    // What can be known to be wrong is told before a device leaves its driver.
    check_host(&spec, &managed)?;
    let events = event_monitor::open(told, start).map_err(Failure::usage)?;
    let set_up = |error: MachineError| Failure::host(error.problem());
    let mut signals = None;
    if api_socket.is_some() || name.is_some() || !managed.is_empty() {
        // From here on no signal may end this process before it has given the devices back and removed its socket.
        signals = Some(RunSignals::catch().map_err(set_up)?);
    }
    let api = api::serve(api_socket.as_deref(), name.as_deref())?;
    // Given back when this is dropped, after the machine, which has them open, is gone.
    let Some(bound) = bind(loans, &mut signals)? else {
        return Ok(Exit::Stopped.into());
    };
    let bound = Arc::new(bound);
    if !managed.is_empty() {
        check_host(&spec, &[])?;
    }
    let stopwatch = Stopwatch {
        start,
        startup: StartupTimes {
            parse: micros(start.elapsed()),
            ..StartupTimes::default()
        },
    };
    let machine = Machine::build(spec, stopwatch).map_err(set_up)?;
    let signals = match signals {
        Some(signals) => signals,
        None => RunSignals::catch().map_err(set_up)?,
    };
    let custodian = Arc::clone(&bound) as Arc<dyn Custodian>;
    let served = Surroundings {
        api: api.clone(),
        events: events.clone(),
        custodian,
    };
    let outcome = run_machine(machine, signals, served).map_err(set_up)?;
    drop(bound);
    tell(&outcome);
    let code = exit_code(&outcome);
    if let Some(api) = api {
        api.end(&json!({ "exit_code": code }));
    }
    // A reader that is slow keeps no client of the API waiting.
    events.end(&Event::shutdown(&outcome, code));
    Ok(code.into())
}

/// Binds what is lent for this run; `None` when one of `signals` has come that stops it.
fn bind(mut loans: Loans, signals: &mut Option<RunSignals>) -> Result<Option<Managed>, Failure> {
    let mut stopped = || signals.as_mut().is_some_and(RunSignals::stop_came);
    if !loans.devices.is_empty() {
        loans.take_turn()?;
    }
    if stopped() {
        return Ok(None);
    }
    let bound = Managed::bind(loans)?;
    Ok((!stopped()).then_some(bound))
}

/// Looks at the host before anything is opened. Those of the devices that are `to_bind` may still have drivers.
fn check_host(spec: &MachineSpec, to_bind: &[HostSbdf]) -> Result<(), Failure> {
    let devices: Vec<HostSbdf> = spec.devices.iter().map(|device| device.host).collect();
    let passed_groups: Vec<_> = spec.passed.groups.iter().map(|one| one.number).collect();
    let requirements = RunRequirements {
        devices: &devices,
        guest_ram: spec.memory.bytes(),
        huge_pages: spec.huge_pages,
        passed_groups: &passed_groups,
        passed_container: spec.passed.container.is_some(),
    };
    let still_to_bind = |obstacle: &Obstacle| {
        matches!(obstacle, Obstacle::Binding(BindingObstacle::NotOnVfio { function, .. })
            if to_bind.contains(&function.sbdf))
    };
    let found = obstacles(&HostRoot::system(), &requirements, &CurrentProcess);
    let problems: Vec<_> = found
        .iter()
        .filter(|obstacle| !still_to_bind(obstacle))
        .map(Obstacle::problem)
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::of_host(problems))
}

fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::PoweredOff => 0,
        // As QEMU's isa-debug-exit: the status is a byte, its top bit is lost.
        Outcome::GuestStatus(value) => value.wrapping_shl(1) | 1,
        Outcome::Reset => Exit::GuestReset as u8,
        Outcome::Stopped => Exit::Stopped as u8,
        Outcome::Crashed(_) => Exit::GuestCrash as u8,
        Outcome::DeviceFailed(_) => Exit::DeviceFailure as u8,
        Outcome::Panicked => Exit::GuestPanic as u8,
        Outcome::MemoryFailed(_) | Outcome::HostFailed(_) => Exit::HostFailure as u8,
    }
}

/// Says why the guest did not end by itself.
fn tell(outcome: &Outcome) {
    match outcome {
        Outcome::PoweredOff | Outcome::GuestStatus(_) | Outcome::Reset | Outcome::Stopped => {}
        Outcome::Crashed(detail) => eprintln!("ferry: the guest crashed: {detail}"),
        Outcome::DeviceFailed(problem) | Outcome::MemoryFailed(problem) => {
            eprintln!("ferry: {problem}");
        }
        Outcome::Panicked => eprintln!("ferry: the guest's kernel panicked"),
        Outcome::HostFailed(detail) => eprintln!("ferry: the guest was stopped: {detail}"),
    }
}

impl Arguments {
    fn requested(&self) -> Result<Vec<Requested>, Problem> {
        let texts = self.device.iter();
        texts.map(|text| device::parse(text)).collect()
    }

    /// The machine without its devices.
    fn spec(self) -> Result<MachineSpec, Problem> {
        let cpus = cpus(&self.cpus)?;
        let (memory, huge_pages) = size::parse(&self.memory)?;
        let container = self.vfio_container.as_deref().map(descriptor::container);
        Ok(MachineSpec {
            kernel: self.kernel,
            initramfs: self.initramfs,
            cmdline: self.cmdline,
            cpus,
            memory,
            huge_pages,
            devices: Vec::new(),
            passed: PassedDescriptors {
                container: container.transpose()?,
                groups: Vec::new(),
            },
            peer_to_peer: peer_to_peer(&self.p2p)?,
            serial: serial(&self.serial)?,
            stats: self.stats.as_deref().map(stats).transpose()?,
            no_reboot: self.no_reboot,
            on_panic: on_panic(&self.on_panic)?,
            stop_timeout: stop_timeout(&self.stop_timeout)?,
        })
    }
}

/// Gives the machine its devices, each at its place.
fn give(spec: &mut MachineSpec, requested: Vec<Requested>) -> Result<(), Problem> {
    let (requests, groups): (Vec<_>, Vec<_>) = requested
        .into_iter()
        .map(|one| (one.device, one.group))
        .unzip();
    spec.devices = place(&requests).map_err(|error| error.problem())?;
    spec.passed.groups = groups.into_iter().flatten().collect();
    Ok(())
}

fn cpus(text: &str) -> Result<CpuCount, Problem> {
    text.parse().ok().and_then(CpuCount::new).ok_or_else(|| {
        Problem::new(
            format!("--cpus {} is no usable number", shown(text)),
            format!("a guest has 1 to {} vCPUs", CpuCount::MAX),
            "give a number in that range, e.g. --cpus 4",
        )
    })
}

fn stop_timeout(text: &str) -> Result<Duration, Problem> {
    let seconds = text.parse::<u32>().ok();
    let seconds = seconds.filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    seconds
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| {
            Problem::new(
                format!("--stop-timeout {} is not understood", shown(text)),
                format!("it is no whole number of seconds up to {}", u32::MAX),
                "give a number, e.g. --stop-timeout 60, or 0 to stop at once",
            )
        })
}

fn on_panic(text: &str) -> Result<PanicPolicy, Problem> {
    const WORDS: [&str; 3] = ["stop", "reboot", "report"];
    match text {
        "stop" => Ok(PanicPolicy::Stop),
        "reboot" => Ok(PanicPolicy::Reboot),
        "report" => Ok(PanicPolicy::Report),
        _ => Err(Problem::new(
            format!("--on-panic {} is not understood", shown(text)),
            "it is none of stop, reboot, report",
            nearest(text, &WORDS).map_or_else(
                || "write --on-panic stop, reboot or report, or leave it out".to_owned(),
                |known| format!("did you mean '{known}'?"),
            ),
        )),
    }
}

fn peer_to_peer(text: &str) -> Result<bool, Problem> {
    on_off(text).ok_or_else(|| {
        Problem::new(
            format!("--p2p {} is not understood", shown(text)),
            "it is neither on nor off",
            "write --p2p off to keep assigned devices from each other, else leave it out",
        )
    })
}

/// The words that `--serial` takes, for suggestions.
#[derive(Clone, Copy, ValueEnum)]
enum SerialWord {
    Tty,
    None,
    File,
}

fn serial(text: &str) -> Result<SerialSpec, Problem> {
    let (word, path) = match text.split_once('=') {
        Some((word, path)) => (word, Some(path)),
        None => (text, None),
    };
    let problem = |why: String, remedy: String| {
        let what = format!("--serial {} is not understood", shown(text));
        Problem::new(what, why, remedy)
    };
    match (SerialWord::from_str(word, false), path) {
        (Ok(SerialWord::Tty), None) => Ok(SerialSpec::Terminal),
        (Ok(SerialWord::None), None) => Ok(SerialSpec::Absent),
        (Ok(SerialWord::File), Some(path)) if !path.is_empty() => {
            let path = PathBuf::from(path);
            let asked = if path.exists() { &path } else { folder(&path) };
            writable("--serial", text, &path, asked)?;
            Ok(SerialSpec::File(path))
        }
        (Ok(SerialWord::File), _) => Err(problem(
            "file needs a path".to_owned(),
            "write --serial file=PATH".to_owned(),
        )),
        (Ok(_), Some(_)) => Err(problem(
            format!("'{word}' takes no value"),
            format!("write --serial {word}"),
        )),
        (Err(_), _) => Err(problem(
            format!("'{word}' is none of tty, none, file"),
            nearest(word, &["tty", "none", "file"]).map_or_else(
                || "write --serial tty, none or file=PATH".to_owned(),
                |known| format!("did you mean '{known}'?"),
            ),
        )),
    }
}

fn stats(text: &str) -> Result<StatsSpec, Problem> {
    if text == "-" {
        return Ok(StatsSpec::Stdout);
    }
    // It is replaced by a new file, so its folder has to take that.
    let path = PathBuf::from(text);
    writable("--stats", text, &path, folder(&path))?;
    Ok(StatsSpec::File(path))
}

/// A path that can't be written is found out now: before a device is opened, and not when the guest
/// has run for a day. `asked` is what has to be writable for it.
pub(super) fn writable(option: &str, text: &str, path: &Path, asked: &Path) -> Result<(), Problem> {
    let problem = |why: String| {
        Problem::new(
            format!("{option} {} can't be written", shown(text)),
            why,
            "name a file in a folder that exists and is yours",
        )
    };
    if path.as_os_str().is_empty() {
        return Err(problem("it is empty".to_owned()));
    }
    if path.is_dir() {
        return Err(problem(format!("{} is a folder", path.display())));
    }
    rustix::fs::access(asked, rustix::fs::Access::WRITE_OK).map_err(|error| {
        let error = std::io::Error::from(error);
        problem(format!("{}: {error}", asked.display()))
    })
}

pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_words_are_understood_and_slips_corrected() {
        assert_eq!(serial("tty").unwrap(), SerialSpec::Terminal);
        assert_eq!(serial("none").unwrap(), SerialSpec::Absent);
        let file = std::env::temp_dir().join("no-such-console");
        let text = format!("file={}", file.display());
        assert_eq!(serial(&text).unwrap(), SerialSpec::File(file));
        assert_eq!(serial("ttty").unwrap_err().remedy, "did you mean 'tty'?");
        for text in [
            "",
            "file",
            "file=",
            "file=/nonexistent/x",
            "file=/",
            "tty=1",
        ] {
            assert!(serial(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stats_path_that_cannot_be_written_is_refused_early() {
        let why = |text| stats(text).unwrap_err().why;
        assert!(why("/nonexistent/figures.json").starts_with("/nonexistent: No such file"));
        assert_eq!(why("/"), "/ is a folder");
        assert_eq!(why(""), "it is empty");
        assert_eq!(stats("-").unwrap(), StatsSpec::Stdout);
    }
}
