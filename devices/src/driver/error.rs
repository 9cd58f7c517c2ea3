//! What can go wrong while a function changes its driver.

use super::VirtualLinkError;
use crate::host::{HostError, Problem};
use crate::pci::HostSbdf;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a function is not on the driver that it should be on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A fact about the host could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A virtual function can't have a setting.
    #[error(transparent)]
    Link(#[from] VirtualLinkError),
    /// The kernel did not take what was written to an attribute.
    #[error("can't write '{text}' to {}", path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// What was written.
        text: String,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The kernel took it, and another driver or none has the function.
    #[error("the driver {wanted} has not taken {sbdf}")]
    NotTaken {
        /// The function.
        sbdf: HostSbdf,
        /// The driver that should have it.
        wanted: String,
        /// The one that has.
        found: Option<String>,
    },
    /// VFIO's node of the group did not come.
    #[error("{} did not appear", node.display())]
    NoNode {
        /// The node.
        node: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The record of what is bound can't be kept or read.
    #[error("can't use {}", path.display())]
    Record {
        /// The file or folder.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The record is none.
    #[error("{} is not understood", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// The line that is wrong, or what is missing.
        fault: String,
    },
    /// Another Ferry is at it.
    #[error("another ferry binds or unbinds devices right now")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

impl DriverError {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::Host(error) => return error.problem(),
            Self::Link(error) => return error.problem(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => (
                source.to_string(),
                "do it on the host and not in a container; sysfs is here: findmnt /sys".to_owned(),
            ),
            Self::Write { source, .. } => (
                source.to_string(),
                "see what the kernel says: sudo dmesg | tail".to_owned(),
            ),
            Self::NotTaken { found, .. } => (
                match found {
                    Some(driver) => format!("{driver} has it"),
                    None => "no driver has it".to_owned(),
                },
                "see what the kernel says: sudo dmesg | tail".to_owned(),
            ),
            Self::NoNode { patience, .. } => (
                format!(
                    "vfio-pci has the device, and the node is not there after {} s",
                    patience.as_secs()
                ),
                "see whether devtmpfs is on /dev: findmnt /dev".to_owned(),
            ),
            Self::Record { path, source } => (
                format!("{source}; it is how Ferry knows what to give devices back to"),
                format!("look at it: ls -ld {}", path.display()),
            ),
            Self::BadRecord { path, fault } => (
                fault.clone(),
                format!(
                    "remove it, and the device gets its default driver: sudo rm {}",
                    path.display()
                ),
            ),
            Self::Busy { path } => (
                format!("it holds {}", path.display()),
                format!(
                    "wait for it to end; it is: sudo fuser -v {}",
                    path.display()
                ),
            ),
        };
        Problem::new(self.to_string(), why, remedy)
    }
}
