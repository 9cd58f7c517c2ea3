//! What is given to users: the program, shell completions and man pages, laid out as below a prefix such as `/usr/local`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, cargo};

/// Below the target folder.
const FOLDER: &str = "dist";

/// What was made, and where.
#[derive(Debug)]
pub struct Dist {
    /// The prefix.
    pub folder: PathBuf,
    /// Files in it, with their sizes in bytes; the program first.
    pub files: Vec<(PathBuf, u64)>,
}

/// Builds all of it. What an earlier run has made goes.
pub fn make(workspace: &Workspace) -> Result<Dist> {
    let folder = workspace.target().join(FOLDER);
    // The completions' own program is of the development profile: building two for users takes minutes.
    build(workspace, &["build", "--release", "--bin", "ferry"])?;
    build(
        workspace,
        &["build", "--features", "dist", "--bin", "ferry-dist"],
    )?;
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let program = bin.join("ferry");
    fs::copy(workspace.target().join("release/ferry"), &program)
        .with_context(|| format!("cannot write {}", program.display()))?;
    let mut files = vec![program];
    files.extend(describe(workspace, &folder.join("share"))?);
    let files = files.into_iter().map(|path| {
        let len = path.metadata()?.len();
        Ok((path.strip_prefix(&folder)?.to_owned(), len))
    });
    Ok(Dist {
        files: files.collect::<Result<_>>()?,
        folder,
    })
}

fn build(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(args).args(["--quiet", "--package", "vmm"]);
    let status = command.current_dir(workspace.root()).status();
    if !status.context("cannot start cargo")?.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

/// Has the command line describe itself.
fn describe(workspace: &Workspace, share: &Path) -> Result<Vec<PathBuf>> {
    let program = workspace.target().join("debug/ferry-dist");
    let output = std::process::Command::new(&program)
        .arg(share)
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let paths = String::from_utf8(output.stdout).context("the names of files")?;
    Ok(paths.lines().map(PathBuf::from).collect())
}
