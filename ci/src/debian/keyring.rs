//! The keys that Debian signs its archive with; every fetched package is checked against them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const PACKAGE: &str = "debian-archive-keyring";
const PLACES: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Finds the keyring. Debian always has it; Ubuntu ships it in a package, which is installed if it is missing.
pub(super) fn find() -> Result<PathBuf> {
    if let Some(path) = present() {
        return Ok(path);
    }
    eprintln!(
        "cargo ci: Debian's signing keys are missing; installing the package {PACKAGE} with apt-get"
    );
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else {
        Command::new("sudo")
    };
    if !is_root()? {
        command.arg("apt-get");
    }
    let status = command
        .args(["install", "--yes", PACKAGE])
        .status()
        .context("cannot start apt-get (or sudo)")?;
    match present() {
        Some(path) if status.success() => Ok(path),
        _ => bail!(
            "Debian's signing keys are missing and could not be installed; run: sudo apt-get install {PACKAGE}"
        ),
    }
}

fn present() -> Option<PathBuf> {
    PLACES
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .map(Path::to_owned)
}

fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}
