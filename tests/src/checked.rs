//! What `ferry check` says.

use crate::{Attempt, MOMENT};
use serde_json::Value;

/// The facts of one `ferry check --json`.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Topic, mark, fact and fix of each.
    findings: Vec<[String; 4]>,
}

impl Checked {
    /// Runs it, and expects the exit code to go with what it prints, nothing on standard error, and the host as it was.
    ///
    /// # Panics
    /// When any of that is not so.
    #[must_use]
    #[track_caller]
    pub fn by(attempt: Attempt) -> Self {
        let (code, output, errors) = attempt.and(&["--json"]).end_without_change(MOMENT);
        assert_eq!(errors, "");
        let report: Value = match serde_json::from_str(&output) {
            Ok(report) => report,
            Err(error) => panic!("{error}: {output}"),
        };
        let text = |finding: &Value, key: &str| {
            let value = finding.get(key).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let findings = report.get("findings").and_then(Value::as_array);
        let checked = Self {
            findings: findings
                .into_iter()
                .flatten()
                .map(|finding| ["topic", "mark", "fact", "fix"].map(|key| text(finding, key)))
                .collect(),
        };
        assert!(!checked.findings.is_empty(), "{output}");
        let usable = checked.bad().is_empty();
        assert_eq!(report.get("usable"), Some(&Value::Bool(usable)), "{output}");
        assert_eq!(code, i32::from(!usable), "{output}");
        checked
    }

    /// Topics of what stands in the way.
    #[must_use]
    pub fn bad(&self) -> Vec<&str> {
        let bad = self.findings.iter().filter(|[_, mark, ..]| mark == "bad");
        bad.map(|[topic, ..]| topic.as_str()).collect()
    }

    /// Topics of what is as it has to be.
    #[must_use]
    pub fn good(&self) -> Vec<&str> {
        let good = self.findings.iter().filter(|[_, mark, ..]| mark == "good");
        good.map(|[topic, ..]| topic.as_str()).collect()
    }

    /// Fact and fix of the first on a topic.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn on(&self, topic: &str) -> (&str, &str) {
        match self.findings.iter().find(|[name, ..]| name == topic) {
            Some([.., fact, fix]) => (fact, fix),
            None => panic!("nothing on {topic}: {self:#?}"),
        }
    }
}
