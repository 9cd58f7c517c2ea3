//! The tree the host is read from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Problem;
use crate::pci::HostSbdf;

/// Root of the tree holding `sys`, `proc` and `dev`: `/` on a running host, a saved tree in tests.
#[derive(Clone, Debug)]
pub struct HostRoot {
    root: PathBuf,
}

/// Why a fact about the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No function answers at that address.
    #[error("no PCI function {sbdf} on this host")]
    NoSuchFunction {
        /// The address asked for.
        sbdf: HostSbdf,
        /// The functions that exist on the same bus, in order.
        same_bus: Vec<HostSbdf>,
    },
    /// The IOMMU driver made no group of that number.
    #[error("no IOMMU group {group} on this host")]
    NoSuchGroup {
        /// Group number.
        group: u32,
    },
    /// A file that should be there could not be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A file holds something other than its ABI page says.
    #[error("{} holds '{text}', not {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its text, trimmed.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
}

impl HostRoot {
    /// The running host.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/")
    }

    /// A tree below `root`, which holds `sys`, `proc` and `dev`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `relative` (`sys/…`, `proc/…`, `dev/…`) lies.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn exists(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).exists()
    }

    /// Text of a file, trimmed; `None` when there is no such file.
    pub(crate) fn text(&self, relative: impl AsRef<Path>) -> Result<Option<String>, HostError> {
        let path = self.path(relative);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostError::Read { path, source }),
        }
    }

    /// The same where a file that can't be read says as much as one that isn't there.
    pub(crate) fn text_or_empty(&self, relative: impl AsRef<Path>) -> String {
        self.text(relative).ok().flatten().unwrap_or_default()
    }

    /// A decimal number; `None` when there is no such file.
    pub(super) fn count(&self, relative: impl AsRef<Path>) -> Result<Option<u64>, HostError> {
        let path = relative.as_ref();
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(HostError::Malformed {
                path: self.path(path),
                text,
                expected: "a number",
            }),
        }
    }

    /// Last component of a symlink's target, the way sysfs names a driver or a group.
    pub(crate) fn link_name(
        &self,
        relative: impl AsRef<Path>,
    ) -> Result<Option<String>, HostError> {
        let path = self.path(relative);
        match fs::read_link(&path) {
            Ok(target) => Ok(target
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostError::Read { path, source }),
        }
    }

    /// Names in a directory, sorted; none when it isn't there.
    pub(crate) fn names(&self, relative: impl AsRef<Path>) -> Result<Vec<String>, HostError> {
        let path = self.path(relative);
        let read = |source| HostError::Read {
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(
                entry
                    .map_err(read)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        names.sort();
        Ok(names)
    }
}

impl HostError {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::NoSuchFunction { sbdf, same_bus } => {
                let why = if same_bus.is_empty() {
                    "there is no function on that bus at all".to_owned()
                } else {
                    let list: Vec<_> = same_bus.iter().map(HostSbdf::to_string).collect();
                    format!("that bus holds only {}", list.join(", "))
                };
                Problem::new(
                    format!("no PCI device {sbdf} on this host"),
                    why,
                    "list the devices and their addresses: ferry devices --all",
                )
            }
            Self::NoSuchGroup { group } => Problem::new(
                format!("no IOMMU group {group} on this host"),
                format!("/sys/kernel/iommu_groups/{group} is missing"),
                "list the groups: ls /sys/kernel/iommu_groups",
            ),
            Self::Read { path, source } => Problem::new(
                format!("can't read {}", path.display()),
                source.to_string(),
                format!("look at it: ls -ld {}", path.display()),
            ),
            Self::Malformed {
                path,
                text,
                expected,
            } => Problem::new(
                format!("{} is not understood", path.display()),
                format!("it holds '{text}', not {expected}"),
                "report this with the output of: uname -r; lspci -vv",
            ),
        }
    }
}
