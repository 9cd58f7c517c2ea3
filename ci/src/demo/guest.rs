//! A guest under Ferry whose console takes commands; see resources/demo/console for the guest's end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::figures::Figures;
use super::page::Page;
use crate::ferry_process;

const READY: &str = "ferry-demo: ready";
const STATUS: &str = "ferry-demo: status ";
/// How long a guest may take to boot; under emulation that is the longest step.
const BOOT: Duration = Duration::from_secs(180);
/// How long a command may take if nothing else is said.
pub(super) const MOMENT: Duration = Duration::from_secs(60);

/// A running Ferry with its guest. Dropping it kills both.
#[derive(Debug)]
pub(super) struct Guest {
    ferry: Child,
    console: ChildStdin,
    lines: Receiver<String>,
    figures: PathBuf,
}

/// What a command in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: i32,
    pub(super) lines: Vec<String>,
}

impl Answer {
    /// The value of a line `NAME: VALUE`.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let rest = |line: &'_ String| -> Option<usize> {
            line.strip_prefix(name)?.strip_prefix(": ").map(str::len)
        };
        self.lines
            .iter()
            .find_map(|line| Some(line.get(line.len() - rest(line)?..)?.trim()))
    }
}

impl Guest {
    /// Runs `words`, Ferry's command line, whose `--stats` is `figures`, and waits until the guest takes commands.
    pub(super) fn boot(words: &[String], figures: PathBuf, page: &Page) -> Result<Self> {
        // Killed with this very program: nobody else would, and the device could not be given back.
        let mut ferry = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start setpriv, a part of util-linux")?;
        let pipes = (ferry.stdin.take(), ferry.stdout.take(), ferry.stderr.take());
        let (Some(console), Some(output), Some(errors)) = pipes else {
            bail!("Ferry has no console");
        };
        let (sender, lines) = mpsc::channel();
        pass_lines(output, sender.clone());
        pass_lines(errors, sender);
        let guest = Self {
            ferry,
            console,
            lines,
            figures,
        };
        let end = Instant::now() + BOOT;
        loop {
            let line = guest.line(end, "before the guest was ready")?;
            if line == READY {
                return Ok(guest);
            }
            page.guest_line(&line);
        }
    }

    /// Runs a command of one line, showing both it and what it prints.
    pub(super) fn run(&mut self, command: &str, page: &Page) -> Result<Answer> {
        self.begin(command, page)?;
        self.end(command, MOMENT, page)
    }

    /// Starts a command; [`Guest::end`] waits for it.
    pub(super) fn begin(&mut self, command: &str, page: &Page) -> Result<()> {
        page.guest_command(command);
        writeln!(self.console, "{command}")
            .and_then(|()| self.console.flush())
            .context("the guest's console takes no input")
    }

    /// Waits for the end of the command begun last.
    pub(super) fn end(&mut self, command: &str, limit: Duration, page: &Page) -> Result<Answer> {
        let end = Instant::now() + limit;
        let mut lines = Vec::new();
        loop {
            let line = self.line(end, &format!("while the guest ran: {command}"))?;
            if let Some(status) = line.strip_prefix(STATUS) {
                let status = status.parse().context("the guest's console is garbled")?;
                return Ok(Answer { status, lines });
            }
            page.guest_line(&line);
            lines.push(line);
        }
    }

    /// Ferry's figures as of now.
    pub(super) fn figures(&self) -> Result<Figures> {
        // Ferry puts a whole file in place, so one that is there is one that was asked for.
        let _ = fs::remove_file(&self.figures);
        ferry_process::signal("USR1", self.ferry.id())?;
        let end = Instant::now() + MOMENT;
        loop {
            if let Ok(text) = fs::read_to_string(&self.figures) {
                return Figures::parse(&text);
            }
            if Instant::now() > end {
                bail!("Ferry does not answer SIGUSR1 with its figures");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for Ferry to end by itself and gives its exit code.
    pub(super) fn exit(mut self, page: &Page) -> Result<Option<i32>> {
        let end = Instant::now() + MOMENT;
        while self.ferry.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("the guest does not power off within {} s", MOMENT.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            page.guest_line(&line);
        }
        Ok(self.ferry.wait()?.code())
    }

    fn line(&self, end: Instant, place: &str) -> Result<String> {
        let left = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("nothing more came {place}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("Ferry ended {place}"),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.ferry.kill();
        let _ = self.ferry.wait();
    }
}

fn pass_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while let Ok(1..) = from.read_until(b'\n', &mut bytes) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if to.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_names_at_the_start_of_a_line() {
        let answer = Answer {
            status: 0,
            lines: vec!["bus-info: 0000:00:01.0".into(), "driver: igb".into()],
        };
        assert_eq!(answer.field("driver"), Some("igb"));
        assert_eq!(answer.field("bus-info"), Some("0000:00:01.0"));
        assert_eq!(answer.field("bus"), None);
    }
}
