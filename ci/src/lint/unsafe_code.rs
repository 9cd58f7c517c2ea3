//! Unsafe code stays in the files that were decided on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, code_lines};

/// The page whose tables name every file that may hold unsafe code, each as `` | `path` | ``.
pub(super) const DECISION: &str = "docs/adr/0002-where-unsafe-is-allowed.md";

/// The forms in which the keyword opens something unchecked.
const FORMS: [&str; 5] = ["{", "fn ", "impl ", "impl<", "extern "];

/// Files with unsafe code and the number of its uses.
pub(super) fn inventory(sources: &[Source]) -> BTreeMap<String, usize> {
    sources
        .iter()
        .map(|source| (source.path.display().to_string(), uses(&source.text)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn uses(text: &str) -> usize {
    let keyword = concat!("un", "safe ");
    code_lines(text)
        .flat_map(|(_, line)| line.split(keyword).skip(1))
        .filter(|rest| FORMS.iter().any(|form| rest.starts_with(form)))
        .count()
}

pub(super) fn differences(inventory: &BTreeMap<String, usize>, decision: &str) -> Vec<String> {
    let allowed: BTreeSet<&str> = decision
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(".rs"))
        .collect();
    let used: BTreeSet<&str> = inventory.keys().map(String::as_str).collect();
    let undecided = used
        .difference(&allowed)
        .map(|path| format!("{path}: has unsafe code, which {DECISION} does not allow there"));
    let unused = allowed
        .difference(&used)
        .map(|path| format!("{path}: has no unsafe code any more; take it out of {DECISION}"));
    undecided.chain(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn uses_are_counted_and_words_are_not() {
        let text = "//! unsafe { in a comment }\n\
                    #![expect(unsafe_code, reason = \"x\")]\n\
                    let a = unsafe { f() };\n\
                    unsafe impl Send for A {}\n\
                    unsafe fn f() {}\n\
                    // unsafe { g() }\n\
                    #[cfg(test)]\nmod tests { fn t() { unsafe { g() } } }\n";
        let found = inventory(&[
            source("a/src/x.rs", text),
            source("a/src/y.rs", "fn f() {}"),
        ]);
        assert_eq!(found, BTreeMap::from([("a/src/x.rs".to_owned(), 3)]));
    }

    #[test]
    fn file_without_a_decision_and_decision_without_a_file_are_told() {
        let inventory =
            BTreeMap::from([("a/src/x.rs".to_owned(), 1), ("a/src/y.rs".to_owned(), 1)]);
        let decision =
            "| File | Why |\n|---|---|\n| `a/src/x.rs` | mmap |\n| `a/src/z.rs` | old |\n";
        let found = differences(&inventory, decision);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("a/src/y.rs: has unsafe code"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("a/src/z.rs: has no unsafe code"),
            "{found:?}"
        );
    }
}
