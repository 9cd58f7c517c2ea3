//! What the user is told when something can't work.

use super::visible::{is_invisible, visible};
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
    /// The three lines, all letters of which can be seen: they may have names that others chose.
    pub fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: visible(&what.into()),
            why: visible(&why.into()),
            remedy: visible(&remedy.into()),
        }
    }

    /// The same for a user who is root already, on whose host there may be no sudo.
    #[must_use]
    pub fn for_root(self) -> Self {
        Self {
            remedy: without_sudo(&self.remedy),
            ..self
        }
    }
}

/// A text with commands as root types them.
#[must_use]
pub fn without_sudo(text: &str) -> String {
    text.replace("sudo ", "")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why, remedy } = self;
        write!(f, "{what}\n  why: {why}\n  fix: {remedy}")
    }
}

/// One word of a command, as a shell takes it: quoted, where a shell would see more in it than that word.
///
/// It has no `": "` and no `"sudo "` of its own, which tell where a command begins ([`Problem::remedy`]) and what root leaves
/// out of it.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.chars().any(is_invisible) {
        let bytes = word.bytes().map(|byte| match char::from(byte) {
            letter if plain(letter) => letter.to_string(),
            _ => format!("\\x{byte:02x}"),
        });
        return format!("$'{}'", bytes.collect::<String>());
    }
    let inner = word.replace('\'', r"'\''");
    let inner = inner.replace(": ", ":'' ").replace("sudo ", "sudo'' ");
    format!("'{inner}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn what_needs_no_quotes_has_none() {
        for word in ["/mnt/disk-1", "a=b,c", "0000:01:00.0"] {
            assert_eq!(shell_word(word), word);
        }
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("/it's"), r"'/it'\''s'");
        assert_eq!(shell_word("/a\u{1b}[2J"), r"$'/a\x1b\x5b2J'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_shell_reads_back_the_word_and_runs_nothing(
            word in prop::collection::vec(prop_oneof![
                Just("sudo ".to_owned()),
                Just("\u{1b}".to_owned()),
                Just("\n".to_owned()),
                Just("\u{202e}é".to_owned()),
                "[ -~]{1,3}",
            ], 0..8)
        ) {
            let word = word.concat();
            let quoted = shell_word(&word);
            prop_assert!(!quoted.contains(": ") && !quoted.contains("sudo "), "{quoted}");
            prop_assert!(!quoted.chars().any(is_invisible), "{quoted:?}");
            let script = format!("printf %s {quoted}");
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
            prop_assert!(output.stderr.is_empty());
        }
    }

    #[test]
    fn root_needs_no_sudo() {
        let problem = Problem::new("a", "sudo b", "sudo c && sudo d").for_root();
        assert_eq!(problem, Problem::new("a", "sudo b", "c && d"));
    }
}
