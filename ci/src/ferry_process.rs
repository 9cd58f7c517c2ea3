//! Ferry as users run it: the release profile, and signals to its process.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, cargo};

/// Builds the release profile; cargo's progress goes to standard error.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let status = cargo()
        .args(["build", "--release", "--package", "vmm", "--target-dir"])
        .arg(workspace.target())
        .current_dir(workspace.root())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("Ferry could not be built; cargo's messages are above");
    }
    Ok(workspace.target().join("release/ferry"))
}

/// Sends a signal.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    // The shell's own kill: not every machine has the program.
    let status = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" \"$2\"",
            "kill",
            name,
            &pid.to_string(),
        ])
        .status()
        .context("cannot start sh")?;
    if !status.success() {
        bail!("cannot send SIG{name} to process {pid}");
    }
    Ok(())
}
