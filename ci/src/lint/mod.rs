//! The house rules that neither the compiler nor clippy knows; CONTRIBUTING.md lists them all.
//!
//! Each rule is a pure function over the text of files or over `cargo metadata`, and returns what breaks it, one line
//! each.

mod layering;
mod length;
mod unsafe_code;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, cargo};

/// The crates of the workspace, whose folders hold all code.
const MEMBERS: [&str; 5] = ["arch", "devices", "vmm", "tests", "ci"];

/// A Rust source file of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// Relative to the top folder.
    path: PathBuf,
    text: String,
}

/// What looking at the workspace found.
#[derive(Debug)]
pub struct Findings {
    /// Rules that are broken, with the place.
    pub broken: Vec<String>,
    /// A file with unsafe code a line, with its number of uses.
    pub unsafe_inventory: Vec<String>,
}

/// Checks every rule.
pub fn check(workspace: &Workspace) -> Result<Findings> {
    let sources = sources(workspace.root())?;
    let adr = workspace.root().join(unsafe_code::DECISION);
    let allowed =
        fs::read_to_string(&adr).with_context(|| format!("cannot read {}", adr.display()))?;
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace.root())
        .output()
        .context("cannot run cargo metadata")?;
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let inventory = unsafe_code::inventory(&sources);
    let mut broken = layering::dependencies(&metadata);
    broken.extend(layering::names(&sources));
    broken.extend(length::too_long(&sources));
    broken.extend(unsafe_code::differences(&inventory, &allowed));
    Ok(Findings {
        broken,
        unsafe_inventory: inventory
            .iter()
            .map(|(path, count)| format!("{path}: {count}"))
            .collect(),
    })
}

fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = MEMBERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let entries =
            fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(entry.path())?;
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A file without the tests at its end.
fn production(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {")
        .map_or(text, |(production, _)| production)
}

/// The lines that are code, with their numbers: comments and the tests at the end of a file are left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    production(text)
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_start()))
        .filter(|(_, line)| !line.starts_with("//"))
}

#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.to_owned(),
    }
}
