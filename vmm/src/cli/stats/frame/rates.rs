//! Counts of two looks at a guest, and what was added between them a second.

use serde_json::Value;
use std::collections::BTreeMap;

/// What was counted, by group and name.
type Counts = BTreeMap<(String, String), u64>;

/// A count, and how much of it a second.
pub(super) struct Count {
    pub(super) name: String,
    pub(super) total: u64,
    pub(super) rate: f64,
    /// Where it stands among its like: the words of its name, numbers by their value.
    pub(super) order: Vec<(u64, String)>,
}

/// The counts of a look, against those of the one before.
pub(super) struct Rates {
    before: Option<Counts>,
    now: Counts,
    seconds: f64,
}

impl Rates {
    /// Of figures, and those that were `seconds` earlier.
    pub(super) fn new(before: Option<&Value>, now: &Value, seconds: f64) -> Self {
        Self {
            before: before.map(counts),
            now: counts(now),
            seconds,
        }
    }

    /// Whether there is such a count.
    pub(super) fn has(&self, group: &str, name: &str) -> bool {
        self.now.contains_key(&(group.to_owned(), name.to_owned()))
    }

    /// A count under another name; 0 where there is none.
    pub(super) fn of(&self, group: &str, name: &str, shown: &str) -> Count {
        let mut count = self.count(&(group.to_owned(), name.to_owned()));
        count.name = shown.to_owned();
        count
    }

    /// Those of a group that ever counted anything, the busiest first.
    pub(super) fn busiest(&self, group: &str) -> Vec<Count> {
        let of_group = self.now.keys().filter(|(of, _)| of == group);
        let mut all: Vec<_> = of_group.map(|key| self.count(key)).collect();
        all.retain(|count| count.total > 0);
        all.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
        all
    }

    fn count(&self, key: &(String, String)) -> Count {
        let total = self.now.get(key).copied().unwrap_or(0);
        // What was not there before is new: all of it was added.
        let before = self
            .before
            .as_ref()
            .map_or(total, |before| before.get(key).copied().unwrap_or(0));
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = total.saturating_sub(before) as f64 / self.seconds;
        Count {
            name: key.1.clone(),
            total,
            rate,
            order: order(&key.1),
        }
    }
}

fn order(name: &str) -> Vec<(u64, String)> {
    name.split(' ')
        .map(|word| {
            let hexadecimal = word.strip_prefix("0x");
            let number = hexadecimal.map_or_else(
                || word.parse().ok(),
                |digits| u64::from_str_radix(digits, 16).ok(),
            );
            number.map_or((0, word.to_owned()), |number| (number, String::new()))
        })
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn counts(stats: &Value) -> Counts {
    let mut counts = Counts::new();
    let mut add = |group: &str, name: &str, count: &Value| {
        let key = (group.to_owned(), name.to_owned());
        let total = counts.entry(key).or_default();
        *total += count.as_u64().unwrap_or(0);
    };
    for vcpu in list(&stats["vcpus"]) {
        add("total", "exits", &vcpu["exits"]);
        for access in list(&vcpu["accesses"]) {
            let word = |key: &str| access[key].as_str().unwrap_or("?").replace('_', " ");
            let name = format!("{} {}", word("access"), word("range"));
            add("exits", &name, &access["count"]);
        }
        for (reason, count) in vcpu["others"].as_object().into_iter().flatten() {
            add("exits", reason, count);
        }
        for (name, count) in vcpu["kvm"].as_object().into_iter().flatten() {
            add("kvm", name, count);
        }
    }
    for device in list(&stats["devices"]) {
        let id = device["id"].as_str().unwrap_or("?");
        for (kind, vectors) in device["interrupts"].as_object().into_iter().flatten() {
            for (vector, count) in vectors.as_object().into_iter().flatten() {
                add(&format!("{id} vectors"), &format!("{kind} {vector}"), count);
                add("interrupts", id, count);
            }
        }
        for trap in list(&device["bar_traps"]) {
            let word = |key: &str| trap[key].as_str().unwrap_or("?");
            for (key, verb) in [("reads", "read"), ("writes", "write")] {
                let name = format!("{} {} {verb}", word("bar"), word("offset"));
                add(&format!("{id} traps"), &name, &trap[key]);
                add("traps", id, &trap[key]);
            }
        }
    }
    counts
}
