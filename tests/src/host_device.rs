//! A PCI function of the host: on its own driver, or lent to guests.

use crate::{MOMENT, until};
use std::fs;
use std::path::PathBuf;

/// The driver that assigns.
const VFIO_PCI: &str = "vfio-pci";

/// A function of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    address: String,
}

impl HostDevice {
    /// The function at `0000:01:00.0`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn at(address: &str) -> Self {
        let device = Self {
            address: address.to_owned(),
        };
        let folder = device.folder();
        assert!(folder.is_dir(), "this host has no PCI function {address}");
        device
    }

    /// Its address with the domain.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its address without the domain, as most people write it.
    #[must_use]
    pub fn short_address(&self) -> &str {
        self.address.strip_prefix("0000:").unwrap_or(&self.address)
    }

    /// Its folder in sysfs.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        PathBuf::from("/sys/bus/pci/devices").join(&self.address)
    }

    /// The driver it is on.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let link = fs::read_link(self.folder().join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// Its IOMMU group.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn group(&self) -> String {
        let link = fs::read_link(self.folder().join("iommu_group"));
        let name = link
            .ok()
            .and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        match name {
            Some(name) => name,
            None => panic!("{} has no IOMMU group", self.address),
        }
    }

    /// The node through which VFIO hands out its group.
    #[must_use]
    #[track_caller]
    pub fn node(&self) -> PathBuf {
        PathBuf::from("/dev/vfio").join(self.group())
    }

    /// Its configuration space, as the host's kernel shows it to root.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        match fs::read(self.folder().join("config")) {
            Ok(bytes) => bytes,
            Err(error) => panic!("configuration space of {}: {error}", self.address),
        }
    }

    /// How many message-signalled interrupts the host has set up for it.
    #[must_use]
    pub fn vectors(&self) -> usize {
        fs::read_dir(self.folder().join("msi_irqs")).map_or(0, Iterator::count)
    }

    /// Entries of its MSI-X table (PCI 3.0 section 6.8.2).
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn msix_entries(&self) -> u32 {
        let config = self.config();
        let byte = |at: u8| config[usize::from(at)];
        let mut at = byte(0x34);
        while at != 0 && byte(at) != 0x11 {
            at = byte(at + 1);
        }
        assert_ne!(at, 0, "{} has no MSI-X", self.address);
        let control = u16::from_le_bytes([byte(at + 2), byte(at + 3)]);
        u32::from(control & 0x7ff) + 1
    }

    /// The network interface that the host's driver made of it.
    ///
    /// # Panics
    /// When there is none before long.
    #[must_use]
    #[track_caller]
    pub fn interface(&self) -> String {
        let folder = self.folder().join("net");
        until(
            &format!("a network interface of {}", self.address),
            MOMENT,
            || {
                let entry = fs::read_dir(&folder).ok()?.next()?.ok()?;
                entry.file_name().into_string().ok()
            },
        )
    }

    /// Takes it from its driver and gives it to vfio-pci, until the guard is dropped.
    ///
    /// # Panics
    /// When the kernel does not let it go, or VFIO's node does not come.
    #[must_use]
    #[track_caller]
    pub fn assign(&self) -> Assigned {
        let driver = self.driver();
        assert_ne!(
            driver.as_deref(),
            Some(VFIO_PCI),
            "{} was left over",
            self.address
        );
        self.rebind(VFIO_PCI);
        let assigned = Assigned {
            device: self.clone(),
            driver,
        };
        until("the driver vfio-pci", MOMENT, || {
            (self.driver().as_deref() == Some(VFIO_PCI)).then_some(())
        });
        let node = self.node();
        until(&format!("{}", node.display()), MOMENT, || {
            node.exists().then_some(())
        });
        assigned
    }

    /// An empty `driver` undoes the preference for one.
    fn rebind(&self, driver: &str) {
        let folder = self.folder();
        let name = if driver.is_empty() { "\n" } else { driver };
        write(folder.join("driver_override"), name);
        if self.driver().is_some() {
            write(folder.join("driver/unbind"), &self.address);
        }
        write("/sys/bus/pci/drivers_probe".into(), &self.address);
    }
}

fn write(path: PathBuf, text: &str) {
    if let Err(error) = fs::write(&path, text) {
        panic!("{} < {}: {error}", path.display(), text.trim());
    }
}

/// A device on vfio-pci. Dropping it gives the device back to the driver that had it.
#[derive(Debug)]
pub struct Assigned {
    device: HostDevice,
    driver: Option<String>,
}

impl Assigned {
    /// Gives the device back now and waits for its driver.
    ///
    /// # Panics
    /// When the driver does not take it.
    #[track_caller]
    pub fn give_back(self) -> HostDevice {
        let device = self.device.clone();
        let wanted = self.driver.clone();
        drop(self);
        until(&format!("the driver {wanted:?}"), MOMENT, || {
            (device.driver() == wanted).then_some(())
        });
        device
    }
}

impl std::ops::Deref for Assigned {
    type Target = HostDevice;

    fn deref(&self) -> &HostDevice {
        &self.device
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        // A second panic would end the whole run; the next test that wants the device will tell.
        if std::thread::panicking() {
            let _ = std::panic::catch_unwind(|| self.device.rebind(""));
        } else {
            self.device.rebind("");
        }
    }
}
