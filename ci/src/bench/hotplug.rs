//! How long it takes a card to join a running guest, and to leave it: Ferry's API against QEMU's monitor.
//!
//! Both guests have no device at first, so the first arrival has all of guest RAM pinned. QEMU's q35 takes devices on a root
//! port only, so its guest has one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::run::Run;
use super::side::{Guest, Side};
use super::statistics::{Spread, ratio};

const SIDES: [Side; 2] = [Side::FerryServed, Side::Q35Served];
/// How often the card comes and goes in one guest.
const TIMES: u32 = 4;
/// The guest prints this, and where it is.
const MARK: &str = "ferry-bench: ";
/// What the guest writes into its kernel's log before it says that it is ready.
const LOGGED: &str = "ferry-mark";
/// What its kernel logs when the driver begins to probe.
const PROBE: &str = "enabling device";
/// How long a monitor may take for one command.
const PATIENCE: Duration = Duration::from_secs(60);
/// The card's name.
const ID: &str = "nic0";

/// One arrival and departure, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Visit {
    /// From the command to the driver's first line in the guest.
    probe: f64,
    /// From the command to its answer.
    added: f64,
    /// From the command to when the monitor says that the device is gone.
    removed: f64,
}

/// Which of a guest's arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    First,
    Later,
}

/// A column's name, and what of a visit is in it.
type Column = (&'static str, fn(&Visit) -> f64);

/// The visits of each side, in rounds.
type Visits = BTreeMap<(Turn, Side), Vec<Visit>>;

/// Measures and prints.
pub(super) fn measure(guest: &Guest, rounds: u32) -> Result<()> {
    let command = format!("ferry.modules=igb ferry.run=\"{}\"", script());
    let guest = Guest {
        cmdline: format!("{} {command}", guest.cmdline),
        ..guest.clone()
    };
    let mut visits = Visits::new();
    for round in 1..=rounds {
        for side in SIDES {
            let made = one(side, &guest).with_context(|| format!("round {round}"))?;
            for (visit, turn) in made.into_iter().zip(
                [Turn::First]
                    .into_iter()
                    .chain(std::iter::repeat(Turn::Later)),
            ) {
                println!(
                    "round {round}/{rounds}  {:<12}{:<8}probe after {:5.0} ms, answer after {:5.0} ms, gone after {:5.0} ms",
                    side.name(),
                    turn.name(),
                    visit.probe,
                    visit.added,
                    visit.removed
                );
                visits.entry((turn, side)).or_default().push(visit);
            }
        }
    }
    print!("\n{}", table(&visits));
    Ok(())
}

/// What the guest runs. It looks for the card ten times a second, which costs neither side much; the time of the probe is the
/// kernel's.
fn script() -> String {
    format!(
        "n=0; while [ $n -lt {TIMES} ]; do n=$((n+1)); dmesg -c > /dev/null; \
         echo {LOGGED} > /dev/kmsg; echo {MARK}ready $n; \
         until ls -d /sys/class/net/eth* > /dev/null 2>&1; do sleep 0.1; done; \
         dmesg | grep -e {LOGGED} -e '{PROBE}'; echo {MARK}added $n; \
         while ls -d /sys/class/net/eth* > /dev/null 2>&1; do sleep 0.1; done; done; sleep 60"
    )
}

fn one(side: Side, guest: &Guest) -> Result<Vec<Visit>> {
    // A socket that an earlier side has left keeps QEMU from making its own.
    let _ = fs::remove_file(&guest.socket);
    let mut run = Run::start(side, guest)?;
    let mut visits = Vec::new();
    let mut monitor = None;
    for time in 1..=TIMES {
        run.wait_for(&format!("{MARK}ready {time}"))?;
        let monitor = match &mut monitor {
            Some(monitor) => monitor,
            None => monitor.insert(Monitor::open(side, guest)?),
        };
        let started = Instant::now();
        monitor.add(guest)?;
        let added = millis(started);
        run.wait_for(&format!("{MARK}added {time}"))?;
        let console = run.console_text();
        let probe = probe(&console, time).with_context(|| format!("no times in:\n{console}"))?;
        let started = Instant::now();
        monitor.remove()?;
        let removed = millis(started);
        visits.push(Visit {
            probe,
            added,
            removed,
        });
    }
    run.stop()?;
    Ok(visits)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Milliseconds between the guest's mark and the driver's first line, of the visit whose end is logged as `added TIME`.
fn probe(console: &str, time: u32) -> Option<f64> {
    let (before, _) = console.split_once(&format!("{MARK}added {time}"))?;
    let (_, lines) = before.rsplit_once(&format!("{MARK}ready {time}"))?;
    let seconds = |mark: &str| -> Option<f64> {
        let line = lines.lines().find(|line| line.contains(mark))?;
        let (stamp, _) = line.split_once(']')?;
        let (_, stamp) = stamp.rsplit_once('[')?;
        stamp.trim().parse().ok()
    };
    Some((seconds(PROBE)? - seconds(LOGGED)?) * 1000.0)
}

/// A monitor's socket.
enum Monitor {
    Ferry(Guest),
    Qemu(BufReader<UnixStream>),
}

impl Monitor {
    fn open(side: Side, guest: &Guest) -> Result<Self> {
        if side == Side::FerryServed {
            return Ok(Self::Ferry(guest.clone()));
        }
        let stream = UnixStream::connect(&guest.socket).context("no monitor of QEMU's")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self::Qemu(BufReader::new(stream));
        monitor.qemu(&json!({"execute": "qmp_capabilities"}), "return")?;
        Ok(monitor)
    }

    fn add(&mut self, guest: &Guest) -> Result<()> {
        let host = guest.device.address();
        match self {
            Self::Ferry(guest) => ferry(guest, "vm.add-device", &json!({"host": host, "id": ID})),
            Self::Qemu(_) => {
                let arguments =
                    json!({"driver": "vfio-pci", "host": host, "id": ID, "bus": Side::ROOT_PORT});
                self.qemu(
                    &json!({"execute": "device_add", "arguments": arguments}),
                    "return",
                )
            }
        }
    }

    /// Returns when the guest has let go of it.
    fn remove(&mut self) -> Result<()> {
        match self {
            Self::Ferry(guest) => ferry(guest, "ferry.remove-device", &json!({"id": ID})),
            Self::Qemu(_) => {
                let arguments = json!({"id": ID});
                let command = json!({"execute": "device_del", "arguments": arguments});
                self.qemu(&command, "DEVICE_DELETED")
            }
        }
    }

    /// Sends a command and waits for `what`: its answer, or an event.
    fn qemu(&mut self, command: &Value, what: &str) -> Result<()> {
        let Self::Qemu(stream) = self else {
            return Ok(());
        };
        writeln!(stream.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                bail!("QEMU's monitor ended at {command}");
            }
            let answer: Value = serde_json::from_str(&line)?;
            if answer.get("error").is_some() {
                bail!("QEMU to {command}: {line}");
            }
            if answer.get(what).is_some()
                || (answer["event"] == what && answer["data"]["device"] == ID)
            {
                return Ok(());
            }
        }
    }
}

fn ferry(guest: &Guest, path: &str, body: &Value) -> Result<()> {
    let mut stream = UnixStream::connect(&guest.socket).context("no API of Ferry's")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.to_string();
    write!(
        stream,
        "PUT /api/v1/{path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split(' ').nth(1) {
        Some("200" | "204") => Ok(()),
        _ => bail!("Ferry to {path}: {answer}"),
    }
}

impl Turn {
    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Later => "later",
        }
    }
}

fn table(visits: &Visits) -> String {
    let columns: [Column; 3] = [
        ("add to probe, ms", |visit| visit.probe),
        ("add to answer, ms", |visit| visit.added),
        ("remove to gone, ms", |visit| visit.removed),
    ];
    let mut text = format!("{:<20}", "");
    for (name, _) in columns {
        text += &format!("{name:>24}    ");
    }
    text = format!("{}\n{:<20}", text.trim_end(), "");
    for _ in columns {
        text += &format!("{:>8}{:>8}{:>8}    ", "median", "min", "max");
    }
    text = format!("{}\n", text.trim_end());
    for turn in [Turn::First, Turn::Later] {
        let column = |side, of: fn(&Visit) -> f64| -> Vec<f64> {
            let made = visits.get(&(turn, side)).map(Vec::as_slice);
            made.unwrap_or_default().iter().map(of).collect()
        };
        for side in SIDES {
            text += &format!("{:<20}", format!("{}, {}", side.name(), turn.name()));
            for (_, of) in columns {
                if let Some(spread) = Spread::of(column(side, of)) {
                    text += &format!("{spread}    ");
                }
            }
            text = format!("{}\n", text.trim_end());
        }
        text += &format!("{:<20}", "QEMU / Ferry");
        for (_, of) in columns {
            let ratio = ratio(&column(Side::Q35Served, of), &column(Side::FerryServed, of));
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
            text += &format!("{ratio:>8}{:16}    ", "");
        }
        text = format!("{}\n", text.trim_end());
    }
    text + "(ratios: the median of those of the visits)\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_probe_is_that_of_the_same_visit() {
        let console = "ferry-bench: ready 1\n[    2.500000] ferry-mark\n[    2.750000] igb 0000:00:01.0: enabling device (0000 -> 0002)\n\
                       ferry-bench: added 1\nferry-bench: ready 2\n[   10.000000] ferry-mark\n[   10.100000] igb 0000:00:01.0: enabling device\n\
                       ferry-bench: added 2\n";
        assert_eq!(probe(console, 1), Some(250.0));
        assert!((probe(console, 2).unwrap() - 100.0).abs() < 1e-6);
        assert_eq!(probe(console, 3), None);
        assert_eq!(
            probe("ferry-bench: ready 1\nferry-bench: added 1\n", 1),
            None
        );
    }

    #[test]
    fn guest_command_fits_the_kernels_command_line() {
        let script = script();
        assert!(script.len() < 1800 && !script.contains('"'), "{script}");
    }

    #[test]
    fn ratio_is_above_one_when_ferry_is_faster() {
        let visit = |ms| Visit {
            probe: ms,
            added: ms,
            removed: ms,
        };
        let visits = Visits::from([
            ((Turn::First, Side::FerryServed), vec![visit(100.0)]),
            ((Turn::First, Side::Q35Served), vec![visit(250.0)]),
        ]);
        assert!(table(&visits).contains("2.50x"), "{}", table(&visits));
    }
}
