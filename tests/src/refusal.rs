//! What Ferry says when it will not run a guest, and that it has changed nothing then.

use crate::site::{self, Kernel};
use crate::{HostDevice, MOMENT, Terminal, Transcript, until};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How many lines of each stream a failure shows.
const TAIL: usize = 20;

/// A user without any rights, by number: no account is needed.
pub const USER: &str = "1000";
/// Starts a program as that user.
pub const AS_USER: [&str; 6] = [
    "setpriv",
    "--reuid",
    USER,
    "--regid",
    USER,
    "--clear-groups",
];

/// A command line that Ferry may refuse.
#[derive(Debug)]
pub struct Attempt {
    wrapper: Vec<OsString>,
    words: Vec<OsString>,
    input: Option<File>,
}

impl Attempt {
    /// `ferry` with these arguments.
    #[must_use]
    pub fn ferry(words: &[&str]) -> Self {
        Self {
            wrapper: Vec::new(),
            words: words.iter().map(Into::into).collect(),
            input: None,
        }
    }

    /// `ferry run` with a kernel that boots, and these arguments.
    #[must_use]
    pub fn run(words: &[&str]) -> Self {
        Self::kernel(&Kernel::Elf.path(), words)
    }

    /// `ferry run` with a kernel of one's own, and these arguments.
    #[must_use]
    pub fn kernel(path: &Path, words: &[&str]) -> Self {
        let mut run = Self::ferry(&["run", "--kernel"]);
        run.words.push(path.into());
        run.words.extend(words.iter().map(OsString::from));
        run
    }

    /// Further arguments.
    #[must_use]
    pub fn and(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(OsString::from));
        self
    }

    /// Starts Ferry through another program, whose arguments end with Ferry's command line.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    /// Starts Ferry at the end of a shell script, in a mount namespace of its own.
    #[must_use]
    pub fn after(self, script: &str) -> Self {
        let script = format!("set -e; {script}; exec \"$@\"");
        self.through(&["unshare", "--mount", "sh", "-c", &script, "sh"])
    }

    /// Standard input is a terminal.
    #[must_use]
    pub fn on(mut self, terminal: &Terminal) -> Self {
        self.input = Some(terminal.user_end());
        self
    }

    /// Runs to the end; gives exit code, standard output and standard error.
    ///
    /// # Panics
    /// When Ferry can't be started, does not end within `limit`, or not by itself.
    #[must_use]
    #[track_caller]
    pub fn end(self, limit: Duration) -> (i32, String, String) {
        let mut words = self.wrapper;
        words.push(site::ferry().into());
        words.extend(self.words);
        let (program, arguments) = words.split_at(1);
        let mut child = Command::new(program.first().cloned().unwrap_or_default())
            .args(arguments)
            .stdin(self.input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let streams = (child.stdout.take(), child.stderr.take());
        let (Some(output), Some(errors)) = streams else {
            panic!("a child without its pipes");
        };
        let (output, errors) = (Transcript::of(output), Transcript::of(errors));
        let end = std::time::Instant::now() + limit;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if std::time::Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                failed => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!(
                        "{words:?} did not end within {} s ({failed:?})\n  standard output:\n{}  \
                         standard error:\n{}",
                        limit.as_secs(),
                        output.tail(TAIL),
                        errors.tail(TAIL)
                    );
                }
            }
        };
        for stream in [&output, &errors] {
            let ended = stream.wait_for_end(MOMENT);
            assert!(ended.is_ok(), "{words:?} is gone, its output still open");
        }
        let Some(code) = status.code() else {
            panic!("{words:?}: {status}\n{}", errors.tail(TAIL));
        };
        (code, output.text(), errors.text())
    }

    /// Runs, and expects to be refused with this exit code: in three lines a problem, with nothing
    /// on standard output, and with the host as it was.
    ///
    /// # Panics
    /// When any of that is not so.
    #[must_use]
    #[track_caller]
    pub fn refused(self, exit: i32) -> Vec<Problem> {
        let (code, output, errors) = self.end_without_change(MOMENT);
        assert_eq!(code, exit, "exit code\n{errors}");
        assert_eq!(output, "", "standard output\n{errors}");
        Problem::parse(&errors)
    }

    /// The same as [`Attempt::end`], and the host is as it was.
    ///
    /// # Panics
    /// As [`Attempt::end`], and when the host has changed.
    #[must_use]
    #[track_caller]
    pub fn end_without_change(self, limit: Duration) -> (i32, String, String) {
        let before = host_state();
        let end = self.end(limit);
        let after = host_state();
        let changes: Vec<_> = before.symmetric_difference(&after).collect();
        assert!(
            changes.is_empty(),
            "the host was changed: {changes:#?}\n{}",
            end.2
        );
        end
    }

    /// The same where there is one problem.
    ///
    /// # Panics
    /// As [`Attempt::refused`], and when there are several.
    #[must_use]
    #[track_caller]
    pub fn refused_for_one(self, exit: i32) -> Problem {
        let mut problems = self.refused(exit);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.remove(0)
    }
}

/// What is wrong, why, and what to do, as Ferry printed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The first line.
    pub what: String,
    /// The second.
    pub why: String,
    /// The third.
    pub fix: String,
}

impl Problem {
    #[track_caller]
    fn parse(errors: &str) -> Vec<Self> {
        let lines: Vec<_> = errors.lines().collect();
        let shape = |lines: &[&str]| match lines {
            [what, why, fix] => Some(Self {
                what: part(what, "ferry: ")?,
                why: part(why, "  why: ")?,
                fix: part(fix, "  fix: ")?,
            }),
            _ => None,
        };
        let problems: Option<Vec<_>> = lines.chunks(3).map(shape).collect();
        match problems {
            Some(problems) if !problems.is_empty() => problems,
            _ => panic!("not three lines for each problem:\n{errors}"),
        }
    }

    /// Each line contains what is asked of it.
    ///
    /// # Panics
    /// When one doesn't.
    #[track_caller]
    pub fn tells(&self, what: &str, why: &str, fix: &str) {
        for (line, wanted) in [(&self.what, what), (&self.why, why), (&self.fix, fix)] {
            assert!(line.contains(wanted), "no '{wanted}' in {self:#?}");
        }
    }

    /// The command at the end of the third line.
    #[must_use]
    pub fn command(&self) -> &str {
        let command = self.fix.rsplit_once(": ");
        command.map_or(self.fix.as_str(), |(_, command)| command)
    }

    /// Pastes the command into a shell of the administrator's: root's, where `sudo` is known and
    /// `$USER` is the one who was refused.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn paste_for(&self, user: &str) {
        let command = self.command();
        shell(&format!(
            "{} sudo() {{ \"$@\"; }}; USER={user}; {command}",
            ferry_function()
        ));
    }

    /// Pastes the command into root's shell.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn paste(&self) {
        shell(&format!("{} {}", ferry_function(), self.command()));
    }
}

/// `ferry` in a shell is the program under test, be it on the path or not.
fn ferry_function() -> String {
    let ferry = site::ferry();
    format!("ferry() {{ command '{}' \"$@\"; }};", ferry.display())
}

fn part(line: &str, mark: &str) -> Option<String> {
    let text = line.strip_prefix(mark)?;
    let good = !text.is_empty() && !text.starts_with(' ') && !text.ends_with(['.', ' ']);
    good.then(|| text.to_owned())
}

/// Runs a shell script and gives what it prints.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn shell(script: &str) -> String {
    match Command::new("sh").args(["-c", script]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        result => panic!("{script}\n{result:?}"),
    }
}

/// A device whose driver a test changes by other means than [`HostDevice::assign`]. Dropping it gives
/// the device back to the driver that the host has for it.
#[derive(Debug)]
pub struct Rebound(pub HostDevice);

impl Drop for Rebound {
    fn drop(&mut self) {
        let folder = self.0.folder();
        let _ = fs::write(folder.join("driver_override"), "\n");
        let _ = fs::write(folder.join("driver/unbind"), self.0.address());
        let _ = fs::write("/sys/bus/pci/drivers_probe", self.0.address());
    }
}

/// Gives a device whose driver is not loaded its driver.
///
/// # Panics
/// When none of `modules` is it.
#[track_caller]
pub fn load_driver(device: &HostDevice, modules: &str) {
    if device.driver().is_none() {
        shell(&format!("modprobe -a {modules}"));
    }
    until(&format!("a driver of {}", device.address()), MOMENT, || {
        device.driver()
    });
}

/// All that Ferry could have changed on the host by setting a guest up, one fact a line: driver and
/// preferred driver of each PCI function, owner and mode of each node, the modules.
#[track_caller]
fn host_state() -> BTreeSet<String> {
    let names = |folder: &str| -> Vec<String> {
        match fs::read_dir(folder) {
            Ok(entries) => entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{folder}: {error}"),
        }
    };
    let functions = names("/sys/bus/pci/devices").into_iter().map(|address| {
        let device = HostDevice::at(&address);
        let preferred = fs::read_to_string(device.folder().join("driver_override"));
        let preferred = preferred.unwrap_or_default();
        let driver = device.driver();
        format!(
            "{address}: driver {driver:?}, override {}",
            preferred.trim()
        )
    });
    let nodes = names("/dev/vfio")
        .into_iter()
        .map(|name| format!("/dev/vfio/{name}"))
        .chain(["/dev/kvm".to_owned()]);
    let nodes = nodes.filter_map(|node| {
        let metadata = fs::metadata(&node).ok()?;
        let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
        Some(format!("{node}: owner {uid}:{gid}, mode {mode:o}"))
    });
    let modules = names("/sys/module")
        .into_iter()
        .map(|name| format!("module {name}"));
    functions.chain(nodes).chain(modules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_apart() {
        let text = "ferry: a\n  why: b\n  fix: c: d\nferry: e\n  why: f\n  fix: g\n";
        let problems = Problem::parse(text);
        let commands: Vec<_> = problems.iter().map(Problem::command).collect();
        assert_eq!(commands, ["d", "g"]);
    }

    #[test]
    fn another_shape_is_not_accepted() {
        for text in [
            "",
            "ferry: a\n",
            "ferry: a\n  why: b\n  fix: \n",
            "ferry: a\n  why: b\n  fix: c.\n",
            "ferry: warn: x\nferry: a\n  why: b\n  fix: c\n",
        ] {
            let parsed = std::panic::catch_unwind(|| Problem::parse(text));
            assert!(parsed.is_err(), "{text}");
        }
    }
}
