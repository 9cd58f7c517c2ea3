//! Who may name whom.

use serde_json::Value;

use super::{Source, code_lines};

/// A crate of the workspace and the packages that it must not depend on, tests included.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    (
        "arch",
        &[
            "devices",
            "vmm",
            "kvm-ioctls",
            "vfio-ioctls",
            "clap",
            "anyhow",
        ],
    ),
    ("devices", &["arch", "vmm", "kvm-ioctls", "clap", "anyhow"]),
    ("vmm", &["tests", "ci"]),
    // A test sees what a user sees.
    ("tests", &["arch", "devices", "vmm", "ci"]),
    // The chores must work while the product doesn't build.
    ("ci", &["arch", "devices", "vmm", "tests"]),
];

/// A word and the only places below `vmm/src` where it may stand.
const CONFINED: [(&str, &[&str]); 2] = [
    ("clap", &["vmm/src/cli/", "vmm/src/main.rs"]),
    ("anyhow", &["vmm/src/main.rs"]),
];

/// Forbidden dependencies in the output of `cargo metadata`.
pub(super) fn dependencies(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for (member, forbidden) in FORBIDDEN {
        let packages = metadata["packages"].as_array();
        let package = packages
            .into_iter()
            .flatten()
            .find(|package| package["name"] == member);
        let Some(dependencies) = package.and_then(|package| package["dependencies"].as_array())
        else {
            broken.push(format!("{member}: this crate is gone from the workspace"));
            continue;
        };
        let named = dependencies
            .iter()
            .filter_map(|dependency| dependency["name"].as_str());
        broken.extend(
            named
                .filter(|name| forbidden.contains(name))
                .map(|name| format!("{member}/Cargo.toml: {member} must not depend on {name}")),
        );
    }
    broken
}

/// Crates that are named outside the files that may.
pub(super) fn names(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let path = source.path.display().to_string();
        if !path.starts_with("vmm/src/") {
            continue;
        }
        for (word, places) in CONFINED {
            if places.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            let named = code_lines(&source.text).find(|(_, line)| names_crate(line, word));
            if let Some((number, _)) = named {
                broken.push(format!(
                    "{path}:{number}: {word} may be named only in {}",
                    places.join(", ")
                ));
            }
        }
    }
    broken
}

fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let inside = |at: usize| {
        line.get(..at)
            .and_then(|before| before.chars().next_back())
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    };
    line.match_indices(&path).any(|(at, _)| !inside(at))
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        json!({"name": name, "dependencies": dependencies})
    }

    #[test]
    fn forbidden_and_missing_members_are_told() {
        let metadata = json!({"packages": [
            package("arch", &["thiserror"]),
            package("devices", &["log", "kvm-ioctls"]),
            package("vmm", &["arch", "devices", "clap"]),
            package("tests", &[]),
        ]});
        assert_eq!(
            dependencies(&metadata),
            [
                "devices/Cargo.toml: devices must not depend on kvm-ioctls",
                "ci: this crate is gone from the workspace",
            ]
        );
    }

    #[test]
    fn clap_is_confined_to_the_command_line() {
        let sources = [
            source("vmm/src/cli/run.rs", "use clap::ValueEnum;"),
            source("vmm/src/spec.rs", "// clap::Args\nuse clap::Args;"),
            source("vmm/src/memory.rs", "use thunderclap::Rain;"),
            source("ci/src/cli/mod.rs", "use clap::Parser;"),
        ];
        assert_eq!(
            names(&sources),
            ["vmm/src/spec.rs:2: clap may be named only in vmm/src/cli/, vmm/src/main.rs"]
        );
    }
}
