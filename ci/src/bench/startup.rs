//! How long it takes from the start of the monitor to the first program of the guest.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::run::Run;
use super::side::{Guest, Side};
use super::statistics::{Spread, ratio};

/// What the guest's /init says first.
const INIT: &str = "ferry-guest: init uptime=";

/// In the order in which they take their turns: the two that are compared follow each other.
const SIDES: [Side; 4] = [Side::Ferry, Side::Q35, Side::FerryBare, Side::Microvm];

/// One start.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Start {
    /// Seconds from exec to the guest's first line.
    wall: f64,
    /// The guest's own uptime then, in seconds.
    uptime: f64,
}

/// Measures and prints.
pub(super) fn measure(guest: &Guest, rounds: u32) -> Result<()> {
    let mut starts: BTreeMap<Side, Vec<Start>> = BTreeMap::new();
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for side in SIDES {
            let start = one(side, guest).with_context(|| format!("round {round}"))?;
            println!(
                "round {round}/{rounds}  {:<26}{:6.2} s  guest uptime {:.2} s",
                side.name(),
                start.wall,
                start.uptime
            );
            starts.entry(side).or_default().push(start);
            if side == Side::Ferry {
                add_phases(guest, &mut phases)?;
            }
        }
    }
    print!("\n{}", table(&starts));
    print!("\n{}", phase_lines(&phases));
    Ok(())
}

fn one(side: Side, guest: &Guest) -> Result<Start> {
    let mut run = Run::start(side, guest)?;
    let (wall, line) = run.wait_for(INIT)?;
    run.stop()?;
    let uptime = uptime(&line).with_context(|| format!("no uptime in \"{line}\""))?;
    Ok(Start {
        wall: wall.as_secs_f64(),
        uptime,
    })
}

fn uptime(line: &str) -> Option<f64> {
    line.strip_prefix(INIT)?.trim().parse().ok()
}

fn table(starts: &BTreeMap<Side, Vec<Start>>) -> String {
    let column = |side: Side, of: fn(&Start) -> f64| -> Vec<f64> {
        let measured = starts.get(&side).map(Vec::as_slice).unwrap_or_default();
        measured.iter().map(of).collect()
    };
    let spread = |side, of| Spread::of(column(side, of));
    let wall: fn(&Start) -> f64 = |start| start.wall;
    let uptime: fn(&Start) -> f64 = |start| start.uptime;
    let mut text = format!(
        "{:<26}{:>24}    {:>24}\n{:<26}{:>8}{:>8}{:>8}    {:>8}{:>8}{:>8}\n",
        "",
        "exec to /init, s",
        "guest uptime there, s",
        "",
        "median",
        "min",
        "max",
        "median",
        "min",
        "max"
    );
    for side in SIDES {
        if let (Some(wall), Some(uptime)) = (spread(side, wall), spread(side, uptime)) {
            text.push_str(&format!("{:<26}{wall}    {uptime}\n", side.name()));
        }
    }
    for (ferry, other) in [(Side::Ferry, Side::Q35), (Side::FerryBare, Side::Microvm)] {
        let ratio = |of| ratio(&column(other, of), &column(ferry, of));
        if let (Some(wall), Some(uptime)) = (ratio(wall), ratio(uptime)) {
            let name = format!("{} / Ferry", other.name().split(',').next().unwrap_or(""));
            text.push_str(&format!(
                "{name:<26}{:>8}{:16}    {:>8}\n",
                format!("{wall:.2}x"),
                "",
                format!("{uptime:.2}x")
            ));
        }
    }
    text.push_str("(ratios: the median of those of the rounds)\n");
    text
}

/// Takes the start-up phases out of the figures that Ferry has just written.
fn add_phases(guest: &Guest, phases: &mut BTreeMap<String, Vec<f64>>) -> Result<()> {
    let text = fs::read_to_string(&guest.figures).context("Ferry wrote no figures")?;
    let figures: serde_json::Value = serde_json::from_str(&text)?;
    let startup = figures["startup"]
        .as_object()
        .context("no start-up phases")?;
    for (name, micros) in startup {
        let millis = micros.as_f64().unwrap_or(f64::NAN) / 1000.0;
        phases.entry(name.clone()).or_default().push(millis);
    }
    let exits = figures["vcpus"].as_array().into_iter().flatten();
    let exits = exits.filter_map(|vcpu| vcpu["exits"].as_f64()).sum();
    phases.entry("exits".to_owned()).or_default().push(exits);
    Ok(())
}

fn phase_lines(phases: &BTreeMap<String, Vec<f64>>) -> String {
    let median = |name: &str| Some(Spread::of(phases.get(name)?.iter().copied())?.median);
    let mut text = String::new();
    if let Some(first) = median("first_run") {
        text.push_str(&format!(
            "Ferry's own part, exec to the guest's first instruction: {first:.0} ms (medians; some overlap):\n "
        ));
        let mut comma = "";
        for (name, what) in [
            ("parse", "checking the host"),
            ("open_devices", "opening the device"),
            ("populate_memory", "faulting in 512 MiB"),
            ("dma_map", "mapping it for DMA"),
            ("load_kernel", "loading kernel and initramfs"),
        ] {
            if let Some(millis) = median(name) {
                text.push_str(&format!("{comma} {what} {millis:.0}"));
                comma = ",";
            }
        }
        text.push('\n');
    }
    if let Some(exits) = median("exits") {
        text.push_str(&format!("Exits to user space until /init: {exits:.0}.\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read_from_the_first_line() {
        assert_eq!(uptime("ferry-guest: init uptime=2.31"), Some(2.31));
        assert_eq!(uptime("ferry-guest: init uptime="), None);
        assert_eq!(uptime("login:"), None);
    }

    #[test]
    fn ratio_is_of_medians_and_above_one_when_ferry_is_faster() {
        let start = |wall, uptime| Start { wall, uptime };
        let starts = BTreeMap::from([
            (Side::Ferry, vec![start(5.0, 2.0), start(50.0, 2.0)]),
            (Side::Q35, vec![start(10.0, 3.0), start(100.0, 3.0)]),
        ]);
        let text = table(&starts);
        assert!(text.contains("QEMU q35 / Ferry"), "{text}");
        assert!(text.contains("2.00x") && text.contains("1.50x"), "{text}");
        assert!(!text.contains("microvm"), "{text}");
    }
}
