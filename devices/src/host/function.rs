//! One PCI function of the host.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::root::{HostError, HostRoot};
use crate::pci::{ConfigOffset, HostSbdf};

const DEVICES: &str = "sys/bus/pci/devices";

/// A PCI function as the host's kernel has enumerated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    /// Its address.
    pub sbdf: HostSbdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code, 24 bits: base class, sub-class, programming interface.
    pub class: u32,
    /// Name of the driver bound to it.
    pub driver: Option<String>,
    /// Number of its IOMMU group; `None` when no IOMMU translates it.
    pub group: Option<u32>,
}

impl HostFunction {
    /// What the class code says it is (PCI Code and ID Assignment Specification, section 1).
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.class >> 8 {
            0x0106 => "SATA controller",
            0x0108 => "NVMe controller",
            0x0200 => "Ethernet controller",
            0x0280 => "network controller",
            0x0300 => "VGA controller",
            0x0302 => "3D controller",
            0x0403 => "audio device",
            0x0600 => "host bridge",
            0x0601 => "ISA bridge",
            0x0604 => "PCI bridge",
            0x0c03 => "USB controller",
            0x0c05 => "SMBus controller",
            0x1200 => "accelerator",
            _ => "PCI device",
        }
    }
}

/// `Ethernet controller 0000:01:00.0 [8086:10c9]`.
impl fmt::Display for HostFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sbdf,
            vendor,
            device,
            ..
        } = self;
        write!(f, "{} {sbdf} [{vendor:04x}:{device:04x}]", self.kind())
    }
}

/// Directory of a function below the root.
pub(super) fn directory(sbdf: HostSbdf) -> PathBuf {
    PathBuf::from(format!("{DEVICES}/{sbdf}"))
}

impl HostRoot {
    /// The function at an address.
    ///
    /// # Errors
    /// [`HostError::NoSuchFunction`] with its neighbours when there is none; otherwise what could
    /// not be read.
    pub fn function(&self, sbdf: HostSbdf) -> Result<HostFunction, HostError> {
        let directory = directory(sbdf);
        if !self.exists(&directory) {
            return Err(HostError::NoSuchFunction {
                sbdf,
                same_bus: self.same_bus(sbdf)?,
            });
        }
        Ok(HostFunction {
            sbdf,
            vendor: self.identifier(directory.join("vendor"))?,
            device: self.identifier(directory.join("device"))?,
            class: self.number(directory.join("class"))?,
            driver: self.link_name(directory.join("driver"))?,
            group: self.group_of(sbdf)?,
        })
    }

    /// Every function, in order of address.
    ///
    /// # Errors
    /// The first file that could not be read.
    pub fn functions(&self) -> Result<Vec<HostFunction>, HostError> {
        let sbdfs = self.addresses()?;
        sbdfs.into_iter().map(|sbdf| self.function(sbdf)).collect()
    }

    /// Reset methods the kernel will try, in its order (`flr`, `af_flr`, `pm`, `bus`, …); empty when
    /// the function can't be reset.
    ///
    /// # Errors
    /// When `reset_method` is there but can't be read.
    pub fn reset_methods(&self, sbdf: HostSbdf) -> Result<Vec<String>, HostError> {
        let text = self.text(directory(sbdf).join("reset_method"))?;
        Ok(text
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect())
    }

    /// The name by which modprobe finds the modules that know a function; `None` if the host does not tell.
    #[must_use]
    pub fn modalias(&self, sbdf: HostSbdf) -> Option<String> {
        let alias = self.text_or_empty(directory(sbdf).join("modalias"));
        Some(alias).filter(|alias| !alias.is_empty())
    }

    /// Header layout from config space offset 0x0e, multi-function bit removed: 0 endpoint, 1 PCI
    /// bridge, 2 CardBus bridge (PCI 3.0 section 6.1).
    ///
    /// # Errors
    /// When config space can't be read. Reading it wakes a function that sleeps in D3cold.
    pub fn header_type(&self, sbdf: HostSbdf) -> Result<u8, HostError> {
        const HEADER_TYPE: usize = 0x0e;
        const MULTI_FUNCTION: u8 = 0x80;
        let file = directory(sbdf).join("config");
        let header_type = self.bytes(&file, HEADER_TYPE + 1).and_then(|header| {
            let header_type = header.get(HEADER_TYPE).copied();
            header_type.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        let header_type = header_type.map_err(|source| HostError::Read {
            path: self.path(file),
            source,
        })?;
        Ok(header_type & !MULTI_FUNCTION)
    }

    /// Configuration space as far as it can be read: only root sees more than 64 bytes of it.
    pub(super) fn config(&self, sbdf: HostSbdf) -> io::Result<Vec<u8>> {
        let whole = usize::from(ConfigOffset::SPACE);
        self.bytes(&directory(sbdf).join("config"), whole)
    }

    /// Number of a function's group, `None` when it has none.
    pub(super) fn group_of(&self, sbdf: HostSbdf) -> Result<Option<u32>, HostError> {
        let link = directory(sbdf).join("iommu_group");
        let Some(name) = self.link_name(&link)? else {
            return Ok(None);
        };
        name.parse().map(Some).map_err(|_| HostError::Malformed {
            path: self.path(link),
            text: name,
            expected: "a link to a numbered group",
        })
    }

    pub(super) fn addresses(&self) -> Result<Vec<HostSbdf>, HostError> {
        // A 32-bit domain (Hyper-V, VMD: 10000:…) has no HostSbdf and can't be asked for.
        let mut sbdfs: Vec<HostSbdf> = self
            .names(DEVICES)?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        sbdfs.sort();
        Ok(sbdfs)
    }

    fn same_bus(&self, sbdf: HostSbdf) -> Result<Vec<HostSbdf>, HostError> {
        let bus = |sbdf: HostSbdf| {
            sbdf.to_string()
                .rsplit_once(':')
                .map(|(bus, _)| bus.to_owned())
        };
        let mut sbdfs = self.addresses()?;
        sbdfs.retain(|other| bus(*other) == bus(sbdf));
        Ok(sbdfs)
    }

    fn identifier(&self, relative: PathBuf) -> Result<u16, HostError> {
        let number = self.number(&relative)?;
        u16::try_from(number).map_err(|_| HostError::Malformed {
            path: self.path(relative),
            text: format!("{number:#x}"),
            expected: "a 16-bit identifier",
        })
    }

    /// A `0x…` attribute of sysfs.
    fn number(&self, relative: impl Into<PathBuf>) -> Result<u32, HostError> {
        let relative = relative.into();
        let text = self.text(&relative)?.unwrap_or_default();
        text.strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| HostError::Malformed {
                path: self.path(relative),
                text,
                expected: "a hexadecimal number",
            })
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{NIC, ROOT_PORT, SavedHost, sbdf};

    #[test]
    fn function_is_read_from_sysfs() {
        let host = SavedHost::intel();
        let function = host.root().function(sbdf(NIC.0)).unwrap();
        assert_eq!(function.vendor, 0x8086);
        assert_eq!(function.device, 0x10c9);
        assert_eq!(function.class, 0x02_0000);
        assert_eq!(function.driver.as_deref(), Some("vfio-pci"));
        assert_eq!(function.group, Some(16));
        assert!(function.on_vfio());
    }

    #[test]
    fn functions_are_in_order_and_wide_domains_are_skipped() {
        let host = SavedHost::intel();
        host.function(("10000:e1:00.0", "144d:a80a", "0x010802"), None, None);
        let functions = host.root().functions().unwrap();
        let sbdfs: Vec<_> = functions.iter().map(|f| f.sbdf.to_string()).collect();
        assert_eq!(
            sbdfs,
            [
                "0000:00:01.0",
                "0000:01:00.0",
                "0000:01:00.1",
                "0000:03:00.0"
            ]
        );
    }

    #[test]
    fn header_type_is_without_the_multi_function_bit() {
        let root = SavedHost::intel();
        assert_eq!(root.root().header_type(sbdf(ROOT_PORT.0)).unwrap(), 1);
        assert_eq!(root.root().header_type(sbdf(NIC.0)).unwrap(), 0);
    }

    #[test]
    fn reset_methods_keep_the_kernels_order() {
        let host = SavedHost::intel();
        assert!(host.root().reset_methods(sbdf(NIC.0)).unwrap().is_empty());
        host.file("sys/bus/pci/devices/0000:03:00.0/reset_method", "flr bus\n");
        let methods = host.root().reset_methods(sbdf(NIC.0)).unwrap();
        assert_eq!(methods, ["flr", "bus"]);
    }
}
