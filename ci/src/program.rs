//! Running programs of the Debian tree on the host.
//!
//! They are started through the tree's own dynamic loader with the tree's own libraries, so the host's C library may be
//! older or newer, and nothing has to be installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Some libraries of fio are in a folder of their own, which they only find below the real root.
const MORE_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu/ceph";

/// An unpacked Debian tree whose programs can be run.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Takes a tree at `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The top folder of the tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the tree.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A command that starts `program` (such as `usr/bin/xz`) of the tree.
    pub fn command(&self, program: &str) -> Command {
        self.prefixed(Command::new(self.path(LOADER)), program)
    }

    /// A command that starts `program` and has the kernel kill it when the calling *thread* ends, however that happens.
    pub fn tied_command(&self, program: &str) -> Command {
        let mut command = self.command("usr/bin/setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.path(LOADER));
        self.prefixed(command, program)
    }

    /// Runs `command` to its end; a failure carries what it printed to its standard error.
    pub fn check(command: &mut Command) -> Result<Vec<u8>> {
        let name = command
            .get_args()
            .last()
            .map(|arg| arg.to_string_lossy().into_owned())
            .unwrap_or_default();
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        if !output.status.success() {
            bail!(
                "… {name}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    }

    fn prefixed(&self, mut command: Command, program: &str) -> Command {
        let name = program.rsplit('/').next().unwrap_or(program);
        command
            .arg("--library-path")
            .arg(format!(
                "{}:{}",
                self.path(LIBRARIES).display(),
                self.path(MORE_LIBRARIES).display()
            ))
            .args(["--argv0", name])
            .arg(self.path(program))
            .env_remove("LD_PRELOAD")
            .env_remove("LD_LIBRARY_PATH")
            .env("LC_ALL", "C.UTF-8");
        command
    }
}
