//! What `ferry run --stats` writes, as far as the demonstration shows it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Counters by what they count.
pub(super) type Counts = BTreeMap<String, u64>;

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    /// Exits to user space by reason, all vCPUs together.
    pub(super) exits: Counts,
    /// The first device's interrupts by kind and vector.
    pub(super) interrupts: Counts,
}

impl Figures {
    /// Parses the JSON.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the figures are no JSON")?;
        let vcpus = value["vcpus"]
            .as_array()
            .context("no vCPUs in the figures")?;
        let mut exits = Counts::new();
        for vcpu in vcpus {
            for access in vcpu["accesses"].as_array().into_iter().flatten() {
                let word = |key: &str| access[key].as_str().unwrap_or("?").replace('_', " ");
                let name = format!("{} {}", word("access"), word("range"));
                *exits.entry(name).or_default() += access["count"].as_u64().unwrap_or(0);
            }
            for (reason, count) in vcpu["others"].as_object().into_iter().flatten() {
                *exits.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        let mut interrupts = Counts::new();
        let kinds = value["devices"][0]["interrupts"].as_object();
        for (kind, vectors) in kinds.into_iter().flatten() {
            for (vector, count) in vectors.as_object().into_iter().flatten() {
                let name = format!("{kind} vector {vector:>2}");
                interrupts.insert(name, count.as_u64().unwrap_or(0));
            }
        }
        Ok(Self { exits, interrupts })
    }
}

/// What was added from `before` to `after`, without what stayed.
pub(super) fn added(before: &Counts, after: &Counts) -> Counts {
    let grown = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &str = r#"{
        "vcpus": [
            {"accesses": [{"access": "port_write", "range": "serial 0x3f8", "count": 2}], "others": {"intr": 1}},
            {"accesses": [{"access": "port_write", "range": "serial 0x3f8", "count": 3}], "others": {}}
        ],
        "devices": [{"interrupts": {"msix": {"0": 7, "2": 1}}}]
    }"#;

    #[test]
    fn exits_of_all_vcpus_are_added_up() {
        let figures = Figures::parse(FIGURES).unwrap();
        assert_eq!(figures.exits["port write serial 0x3f8"], 5);
        assert_eq!(figures.exits["intr"], 1);
        assert_eq!(figures.interrupts["msix vector  0"], 7);
    }

    #[test]
    fn only_what_grew_was_added() {
        let figures = Figures::parse(FIGURES).unwrap();
        assert!(added(&figures.exits, &figures.exits).is_empty());
        assert_eq!(added(&Counts::new(), &figures.exits), figures.exits);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert!(Figures::parse("").is_err());
        assert!(Figures::parse("{}").is_err());
    }
}
