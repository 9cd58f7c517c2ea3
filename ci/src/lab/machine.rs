//! One run of the lab machine: prepare, start, wait, report.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::job::{self, Job};
use super::qemu::{self, Layout};
use super::session::{Session, Sinks};
use super::{Accel, Topology};
use crate::site::Site;

/// A lab machine; see [`Machine::builder`].
#[derive(Debug)]
pub struct Machine;

impl Machine {
    /// How long a batch command may take if nothing else is said.
    pub const DEADLINE: Duration = Duration::from_secs(15 * 60);

    /// Starts the description of a machine with the hardware of `topology`.
    pub fn builder(topology: &'static Topology) -> MachineBuilder {
        MachineBuilder {
            topology,
            command: Vec::new(),
            environment: Vec::new(),
            directory: None,
            shares: Vec::new(),
            deadline: None,
            name: topology.name.to_owned(),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    }
}

/// What a machine is to do.
pub struct MachineBuilder {
    topology: &'static Topology,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    shares: Vec<PathBuf>,
    deadline: Option<Duration>,
    name: String,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status of the command, as a shell reports it (128 + n for signal n).
    pub status: u8,
    /// What the run left behind.
    pub logs: Logs,
}

/// Files that a run leaves in `target/lab`.
#[derive(Debug, Clone)]
pub struct Logs {
    /// The kernel console of L1: warnings and worse.
    pub console: PathBuf,
    /// The whole kernel log of L1 at the end of the command.
    pub kernel: PathBuf,
    /// What QEMU itself complained about.
    pub qemu: PathBuf,
    /// Keeps a second run from writing to the same files.
    _lock: std::sync::Arc<File>,
}

impl MachineBuilder {
    /// The program to run as root in L1 and its arguments. Without it, a person gets a shell.
    #[must_use]
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// An environment variable for the command.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The working directory; by default the one this program was started in, if L1 can see it.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// A further folder of the host to show at the same path, read-only.
    #[must_use]
    pub fn share(mut self, path: impl Into<PathBuf>) -> Self {
        self.shares.push(path.into());
        self
    }

    /// How long the whole run may take; by default [`Machine::DEADLINE`] for a command and no limit for a person.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The name of the log files; by default the topology's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the command's standard output goes instead of ours.
    #[must_use]
    pub fn stdout(mut self, sink: impl Write + Send + 'static) -> Self {
        self.stdout = Box::new(sink);
        self
    }

    /// Where the command's standard error goes instead of ours.
    #[must_use]
    pub fn stderr(mut self, sink: impl Write + Send + 'static) -> Self {
        self.stderr = Box::new(sink);
        self
    }

    /// Boots the machine, runs the command to its end, and removes the machine.
    ///
    /// Fails with [`super::Expired`] if the deadline passed, and otherwise if the machine could not start or broke down. The
    /// calling thread must stay alive during the run: the machine dies with it.
    pub fn run(mut self) -> Result<Outcome> {
        let interactive = self.command.is_empty();
        if interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            bail!(
                "without a command the lab needs a terminal; give one, as in: cargo ci lab -- lspci"
            );
        }
        let site = Site::prepare(false)?;
        let logs = Logs::create(site.workspace.target(), &self.name)?;
        let run_dir = run_dir()?;
        for (index, mebibytes) in self.topology.disks() {
            let path = qemu::disk_file(run_dir.path(), index);
            File::create(&path)?.set_len(u64::from(mebibytes) << 20)?;
        }
        let job = self.job(&site)?;
        let initramfs = run_dir.path().join("initramfs");
        write_initramfs(&initramfs, &site, &job)?;
        let layout = Layout {
            tree: &site.provision.tree,
            accel: Accel::choose()?,
            topology: self.topology,
            // Started through PVH, L1 is spared from unpacking its own kernel under emulation: two seconds a run.
            kernel: site.images.vmlinux(),
            initramfs,
            run_dir: run_dir.path(),
            console_log: logs.console.clone(),
            kernel_log: logs.kernel.clone(),
            shares: &job.shares,
            interactive,
        };
        let mut command = site.provision.tree.tied_command(super::QEMU);
        command.args(layout.args()?).args(extra_arguments()).env(
            "QEMU_MODULE_DIR",
            site.provision.tree.path("usr/lib/x86_64-linux-gnu/qemu"),
        );
        let deadline = self
            .deadline
            .or((!interactive).then_some(Machine::DEADLINE));
        let sinks = (!interactive).then(|| Sinks {
            stdout: std::mem::replace(&mut self.stdout, Box::new(io::sink())),
            stderr: std::mem::replace(&mut self.stderr, Box::new(io::sink())),
            mark: job.mark.clone().into_bytes(),
        });
        let terminal = interactive.then(Terminal::save).flatten();
        let status =
            start(command, run_dir, &logs, sinks).and_then(|session| session.wait(deadline));
        if let Some(terminal) = terminal {
            terminal.restore();
        }
        Ok(Outcome {
            status: status?,
            logs,
        })
    }

    fn job(&mut self, site: &Site) -> Result<Job> {
        let extra: Vec<PathBuf> = self
            .shares
            .iter()
            .map(|path| {
                path.canonicalize()
                    .with_context(|| format!("cannot share {}", path.display()))
            })
            .collect::<Result<_>>()?;
        let mut paths = vec![
            site.workspace.root(),
            site.workspace.target(),
            site.cache.root(),
        ];
        paths.extend(extra.iter().map(PathBuf::as_path));
        let shares = job::shares(&paths);
        let here = self
            .directory
            .clone()
            .map_or_else(std::env::current_dir, Ok)?;
        let seen = shares.iter().any(|share| here.starts_with(&share.path));
        let directory = if seen {
            here
        } else {
            site.workspace.root().to_owned()
        };
        let ferry = site.workspace.ferry();
        let mut environment = site.images.environment();
        environment.push(("FERRY_LAB".to_owned(), self.topology.name.to_owned()));
        if ferry.is_some() {
            environment.push(("FERRY_BIN".to_owned(), "/job/bin/ferry".to_owned()));
        }
        if let Ok(term) = std::env::var("TERM") {
            environment.push(("FERRY_LAB_TERM".to_owned(), term));
        }
        environment.append(&mut self.environment);
        Ok(Job {
            command: std::mem::take(&mut self.command),
            environment,
            directory,
            shares,
            ferry,
            greeting: greeting(self.topology),
            window: window_size(),
            mark: mark()?,
        })
    }
}

/// For who looks into the machine itself: a monitor, a log of what the emulated processors do.
fn extra_arguments() -> Vec<String> {
    std::env::var("FERRY_LAB_QEMU_ARGS")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn start(
    mut command: Command,
    run_dir: TempDir,
    logs: &Logs,
    sinks: Option<Sinks>,
) -> Result<Session> {
    if sinks.is_some() {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    Session::start(command, run_dir, logs.clone(), sinks)
}

/// A folder for sockets and disks. A run that is killed during the boot of L1 leaves its folder behind, so each run sweeps
/// away those of processes that are no more.
fn run_dir() -> Result<TempDir> {
    const PREFIX: &str = "ferry-lab-";
    let temp = std::env::temp_dir();
    for entry in fs::read_dir(&temp)
        .with_context(|| format!("cannot read {}", temp.display()))?
        .flatten()
    {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        if owner.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
            // Another user's folder stays; so be it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir()
        .context("cannot make a temporary folder")
}

fn write_initramfs(path: &Path, site: &Site, job: &Job) -> Result<()> {
    let stage2 = site.workspace.resource("lab/stage2")?;
    let bashrc = site.workspace.resource("lab/bashrc")?;
    let mut image = fs::read(site.images.lab_initramfs())?;
    image.extend(job.archive(&stage2, &bashrc)?);
    fs::write(path, image).context("cannot write the initramfs")
}

impl Logs {
    fn create(target: &Path, name: &str) -> Result<Self> {
        let dir = target.join("lab");
        fs::create_dir_all(&dir)?;
        let mut name = name.to_owned();
        let mut lock = File::create(dir.join(format!("{name}.lock")))?;
        if lock.try_lock().is_err() {
            // Another machine of this name is running; its logs must stay its own.
            name = format!("{name}-{}", std::process::id());
            lock = File::create(dir.join(format!("{name}.lock")))?;
            lock.lock()?;
        }
        let file = |kind: &str| dir.join(format!("{name}.{kind}.log"));
        let logs = Self {
            console: file("console"),
            kernel: file("dmesg"),
            qemu: file("qemu"),
            _lock: std::sync::Arc::new(lock),
        };
        // A log of the run before would be read as one of this run.
        for path in [&logs.console, &logs.kernel, &logs.qemu] {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(logs)
    }
}

fn greeting(topology: &Topology) -> String {
    let inventory: String = topology
        .inventory
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect();
    format!(
        "\nThis is L1, an emulated PC of topology \"{}\". Nothing you do here reaches the host.\n\n{inventory}\n\
         Take the first card from the host, and give it to a guest:\n  \
         ferry bind 01:00.0\n  \
         ferry run --device host=01:00.0 --kernel $FERRY_VMLINUX --initramfs $FERRY_INITRAMFS \\\n    \
         --cmdline 'console=ttyS0 quiet ferry.modules=igb'\n\
         In the guest: ip link. Leave it with: exit (powers off), or Ctrl-A x\n\n\
         Leave with: exit\n\n",
        topology.name
    )
}

/// A line that no output contains by accident, different in each run so that none contains it on purpose.
fn mark() -> Result<String> {
    let id =
        fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read random numbers")?;
    Ok(format!("\u{1}ferry-end-of-stream-{}\u{1}", id.trim()))
}

fn stty(args: &[&str]) -> Option<String> {
    let output = Command::new("stty")
        .args(args)
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn window_size() -> Option<(String, String)> {
    let text = stty(&["size"])?;
    let (rows, columns) = text.split_once(' ')?;
    Some((rows.to_owned(), columns.to_owned()))
}

/// The terminal's settings before QEMU made it raw; a QEMU that is killed does not put them back.
struct Terminal(String);

impl Terminal {
    fn save() -> Option<Self> {
        stty(&["-g"]).map(Self)
    }

    fn restore(self) {
        let _ = stty(&[&self.0]);
    }
}
