//! What `--stats` wrote.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// One set of figures.
#[derive(Clone, Debug)]
pub struct Figures(Value);

/// Exits to user space by what they were for, all vCPUs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exits(pub BTreeMap<String, u64>);

impl Figures {
    /// Parses the JSON of `--stats`.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(value) => Self(value),
            Err(error) => panic!("--stats wrote no JSON: {error}\n{text}"),
        }
    }

    /// The value at a JSON pointer, e.g. `/startup/parse`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        match self.0.pointer(pointer) {
            Some(value) => value,
            None => panic!("no {pointer} in {:#}", self.0),
        }
    }

    /// The number at a JSON pointer.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        match self.at(pointer).as_u64() {
            Some(number) => number,
            None => panic!("{pointer} is no number in {:#}", self.0),
        }
    }

    /// The elements at a JSON pointer.
    ///
    /// # Panics
    /// When that is no list.
    #[must_use]
    #[track_caller]
    pub fn list(&self, pointer: &str) -> &[Value] {
        match self.at(pointer).as_array() {
            Some(list) => list,
            None => panic!("{pointer} is no list in {:#}", self.0),
        }
    }

    /// Exits to user space so far.
    #[must_use]
    pub fn exits(&self) -> Exits {
        let mut exits = BTreeMap::new();
        for vcpu in self.list("/vcpus") {
            let accesses = vcpu.get("accesses").and_then(Value::as_array);
            for access in accesses.into_iter().flatten() {
                let word = |key: &str| access.get(key).and_then(Value::as_str).unwrap_or("?");
                let name = format!("{} {}", word("access"), word("range"));
                let count = access.get("count").and_then(Value::as_u64).unwrap_or(0);
                *exits.entry(name).or_default() += count;
            }
            let others = vcpu.get("others").and_then(Value::as_object);
            for (reason, count) in others.into_iter().flatten() {
                *exits.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        Exits(exits)
    }
}

impl Exits {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let added = |(name, count): (&String, &u64)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            (*count > before).then(|| (name.clone(), count - before))
        };
        Self(self.0.iter().filter_map(added).collect())
    }

    /// How many.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits to user space", self.total())?;
        for (name, count) in &self.0 {
            write!(f, ", {name}: {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &str = r#"{"boots": 1, "vcpus": [
        {"accesses": [{"access": "port_read", "range": "rtc 0x70", "count": 2}], "others": {"halt": 1}},
        {"accesses": [{"access": "port_read", "range": "rtc 0x70", "count": 3}], "others": {}}]}"#;

    #[test]
    fn exits_of_all_vcpus_are_added_up_and_subtracted() {
        let figures = Figures::parse(FIGURES);
        assert_eq!(figures.number("/boots"), 1);
        let now = figures.exits();
        assert_eq!(
            now.to_string(),
            "6 exits to user space, halt: 1, port_read rtc 0x70: 5"
        );
        assert_eq!(now.since(&now).total(), 0);
        assert_eq!(now.since(&Exits::default()), now);
    }
}
