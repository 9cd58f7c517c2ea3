//! What the screen of `ferry stats --watch` shows: what the guest costs at the top, each of its devices below.

use crate::cli::info::span;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

/// How many of the busiest things are listed.
const BUSIEST: usize = 8;
/// How many vectors of a device.
const VECTORS: usize = 10;

/// The guest at one time.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) info: Value,
    pub(super) stats: Value,
}

/// The lines of the screen; rates since `before`.
pub(super) fn lines(before: Option<&Look>, now: &Look) -> Vec<String> {
    let seconds = before.map_or(1.0, |before| (now.at - before.at).as_secs_f64().max(0.001));
    let rates = Rates {
        before: before.map(|before| counts(&before.stats)),
        now: counts(&now.stats),
        seconds,
    };
    let mut lines = vec![title(now), heads()];
    lines.extend(exits(&rates));
    lines.extend(devices(&rates, &now.stats));
    lines.push(String::new());
    lines.push(memory(&now.stats));
    lines.push("q leaves".to_owned());
    lines
}

fn title(now: &Look) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    format!(
        "{}   up {}   boot {}   {} vCPUs   {} MiB",
        text(&now.info["state"]).to_uppercase(),
        span(number(&now.stats["uptime"]) / 1_000_000),
        number(&now.stats["boots"]),
        number(&now.info["config"]["cpus"]["boot_vcpus"]),
        number(&now.info["memory_actual_size"]) >> 20,
    )
}

/// What was counted, by group and name.
type Counts = BTreeMap<(String, String), u64>;

struct Rates {
    before: Option<Counts>,
    now: Counts,
    seconds: f64,
}

impl Rates {
    /// Total of a count, and how much of it a second.
    fn of(&self, key: &(String, String)) -> (u64, f64) {
        let now = self.now.get(key).copied().unwrap_or(0);
        let before = self
            .before
            .as_ref()
            .map_or(now, |before| before.get(key).copied().unwrap_or(0));
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = now.saturating_sub(before) as f64 / self.seconds;
        (now, rate)
    }

    /// Names of a group with total and rate, the busiest first.
    fn busiest(&self, group: &str, most: usize) -> Vec<(String, u64, f64)> {
        let of_group = self.now.keys().filter(|(of, _)| of == group);
        let mut all: Vec<_> = of_group
            .map(|key| {
                let (total, rate) = self.of(key);
                (key.1.clone(), total, rate)
            })
            .collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.cmp(&a.1)));
        all.truncate(most);
        all
    }
}

fn counts(stats: &Value) -> Counts {
    let mut counts = Counts::new();
    let mut add = |group: &str, name: &str, count: &Value| {
        let total = counts
            .entry((group.to_owned(), name.to_owned()))
            .or_default();
        *total += count.as_u64().unwrap_or(0);
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for vcpu in list(&stats["vcpus"]) {
        add("total", "exits", &vcpu["exits"]);
        for access in list(&vcpu["accesses"]) {
            let word = |key: &str| access[key].as_str().unwrap_or("?").replace('_', " ");
            add(
                "exits",
                &format!("{} {}", word("access"), word("range")),
                &access["count"],
            );
        }
        for (reason, count) in vcpu["others"].as_object().into_iter().flatten() {
            add("exits", reason, count);
        }
    }
    for device in list(&stats["devices"]) {
        let id = device["id"].as_str().unwrap_or("?");
        for (kind, vectors) in device["interrupts"].as_object().into_iter().flatten() {
            for (vector, count) in vectors.as_object().into_iter().flatten() {
                add(id, &format!("{kind} {vector}"), count);
                add("interrupts", id, count);
            }
        }
    }
    counts
}

fn exits(rates: &Rates) -> Vec<String> {
    let (total, rate) = rates.of(&("total".to_owned(), "exits".to_owned()));
    let mut lines = vec![row("EXITS TO FERRY", total, rate)];
    let busiest = rates.busiest("exits", BUSIEST).into_iter();
    lines.extend(busiest.map(|(name, total, rate)| row(&format!("  {name}"), total, rate)));
    lines
}

fn devices(rates: &Rates, stats: &Value) -> Vec<String> {
    let devices = stats["devices"].as_array().map_or(&[][..], Vec::as_slice);
    if devices.is_empty() {
        return vec![String::new(), "NO DEVICES".to_owned()];
    }
    let mut lines = Vec::new();
    for device in devices {
        let word = |key: &str| device[key].as_str().unwrap_or("?").to_owned();
        let (id, host, guest) = (word("id"), word("host"), word("guest"));
        let armed = device["armed_vectors"].as_array().map_or(0, Vec::len);
        let errors = device["errors"].as_u64().unwrap_or(0);
        lines.push(String::new());
        lines.push(format!(
            "DEVICE {id}   host {host}   guest {guest}   vectors armed {armed}   errors {errors}"
        ));
        let (total, rate) = rates.of(&("interrupts".to_owned(), id.clone()));
        lines.push(row("  interrupts", total, rate));
        let vectors = rates.busiest(&id, VECTORS).into_iter();
        let used = vectors.filter(|(_, total, _)| *total > 0);
        lines.extend(used.map(|(name, total, rate)| row(&format!("    {name}"), total, rate)));
    }
    lines
}

fn memory(stats: &Value) -> String {
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "FERRY ITSELF   peak memory {} MiB   memslots {}   GSIs {}",
        number("/memory/peak_rss_without_guest_ram") >> 20,
        number("/kvm/memslots"),
        number("/kvm/gsis"),
    )
}

/// What the columns of [`row`] are.
fn heads() -> String {
    format!("{:<44}{:>14} {:>14}", "", "a second", "in all")
}

fn row(name: &str, total: u64, rate: f64) -> String {
    format!("{name:<44}{rate:>12.0}/s {total:>14}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn look(at: Instant, exits: u64, interrupts: u64) -> Look {
        Look {
            at,
            info: json!({"state": "Running", "memory_actual_size": 512 << 20, "config": {"cpus": {"boot_vcpus": 1}}}),
            stats: json!({
                "uptime": 5_000_000, "boots": 1,
                "vcpus": [{"exits": exits + 1, "others": {"interrupted": 1}, "accesses": [
                    {"access": "port_write", "range": "serial 0x3f8", "count": exits}]}],
                "devices": [{"id": "nic0", "host": "0000:01:00.0", "guest": "0000:00:01.0", "errors": 0,
                    "armed_vectors": [0, 1], "interrupts": {"msix": {"0": interrupts, "1": 0}}}],
                "kvm": {"memslots": 3, "gsis": 2}, "memory": {"peak_rss_without_guest_ram": 9 << 20}
            }),
        }
    }

    #[test]
    fn a_screen_shows_rates_and_totals() {
        let start = Instant::now();
        let before = look(start, 100, 1000);
        let now = look(start + Duration::from_secs(2), 300, 1500);
        let lines = lines(Some(&before), &now);
        assert_eq!(lines[0], "RUNNING   up 5 s   boot 1   1 vCPUs   512 MiB");
        assert_eq!(lines[2], row("EXITS TO FERRY", 301, 100.0));
        assert_eq!(lines[3], row("  port write serial 0x3f8", 300, 100.0));
        assert!(
            lines.contains(&row("  interrupts", 1500, 250.0)),
            "{lines:#?}"
        );
        assert!(lines.contains(&row("    msix 0", 1500, 250.0)));
        assert!(!lines.iter().any(|line| line.contains("msix 1")));
        // It is read at a glance, on the smallest terminal there is.
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.len() <= 110));
    }

    #[test]
    fn the_first_screen_has_no_rates_yet() {
        let lines = lines(None, &look(Instant::now(), 100, 1000));
        assert_eq!(lines[2], row("EXITS TO FERRY", 101, 0.0));
    }
}
