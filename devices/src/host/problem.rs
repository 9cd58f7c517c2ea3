//! What the user is told when something can't work.

use std::fmt;

/// One obstacle, told in three lines: what is wrong, why that is so, what to do about it.
///
/// Each field is one line without a trailing full stop. A `remedy` that has a command is that command
/// alone or ends with it, behind the last `": "`, so that it can be pasted as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What can't be done, with the name of the thing; at most 100 characters.
    pub what: String,
    /// The fact found on this host that causes it.
    pub why: String,
    /// What the user can do, as a command if one exists.
    pub remedy: String,
}

impl Problem {
    /// The three lines.
    pub fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// The same for a user who is root already, on whose host there may be no sudo.
    #[must_use]
    pub fn for_root(self) -> Self {
        Self {
            remedy: self.remedy.replace("sudo ", ""),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why, remedy } = self;
        write!(f, "{what}\n  why: {why}\n  fix: {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::Problem;

    #[test]
    fn root_needs_no_sudo() {
        let problem = Problem::new("a", "sudo b", "sudo c && sudo d").for_root();
        assert_eq!(problem, Problem::new("a", "sudo b", "c && d"));
    }
}
