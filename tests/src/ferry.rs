//! Ferry as a process.

use crate::site::{self, Kernel};
use crate::transcript::Silence;
use crate::{AS_USER, Assigned, BOOT, Figures, Guest, MOMENT, Terminal, Transcript, USER, until};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How many lines of a console a failure shows.
const TAIL: usize = 20;

/// A `ferry run …` to be started.
#[derive(Debug)]
pub struct Run {
    wrapper: Vec<OsString>,
    kernel: Kernel,
    cmdline: Vec<String>,
    options: Vec<OsString>,
    input: Input,
    /// Whether what it reads and writes is to be the user's that has no rights.
    for_user: bool,
}

#[derive(Debug)]
enum Input {
    Pipe,
    Nothing,
    Terminal(fs::File),
}

/// Bytes of guest RAM where a test does not say: what is pinned for a device takes its time.
pub const GUEST_RAM: u64 = 256 << 20;

impl Run {
    /// A guest with this kernel, its initramfs and a shell on its serial console.
    ///
    /// A panic reboots it at once, and its kernel keeps to errors, which would otherwise come between
    /// the lines of its commands.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            wrapper: Vec::new(),
            kernel,
            cmdline: ["console=ttyS0", "panic=-1", "quiet"]
                .map(str::to_owned)
                .into(),
            options: Vec::new(),
            input: Input::Pipe,
            for_user: false,
        }
        .option("--initramfs", kernel.initramfs())
    }

    /// The same without an initramfs: the kernel finds no root and panics.
    #[must_use]
    pub fn without_initramfs(kernel: Kernel) -> Self {
        let mut run = Self::new(kernel);
        run.options.clear();
        run
    }

    /// A guest of kernel 6.12 whose initramfs has programs for measuring.
    #[must_use]
    pub fn with_tools() -> Self {
        let mut run = Self::new(Kernel::Elf);
        run.options.clear();
        run.option("--initramfs", site::tools())
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn cpus(self, count: u32) -> Self {
        self.option("--cpus", count.to_string())
    }

    /// Guest RAM.
    #[must_use]
    pub fn memory(self, size: &str) -> Self {
        self.option("--memory", size)
    }

    /// Assigns a device. `rest` is empty or more keys, with their comma.
    #[must_use]
    pub fn device(self, device: &Assigned, rest: &str) -> Self {
        self.option("--device", format!("host={}{rest}", device.address()))
    }

    /// A word more for the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, word: &str) -> Self {
        self.cmdline.push(word.to_owned());
        self
    }

    /// Drivers that the guest loads before its shell, separated by commas.
    #[must_use]
    pub fn modules(self, names: &str) -> Self {
        self.cmdline(&format!("ferry.modules={names}"))
    }

    /// What the guest runs instead of a shell, before it powers off.
    #[must_use]
    pub fn command(self, command: &str) -> Self {
        self.cmdline(&format!("ferry.run=\"{command}\""))
    }

    /// An option with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.options.push(name.into());
        self.options.push(value.into());
        self
    }

    /// An option without a value.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.options.push(name.into());
        self
    }

    /// Standard input is `/dev/null`.
    #[must_use]
    pub fn without_input(mut self) -> Self {
        self.input = Input::Nothing;
        self
    }

    /// Standard input is a terminal.
    #[must_use]
    pub fn on(mut self, terminal: &Terminal) -> Self {
        self.input = Input::Terminal(terminal.user_end());
        self
    }

    /// Starts Ferry through another program, whose arguments end with Ferry's command line.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    /// Starts Ferry as a user without any rights. The shell commands `before` are run by root in the same process, which
    /// keeps what descriptors and limits they leave.
    #[must_use]
    pub fn as_user(self, before: &str) -> Self {
        self.by(before, &AS_USER.join(" "))
    }

    /// The same as that user in a group of the system, which is given by its number.
    #[must_use]
    pub fn as_member(self, group: u32, before: &str) -> Self {
        let user = format!("setpriv --reuid {USER} --regid {USER} --groups {group}");
        self.by(before, &user)
    }

    fn by(mut self, before: &str, user: &str) -> Self {
        self.for_user = true;
        let script = format!("{before}\nexec {user} \"$@\"");
        self.through(&["sh", "-c", &script, "sh"])
    }

    /// Starts Ferry.
    ///
    /// # Panics
    /// When the program can't be started.
    #[must_use]
    #[track_caller]
    pub fn start(mut self) -> Ferry {
        let folder = match tempfile::Builder::new().prefix("ferry-test-").tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("no temporary folder: {error}"),
        };
        let mut kernel = self.kernel.path();
        if self.for_user {
            kernel = given(folder.path(), &kernel);
            if let Some(initramfs) = value_of(&mut self.options, "--initramfs") {
                *initramfs = given(folder.path(), Path::new(initramfs)).into();
            }
        }
        let mut words = self.wrapper;
        words.push(site::ferry().into());
        words.extend(["run".into(), "--kernel".into(), kernel.into()]);
        words.extend(["--cmdline".into(), self.cmdline.join(" ").into()]);
        let says = |name: &str| self.options.iter().any(|option| option == name);
        let (own_stats, memory) = (!says("--stats"), says("--memory"));
        words.extend(self.options);
        if !memory {
            words.extend(["--memory".into(), format!("{}M", GUEST_RAM >> 20).into()]);
        }
        let stats = folder.path().join("stats.json");
        if own_stats {
            words.extend(["--stats".into(), stats.clone().into()]);
        }
        let (program, arguments) = words.split_at(1);
        let mut command = Command::new(program.first().cloned().unwrap_or_default());
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.stdin(match self.input {
            Input::Pipe => Stdio::piped(),
            Input::Nothing => Stdio::null(),
            Input::Terminal(file) => file.into(),
        });
        match command.spawn() {
            Ok(child) => Ferry::new(child, stats, folder),
            Err(error) => panic!("{program:?}: {error}"),
        }
    }

    /// Starts Ferry and waits for the guest's shell.
    ///
    /// # Panics
    /// When the guest does not get there.
    #[must_use]
    #[track_caller]
    pub fn boot(self) -> Guest {
        Guest::of(self.start())
    }
}

/// Copies a file into a folder, and gives both to the user without rights.
fn given(folder: &Path, file: &Path) -> PathBuf {
    let copy = folder.join(file.file_name().unwrap_or_default());
    let user = USER.parse().ok();
    let done = fs::copy(file, &copy)
        .and_then(|_| chown(&copy, user, user))
        .and_then(|()| chown(folder, user, user));
    match done {
        Ok(()) => copy,
        Err(error) => panic!("{}: {error}", copy.display()),
    }
}

fn value_of<'a>(options: &'a mut [OsString], name: &str) -> Option<&'a mut OsString> {
    let at = options.iter().position(|option| option == name)?;
    options.get_mut(at + 1)
}

/// A running Ferry. Dropping it kills it.
#[derive(Debug)]
pub struct Ferry {
    child: Child,
    input: Option<ChildStdin>,
    console: Transcript,
    errors: Transcript,
    stats: PathBuf,
    folder: TempDir,
}

impl Ferry {
    fn new(mut child: Child, stats: PathBuf, folder: TempDir) -> Self {
        let input = child.stdin.take();
        let console = child.stdout.take().map(Transcript::of);
        let errors = child.stderr.take().map(Transcript::of);
        let nothing = || Transcript::of(std::io::empty());
        Self {
            child,
            input,
            console: console.unwrap_or_else(nothing),
            errors: errors.unwrap_or_else(nothing),
            stats,
            folder,
        }
    }

    /// The guest's console, as far as it goes to standard output.
    #[must_use]
    pub fn console(&self) -> &Transcript {
        &self.console
    }

    /// Standard error.
    #[must_use]
    pub fn errors(&self) -> &Transcript {
        &self.errors
    }

    /// A folder that lasts as long as this Ferry.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types into the guest's console.
    ///
    /// # Panics
    /// When Ferry does not take it.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        let Some(input) = &mut self.input else {
            panic!("this Ferry's standard input is no pipe");
        };
        let sent = input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush());
        if let Err(error) = sent {
            panic!("Ferry takes no input ({error}){}", self.state());
        }
    }

    /// Waits until the console shows `marker` after its first `start` bytes; gives the place behind.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn wait_for(&self, start: usize, marker: &str, limit: Duration) -> usize {
        match self.console.wait_for(start, marker, limit) {
            Ok(end) => end,
            Err(Silence::Ended) => panic!("Ferry ended before '{marker}'{}", self.state()),
            Err(Silence::Late) => {
                panic!("no '{marker}' within {} s{}", limit.as_secs(), self.state())
            }
        }
    }

    /// Waits for the end of the process and of its output; gives the exit code.
    ///
    /// # Panics
    /// When it does not end, or by a signal.
    #[track_caller]
    pub fn exit(&mut self, limit: Duration) -> i32 {
        let end = std::time::Instant::now() + limit;
        while self.ended().is_none() {
            assert!(
                std::time::Instant::now() < end,
                "Ferry did not end within {} s{}",
                limit.as_secs(),
                self.state()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.ended();
        for stream in [&self.console, &self.errors] {
            let ended = stream.wait_for_end(MOMENT);
            assert!(ended.is_ok(), "Ferry is gone, but its output is still open");
        }
        match status.and_then(|status| status.code()) {
            Some(code) => code,
            None => panic!("{status:?}{}", self.state()),
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        match self.child.try_wait() {
            Ok(status) => status,
            Err(error) => panic!("waiting for Ferry: {error}"),
        }
    }

    /// The figures as of now: asks for them and waits for the new file.
    ///
    /// # Panics
    /// When Ferry does not write them.
    #[must_use]
    #[track_caller]
    pub fn figures(&self) -> Figures {
        // The file is put in place whole, so one that is there is one that was asked for.
        let _ = fs::remove_file(&self.stats);
        self.signal(Signal::USR1);
        let text = until("the figures after SIGUSR1", MOMENT, || {
            fs::read_to_string(&self.stats).ok()
        });
        Figures::parse(&text)
    }

    /// The figures that Ferry wrote at its end.
    ///
    /// # Panics
    /// When it has written none.
    #[must_use]
    #[track_caller]
    pub fn last_figures(&self) -> Figures {
        match fs::read_to_string(&self.stats) {
            Ok(text) => Figures::parse(&text),
            Err(error) => panic!("no figures at the end: {error}{}", self.state()),
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let sent = pid.map(|pid| kill_process(pid, signal));
        assert_eq!(
            sent,
            Some(Ok(())),
            "{signal:?} can't be sent{}",
            self.state()
        );
    }

    /// Waits until the guest runs: before, a signal ends Ferry without more ado.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_for_vcpus(&self) {
        let threads = format!("/proc/{}/task", self.pid());
        until("a running guest", BOOT, || {
            let names = fs::read_dir(&threads).ok()?.flatten();
            let mut names =
                names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            names.any(|name| name.starts_with("vcpu")).then_some(())
        });
    }

    /// Ends Ferry with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// When it can't be waited for.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Err(error) = self
            .child
            .kill()
            .and_then(|()| self.child.wait().map(|_| ()))
        {
            panic!("killing Ferry: {error}");
        }
    }

    /// Where Ferry and its guest stand, for a message.
    #[must_use]
    pub fn state(&self) -> String {
        format!(
            "\n  console:\n{}  standard error:\n{}",
            self.console.tail(TAIL),
            self.errors.tail(TAIL)
        )
    }

    /// Waits for the guest to power off on its own.
    ///
    /// # Panics
    /// When it doesn't, or Ferry's exit code is not 0.
    #[track_caller]
    pub fn finish(&mut self) {
        let code = self.exit(BOOT);
        assert_eq!(code, 0, "exit code{}", self.state());
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
