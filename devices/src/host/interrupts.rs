//! Interrupts the host has taken for a passed-through function.

use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

/// How a function raises an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceInterruptType {
    /// A pin.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// One interrupt of a passed-through function, from the row vfio-pci names in `/proc/interrupts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceInterrupt {
    /// How it is raised.
    pub kind: DeviceInterruptType,
    /// Vector number within the function; 0 for INTx.
    pub vector: u16,
    /// Times it was taken since it was armed, over all CPUs. A pin counts since the host was started,
    /// whoever used it, and the interrupts of other devices on it, too.
    pub count: u64,
}

impl HostRoot {
    /// The armed interrupts of a function, in order of kind and vector.
    ///
    /// # Errors
    /// When `/proc/interrupts` can't be read.
    pub fn device_interrupts(&self, sbdf: HostSbdf) -> Result<Vec<DeviceInterrupt>, HostError> {
        let text = self.text("proc/interrupts")?.unwrap_or_default();
        Ok(device_interrupts(&text, sbdf))
    }
}

/// The same from the text of `/proc/interrupts`.
#[must_use]
pub fn device_interrupts(text: &str, sbdf: HostSbdf) -> Vec<DeviceInterrupt> {
    let mut lines = text.lines();
    let cpus = lines.next().unwrap_or_default().split_whitespace().count();
    let suffix = format!("({sbdf})");
    let mut interrupts: Vec<_> = lines
        .filter(|line| line.contains(&suffix))
        .filter_map(|line| interrupt(line, cpus, &suffix))
        .collect();
    interrupts.sort();
    interrupts
}

fn interrupt(line: &str, cpus: usize, suffix: &str) -> Option<DeviceInterrupt> {
    let mut fields = line.split_whitespace();
    fields.next()?.strip_suffix(':')?;
    let mut count = 0_u64;
    for _ in 0..cpus {
        count = count.saturating_add(fields.next()?.parse().ok()?);
    }
    // The rest: chip, pin and trigger, then the names of all who share the line.
    let (kind, vector) = fields.find_map(|name| action(name.trim_end_matches(','), suffix))?;
    Some(DeviceInterrupt {
        kind,
        vector,
        count,
    })
}

/// `vfio-msix[3](0000:01:00.0)`, `vfio-msi[0](…)`, `vfio-intx(…)`.
fn action(name: &str, suffix: &str) -> Option<(DeviceInterruptType, u16)> {
    let source = name.strip_suffix(suffix)?.strip_prefix("vfio-")?;
    if source == "intx" {
        return Some((DeviceInterruptType::Intx, 0));
    }
    let (kind, vector) = source.strip_suffix(']')?.split_once('[')?;
    let kind = match kind {
        "msi" => DeviceInterruptType::Msi,
        "msix" => DeviceInterruptType::Msix,
        _ => return None,
    };
    Some((kind, vector.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::DeviceInterruptType::{Intx, Msi, Msix};
    use super::{DeviceInterrupt, device_interrupts};
    use crate::host::saved::sbdf;

    const INTERRUPTS: &str = "\
           CPU0       CPU1
  9:          0          4  IR-IO-APIC    9-fasteoi   acpi
 16:         10          2  IR-IO-APIC   16-fasteoi   ehci_hcd:usb1, vfio-intx(0000:04:00.0)
121:          7          0  IR-PCI-MSIX-0000:03:00.0   10-edge      vfio-msix[10](0000:03:00.0)
122:       3000    4000000  IR-PCI-MSIX-0000:03:00.0    2-edge      vfio-msix[2](0000:03:00.0)
123:          1          1  IR-PCI-MSI 1574912-edge      vfio-msi[0](0000:05:00.0)
124:          1          1  IR-PCI-MSI 1574913-edge      vfio-msi[x](0000:05:00.0)
NMI:          0          0   Non-maskable interrupts
ERR:          0
";

    fn row(kind: super::DeviceInterruptType, vector: u16, count: u64) -> DeviceInterrupt {
        DeviceInterrupt {
            kind,
            vector,
            count,
        }
    }

    #[test]
    fn counts_are_summed_over_cpus_and_ordered_by_vector() {
        assert_eq!(
            device_interrupts(INTERRUPTS, sbdf("03:00.0")),
            [row(Msix, 2, 4_003_000), row(Msix, 10, 7)]
        );
    }

    #[test]
    fn pin_shared_with_a_host_device_is_found() {
        assert_eq!(
            device_interrupts(INTERRUPTS, sbdf("04:00.0")),
            [row(Intx, 0, 12)]
        );
    }

    #[test]
    fn row_that_is_not_understood_is_left_out() {
        assert_eq!(
            device_interrupts(INTERRUPTS, sbdf("05:00.0")),
            [row(Msi, 0, 2)]
        );
        assert_eq!(device_interrupts("", sbdf("05:00.0")), []);
    }
}
