//! What a command comes to: an answer, or a refusal in three lines.

use devices::host::Problem;
use serde::Serialize;
use serde_json::Value;

/// What a command comes to.
pub type Answer = Result<Done, Refusal>;

/// That a command was carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// There is nothing to tell: status 204.
    Silently,
    /// JSON: status 200.
    With(Value),
}

impl Done {
    /// Tells of `body`.
    #[must_use]
    pub fn with(body: &impl Serialize) -> Self {
        // What has string keys and no maps within that fail is always JSON.
        Self::With(serde_json::to_value(body).unwrap_or_default())
    }
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense: 400.
    Invalid,
    /// What it names is not there: 404.
    Unknown,
    /// Not in the state that the guest is in: 405.
    State,
    /// What it asks for is there already: 409.
    Conflict,
    /// It has too many like it: 429.
    Busy,
    /// The host or the guest failed it: 500.
    Failed,
}

/// A command that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which kind.
    pub kind: RefusalKind,
    /// What the user is told; at least one.
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// For one reason.
    #[must_use]
    pub fn new(kind: RefusalKind, problem: Problem) -> Self {
        Self {
            kind,
            problems: vec![problem],
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.kind {
            RefusalKind::Invalid => 400,
            RefusalKind::Unknown => 404,
            RefusalKind::State => 405,
            RefusalKind::Conflict => 409,
            RefusalKind::Busy => 429,
            RefusalKind::Failed => 500,
        }
    }

    /// The HTTP body: an array of strings, three for each problem.
    #[must_use]
    pub fn body(&self) -> String {
        body(&self.problems)
    }
}

/// `[what, why, fix, …]`: an array of strings, as clients of Cloud Hypervisor's API expect errors.
pub(super) fn body(problems: &[Problem]) -> String {
    let lines = problems
        .iter()
        .flat_map(|problem| [&problem.what, &problem.why, &problem.remedy]);
    Value::from_iter(lines.map(String::as_str)).to_string()
}

/// The problems in the body of an error; what is not of Ferry's form becomes the reason of one.
#[must_use]
pub fn problems(body: &str) -> Vec<Problem> {
    let lines: Vec<String> = serde_json::from_str(body).unwrap_or_default();
    let threes = lines.chunks_exact(3);
    if lines.is_empty() || !threes.remainder().is_empty() {
        return vec![Problem::new(
            "the guest's Ferry has refused that",
            body.to_owned(),
            "use a ferry command and a running Ferry of the same version",
        )];
    }
    let problem = |three: &[String]| match three {
        [what, why, fix] => Some(Problem::new(what, why, fix)),
        _ => None,
    };
    threes.filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_over_the_wire_as_they_were() {
        let all = vec![
            Problem::new("a \"b\"", "c\nd", "e"),
            Problem::new("f", "g", "h"),
        ];
        let refusal = Refusal {
            kind: RefusalKind::Failed,
            problems: all.clone(),
        };
        let body = refusal.body();
        assert!(
            body.starts_with("[\"a \\\"b\\\"\",\"c\\\\nd\",\"e\","),
            "{body}"
        );
        assert_eq!(problems(&body), all);
    }

    #[test]
    fn an_error_of_another_form_is_told_all_the_same() {
        for body in ["", "[]", "[\"a\"]", "{\"error\": 1}", "[1,2,3]"] {
            assert_eq!(problems(body).len(), 1, "{body}");
            assert_eq!(problems(body)[0].why, body);
        }
    }
}
