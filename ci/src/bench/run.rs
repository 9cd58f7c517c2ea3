//! One guest, from the start of its monitor to a line on its console.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::side::{Guest, Side};

/// How long a guest may take to get somewhere; a hung one must not hold up the rest for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running side. Dropping it kills it.
pub(super) struct Run {
    child: Child,
    started: Instant,
    console: Receiver<(Instant, Vec<u8>)>,
    text: Vec<u8>,
    side: Side,
}

impl Run {
    /// Starts the clock and the monitor.
    pub(super) fn start(side: Side, guest: &Guest) -> Result<Self> {
        let mut command = side.command(guest);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut output = child.stdout.take().context("no standard output")?;
        let (sender, console) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if sender.send((Instant::now(), bytes)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            started,
            console,
            text: Vec::new(),
            side,
        })
    }

    /// Waits for a whole line that contains `mark`; gives the line and when the mark was there, since the start.
    pub(super) fn wait_for(&mut self, mark: &str) -> Result<(Duration, String)> {
        let mut seen = None;
        let end = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&self.text).into_owned();
            let found = text.split_once(mark);
            if let (Some(at), Some((_, rest))) = (seen, found)
                && let Some((line, _)) = rest.split_once('\n')
            {
                return Ok((at, format!("{mark}{}", line.trim_end())));
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.console.recv_timeout(left) {
                Ok((at, bytes)) => {
                    self.text.extend(bytes);
                    if seen.is_none() && String::from_utf8_lossy(&self.text).contains(mark) {
                        seen = Some(at.duration_since(self.started));
                    }
                }
                Err(error) => bail!(
                    "{} {} before \"{mark}\"; its console ends with:\n{}",
                    self.side.name(),
                    match error {
                        RecvTimeoutError::Timeout => "took too long",
                        RecvTimeoutError::Disconnected => "ended",
                    },
                    tail(&text)
                ),
            }
        }
    }

    /// What the console has shown so far.
    pub(super) fn console_text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Ends the monitor and waits until it has, so that the device is free.
    pub(super) fn stop(mut self) -> Result<()> {
        if matches!(self.side, Side::Q35 | Side::Microvm | Side::Q35Served) {
            return Ok(());
        }
        // Ferry writes its figures then. A SIGTERM would wait for the guest to heed its power button.
        crate::ferry_process::signal("INT", self.child.id())?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("{} does not end", self.side.name());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(15)..);
    shown.unwrap_or_default().join("\n")
}
