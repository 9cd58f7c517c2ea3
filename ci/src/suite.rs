//! Running tests through cargo, and counting them.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::ops::AddAssign;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::{self, Topology};
use crate::workspace::cargo;

/// The table of end-to-end tests: a line `PACKAGE BINARY TOPOLOGY` for each test binary.
const TABLE: &str = "tests/topologies";

/// A test binary that runs on a VT-d machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndToEnd {
    /// The package it belongs to.
    pub package: String,
    /// The name of the test target.
    pub binary: String,
    /// The hardware that it needs.
    pub topology: &'static Topology,
}

/// How many tests ran, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that did not run.
    pub ignored: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

impl Tally {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for part in counts.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => tally.passed = number.parse().ok()?,
                Some((number, "failed")) => tally.failed = number.parse().ok()?,
                Some((number, "ignored")) => tally.ignored = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }
}

/// Reads the table of end-to-end tests.
pub fn end_to_end(root: &Path) -> Result<Vec<EndToEnd>> {
    let path = root.join(TABLE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text)
}

fn parse(table: &str) -> Result<Vec<EndToEnd>> {
    table
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [package, binary, name] = words[..] else {
                anyhow::bail!("{TABLE}: '{line}' is not PACKAGE BINARY TOPOLOGY");
            };
            Ok(EndToEnd {
                package: package.to_owned(),
                binary: binary.to_owned(),
                topology: lab::topology(name)?,
            })
        })
        .collect()
}

/// Runs `cargo test` with `args`, hands `show` each line that it prints, and counts. The second value is false if anything
/// failed, be it only the build.
pub fn cargo_test(root: &Path, args: &[&str], mut show: impl FnMut(&str)) -> Result<(Tally, bool)> {
    // One pipe for both, so that lines stay in their order.
    let (output, input) = io::pipe().context("cannot make a pipe")?;
    let mut command = cargo();
    command
        .arg("test")
        .args(args)
        .current_dir(root)
        .stdout(input.try_clone().context("cannot make a pipe")?)
        .stderr(input);
    let mut child = command.spawn().context("cannot start cargo")?;
    // It holds our ends of the pipe, which would never close.
    drop(command);
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some(counts) = Tally::parse(line.trim_end()) {
            tally += counts;
        }
        show(&line);
    }
    let good = child.wait()?.success();
    Ok((tally, good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let mut sum = Tally::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            sum += Tally::parse(line).unwrap();
        }
        assert_eq!(sum.to_string(), "5 passed, 4 failed, 1 skipped");
        assert_eq!(Tally::parse("test a ... ok"), None);
        assert_eq!(Tally::default().to_string(), "0 passed, 0 failed");
    }

    #[test]
    fn table_names_known_topologies() {
        let table = parse("tests boot nic\nvmm kvm noiommu\n").unwrap();
        assert_eq!(table[1].binary, "kvm");
        assert_eq!(table[1].topology.name, "noiommu");
        assert!(parse("tests boot").is_err());
        assert!(parse("tests boot nowhere").is_err());
    }
}
