//! Files stay short. (Functions are clippy's: `too_many_lines` and `too_many_arguments` in clippy.toml.)

use super::{Source, production};

/// Lines before the tests at the end of a file.
const LIMIT: usize = 500;

pub(super) fn too_long(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| !is_test(source))
        .filter_map(|source| {
            let lines = production(&source.text).lines().count();
            (lines > LIMIT).then(|| {
                format!(
                    "{}: {lines} production lines, at most {LIMIT}: split it by noun",
                    source.path.display()
                )
            })
        })
        .collect()
}

/// A module of tests has no limit: it grows with the facts it proves.
fn is_test(source: &Source) -> bool {
    source.path.iter().any(|part| part == "tests")
        || source
            .path
            .file_name()
            .is_some_and(|name| name == "tests.rs")
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn lines_of_tests_do_not_count() {
        let long = "x\n".repeat(LIMIT + 1);
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{long}}}\n",
            "x\n".repeat(LIMIT)
        );
        let helped = format!("#[cfg(test)]\nmod fakes;\n{long}");
        let sources = [
            source("vmm/src/helped.rs", &helped),
            source("vmm/src/long.rs", &long),
            source("vmm/src/tested.rs", &tested),
            source("vmm/src/long/tests.rs", &long),
            source("tests/tests/nic/main.rs", &long),
        ];
        let found = too_long(&sources);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("vmm/src/helped.rs: 503 "), "{found:?}");
        assert!(found[1].starts_with("vmm/src/long.rs: 501 "), "{found:?}");
    }
}
