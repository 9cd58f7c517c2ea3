//! `cargo ci runner`: what cargo's `runner` setting starts instead of a test binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::lab::Machine;
use crate::site::Site;
use crate::suite::{EndToEnd, end_to_end};
use crate::workspace::{Workspace, cargo};

/// Run an end-to-end test binary on a VT-d machine: the emulated one, or with FERRY_LAB=host this one
///
/// Cargo calls this by itself: see .cargo/config.toml and ci/runner.
#[derive(Debug, Args)]
pub(super) struct RunnerArgs {
    /// The test binary that cargo has built
    binary: PathBuf,

    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(super) fn run(args: RunnerArgs) -> Result<u8> {
    let workspace = Workspace::find()?;
    let table = end_to_end(workspace.root())?;
    let test = entry(&table, &args.binary)?;
    let ferry = build_ferry(&args.binary)?;
    // All of them want the same devices.
    let one_at_a_time = ("RUST_TEST_THREADS", "1");
    if on_this_machine() {
        let site = Site::prepare(false)?;
        let status = Command::new(&args.binary)
            .args(&args.arguments)
            .envs(site.images.environment())
            .env("FERRY_BIN", &ferry)
            .envs([one_at_a_time])
            .status()
            .with_context(|| format!("cannot start {}", args.binary.display()))?;
        return Ok(status
            .code()
            .and_then(|code| code.try_into().ok())
            .unwrap_or(u8::MAX));
    }
    let command = [args.binary.display().to_string()]
        .into_iter()
        .chain(args.arguments);
    let outcome = Machine::builder(test.topology)
        .name(&test.binary)
        .command(command)
        .env(one_at_a_time.0, one_at_a_time.1)
        .env("FERRY_BIN", ferry.display().to_string())
        .run()?;
    if outcome.status != 0 {
        eprintln!(
            "cargo ci: the kernel log of the emulated machine is in {}",
            outcome.logs.kernel.display()
        );
    }
    Ok(outcome.status)
}

/// `FERRY_LAB=host`: the tests run on this machine.
pub(super) fn on_this_machine() -> bool {
    std::env::var_os("FERRY_LAB").is_some_and(|value| value == "host")
}

/// Cargo names a test binary NAME-HASH.
fn entry<'a>(table: &'a [EndToEnd], binary: &Path) -> Result<&'a EndToEnd> {
    let stem = binary.file_name().unwrap_or_default().to_string_lossy();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _)| name);
    match table.iter().find(|test| test.binary == name) {
        Some(test) => Ok(test),
        None => bail!("{name} is no end-to-end test; tests/topologies lists them"),
    }
}

/// Builds the ferry that belongs to a test binary: of the same profile, and of the code as it is now.
fn build_ferry(binary: &Path) -> Result<PathBuf> {
    let folder = binary
        .parent()
        .and_then(Path::parent)
        .with_context(|| format!("{} is not in cargo's target folder", binary.display()))?;
    // Cargo's folder for the profile "dev" is the one that isn't named after its profile.
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = cargo()
        .args(["build", "--quiet", "--package", "vmm", "--bin", "ferry"])
        .args(["--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot start cargo")?;
    if !built.success() {
        bail!("ferry does not build");
    }
    Ok(folder.join("ferry"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology;

    #[test]
    fn binary_is_known_by_its_name_without_the_hash() {
        let test = |binary: &str| EndToEnd {
            package: "tests".to_owned(),
            binary: binary.to_owned(),
            topology: topology("nic").unwrap(),
        };
        let table = [test("bad_input"), test("bad_input_noiommu")];
        let found = entry(&table, Path::new("/t/deps/bad_input_noiommu-0a1b")).unwrap();
        assert_eq!(found.binary, "bad_input_noiommu");
        assert!(entry(&table, Path::new("/t/deps/other-0a1b")).is_err());
    }
}
