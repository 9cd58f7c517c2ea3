//! Moves functions of the host between their own drivers and vfio-pci.
//!
//! [`crate::host`] only reads; what writes is here. Everything goes through [`Attributes`], so that tests
//! see each write and play the kernel's part, and starts from a [`BoundRecord`] on disk, so that what was
//! begun can be undone by whoever comes next.
//!
//! Deliberately absent: any judgement whether a function should be taken from the host (see
//! [`crate::host::bindable`]), and the loading of modules.
//!
//! Sources: Documentation/ABI/testing/sysfs-bus-pci (`driver_override`, `drivers_probe`) and sysfs-bus-pci
//! `bind`/`unbind` of Linux 6.12.

mod binder;
mod error;
mod free;
#[cfg(test)]
mod kernel;
mod record;
mod rtnetlink;
mod virtual_functions;
mod virtual_link;

pub use binder::{BindFailure, Binder, VFIO_PCI};
pub use error::DriverError;
pub use free::free_virtual_function;
pub use record::{BoundRecord, BoundRecords, Owner};
pub use rtnetlink::RouteNetlink;
pub use virtual_functions::{VirtualFunctionsError, nobody_loses, set_virtual_functions};
pub use virtual_link::{
    LinkSetting, MacAddress, VirtualLink, VirtualLinkError, VirtualLinks, Vlan, has_own_address,
    link_of, set_link,
};

use crate::host::HostRoot;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// The attributes of sysfs that bind drivers.
pub trait Attributes {
    /// Writes `text` to the attribute at `path`, relative to the host's root, in one write(2).
    ///
    /// # Errors
    /// What the kernel answers.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
}

/// Those of the host itself.
impl Attributes for HostRoot {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        if self.is_report() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        // No truncation and no creation: an attribute that isn't there is an error.
        let mut file = OpenOptions::new().write(true).open(self.path(path))?;
        file.write_all(text.as_bytes())
    }
}
