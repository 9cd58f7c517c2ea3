//! A running machine, watched from outside.
//!
//! Four threads at most read from QEMU (control port, the two streams, QEMU's own messages) and report to the thread that
//! waits. That thread alone decides; it never blocks longer than the deadline.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use super::machine::Logs;
use super::qemu::{PORTS, socket_file};
use super::stream::copy_to_mark;

/// Lines of a log worth showing when a machine broke down.
const TAIL: usize = 15;
/// QEMU says so of every wire that, on purpose, does not lead out of the machine.
const NO_NEWS: &str = "is not connected to host network";
/// What is left in a stream when QEMU has ended arrives within this.
const DRAIN: Duration = Duration::from_secs(2);

/// The error of a run that took too long.
#[derive(Debug)]
pub struct Expired {
    after: Duration,
    stage: &'static str,
    tail: String,
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, stage, tail } = self;
        write!(
            f,
            "the lab machine was stopped after {} s, while {stage}; {tail}",
            after.as_secs()
        )
    }
}

impl std::error::Error for Expired {}

/// Where the streams of a batch command go.
pub(super) struct Sinks {
    pub(super) stdout: Box<dyn Write + Send>,
    pub(super) stderr: Box<dyn Write + Send>,
    pub(super) mark: Vec<u8>,
}

enum Event {
    /// L1 is up and starts the command.
    Ready,
    /// The command ended.
    Exit(u8),
    /// A stream ended.
    StreamEnd,
    /// QEMU ended.
    Gone,
}

/// A started machine. Dropping it ends the machine.
pub(super) struct Session {
    qemu: Child,
    events: Receiver<Event>,
    run_dir: Option<TempDir>,
    logs: Logs,
    open_streams: usize,
    status: Option<u8>,
    ready: bool,
}

impl Session {
    /// Starts QEMU. Its sockets must lie in `run_dir`.
    pub(super) fn start(
        mut command: Command,
        run_dir: TempDir,
        logs: Logs,
        sinks: Option<Sinks>,
    ) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let [control, stdout, stderr] = PORTS.map(|port| {
            let path = socket_file(run_dir.path(), port);
            UnixListener::bind(&path)
                .with_context(|| format!("cannot listen on {}", path.display()))
        });
        let (control, stdout, stderr) = (control?, stdout?, stderr?);
        let mut qemu = command
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let messages = qemu.stderr.take().context("QEMU has no standard error")?;
        watch_messages(messages, File::create(&logs.qemu)?, sender.clone());
        watch_control(control, sender.clone());
        let open_streams = match sinks {
            Some(Sinks {
                stdout: to_stdout,
                stderr: to_stderr,
                mark,
            }) => {
                watch_stream(stdout, to_stdout, mark.clone(), sender.clone());
                watch_stream(stderr, to_stderr, mark, sender);
                2
            }
            None => {
                watch_stream(stdout, Box::new(std::io::sink()), vec![0], sender.clone());
                watch_stream(stderr, Box::new(std::io::sink()), vec![0], sender);
                0
            }
        };
        Ok(Self {
            qemu,
            events,
            run_dir: Some(run_dir),
            logs,
            open_streams,
            status: None,
            ready: false,
        })
    }

    /// Waits for the end of the command and returns its exit status.
    pub(super) fn wait(mut self, deadline: Option<Duration>) -> Result<u8> {
        let start = Instant::now();
        loop {
            if let (Some(status), 0) = (self.status, self.open_streams) {
                // Everything has arrived; there is nothing in L1 worth an orderly shutdown.
                return Ok(status);
            }
            let event = match deadline {
                Some(deadline) => self
                    .events
                    .recv_timeout(deadline.saturating_sub(start.elapsed())),
                None => self
                    .events
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => return self.gone(),
                Ok(event) => self.note(&event),
                Err(RecvTimeoutError::Timeout) => {
                    let after = start.elapsed();
                    return Err(Expired {
                        after,
                        stage: self.stage(),
                        tail: self.tail(),
                    }
                    .into());
                }
            }
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Ready => {
                self.ready = true;
                // QEMU has opened all it needs; unlinked now, the files cannot be left behind by a killed run.
                self.run_dir = None;
            }
            Event::Exit(status) => self.status = Some(*status),
            Event::StreamEnd => self.open_streams = self.open_streams.saturating_sub(1),
            Event::Gone => {}
        }
    }

    /// QEMU ended by itself: the machine powered off, rebooted or crashed before or after it reported.
    fn gone(mut self) -> Result<u8> {
        while let Ok(event) = self.events.recv_timeout(DRAIN) {
            self.note(&event);
            if self.open_streams == 0 {
                break;
            }
        }
        if let Some(status) = self.status {
            return Ok(status);
        }
        let exit = self
            .qemu
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(anyhow!(
            "the lab machine reset itself or was powered off while {} (QEMU: {exit}); {}",
            self.stage(),
            self.tail()
        ))
    }

    fn stage(&self) -> &'static str {
        match (self.ready, self.status) {
            (false, _) => "L1 was booting",
            (true, None) => "the command was running",
            (true, Some(_)) => "L1 was sending the last output",
        }
    }

    fn tail(&self) -> String {
        let mut text = String::new();
        for (what, path) in [
            ("QEMU", &self.logs.qemu),
            ("the L1 console", &self.logs.console),
        ] {
            let lines = last_lines(path);
            if !lines.is_empty() {
                text.push_str(&format!(
                    "\nlast lines of {what} ({}):\n{lines}",
                    path.display()
                ));
            }
        }
        if text.is_empty() {
            text = format!("nothing was printed to {}", self.logs.console.display());
        }
        text
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's standard error closes when QEMU ends, however it ends: that is how its end is noticed.
fn watch_messages(from: impl std::io::Read + Send + 'static, mut log: File, sender: Sender<Event>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let _ = std::io::copy(&mut from, &mut log);
        let _ = sender.send(Event::Gone);
    });
}

fn watch_control(listener: UnixListener, sender: Sender<Event>) {
    thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let event = match line.trim().split_once(' ') {
                None if line.trim() == "ready" => Event::Ready,
                Some(("exit", status)) => Event::Exit(status.parse().unwrap_or(u8::MAX)),
                _ => continue,
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
}

fn watch_stream(
    listener: UnixListener,
    mut to: Box<dyn Write + Send>,
    mark: Vec<u8>,
    sender: Sender<Event>,
) {
    thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = copy_to_mark(&mut stream, &mut to, &mark);
        }
        let _ = sender.send(Event::StreamEnd);
    });
}

fn last_lines(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.contains(NO_NEWS))
        .collect();
    let shown = &lines[lines.len().saturating_sub(TAIL)..];
    shown
        .iter()
        .map(|line| format!("  {}\n", line.replace(|c: char| c.is_control(), "")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_few_and_printable() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for number in 0..40 {
            writeln!(file, "line {number}\r\n\u{1b}").unwrap();
        }
        let text = last_lines(file.path());
        assert!(text.ends_with("  line 39\n  \n"), "{text:?}");
        assert!(text.lines().count() <= TAIL);
        assert_eq!(last_lines(Path::new("/nonexistent")), "");
    }
}
