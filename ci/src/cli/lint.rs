//! `cargo ci lint`.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::lint;
use crate::workspace::{Workspace, cargo};

/// Check formatting, clippy's lints, the house rules and the documentation
///
/// The house rules are those of CONTRIBUTING.md: who may depend on whom, where unsafe code may be, how long a file may be.
#[derive(Debug, Args)]
pub(super) struct LintArgs {}

/// A check and how it went.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) seconds: f64,
    pub(super) good: bool,
}

impl Check {
    /// Runs a check under a heading.
    pub(super) fn run(name: &'static str, check: impl FnOnce() -> Result<bool>) -> Result<Self> {
        println!("\n== {name}");
        let start = Instant::now();
        let good = check()?;
        Ok(Self {
            name,
            seconds: start.elapsed().as_secs_f64(),
            good,
        })
    }

    /// The line for a table of checks.
    pub(super) fn row(&self) -> String {
        let verdict = if self.good { "ok" } else { "FAILED" };
        format!("  {:<36} {:>6.1} s  {verdict}", self.name, self.seconds)
    }
}

pub(super) fn run(_: &LintArgs) -> Result<u8> {
    let workspace = Workspace::find()?;
    let checks = checks(&workspace)?;
    println!();
    for check in &checks {
        println!("{}", check.row());
    }
    Ok(u8::from(checks.iter().any(|check| !check.good)))
}

/// The program that `cargo ci dist` needs, which is no default target.
const DIST: [&str; 10] = [
    "clippy",
    "--quiet",
    "--package",
    "vmm",
    "--features",
    "dist",
    "--bin",
    "ferry-dist",
    "--",
    "-Dwarnings",
];

/// All checks, each run even if one before it failed.
pub(super) fn checks(workspace: &Workspace) -> Result<Vec<Check>> {
    let run = |args: &[&str]| succeeds(cargo().args(args).current_dir(workspace.root()));
    let everything = ["--workspace", "--all-targets"];
    let clippy = [
        &["clippy", "--quiet"],
        &everything[..],
        &["--", "-D", "warnings"],
    ]
    .concat();
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(workspace.root());
    Ok(vec![
        Check::run("formatting", || run(&["fmt", "--all", "--check"]))?,
        Check::run("clippy", || Ok(run(&clippy)? && run(&DIST)?))?,
        Check::run("house rules", || house_rules(workspace))?,
        Check::run("documentation", || succeeds(&mut doc))?,
    ])
}

fn house_rules(workspace: &Workspace) -> Result<bool> {
    let findings = lint::check(workspace)?;
    println!("unsafe code: {}", findings.unsafe_inventory.join(", "));
    for line in &findings.broken {
        eprintln!("error: {line}");
    }
    Ok(findings.broken.is_empty())
}

fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(command.status().context("cannot start cargo")?.success())
}
