//! Interrupt remapping: whether the host keeps a device from forging interrupts.
//!
//! `VFIO_SET_IOMMU` returns EPERM unless it is on (`iommu_group_has_isolated_msi` since 6.3,
//! IOMMU_CAP_INTR_REMAP before) or vfio_iommu_type1's `allow_unsafe_interrupts` is set. The kernel
//! has no attribute that says so, but these follow from its source, 6.1 to 6.12, on x86:
//!
//! * With remapping on, the IO-APIC's interrupts go through it and its chip is called `IR-IO-APIC`
//!   (arch/x86/kernel/apic/io_apic.c); with it off, `IO-APIC`. Both drivers turn remapping on for all
//!   devices or for none. VT-d leaves it off if one IO-APIC lies outside (`parse_ioapics_under_ir`),
//!   AMD-Vi if the southbridge's does (`check_ioapic_information`), which is the one that carries the
//!   ISA interrupts: the chip of one of those decides.
//! * `intremap=off` or `nointremap` on the command line turns it off.
//! * One VT-d unit whose Extended Capability Register lacks bit 3 (IR) turns it off for all.

use super::group::ReservedRegionType;
use super::iommu::{IommuObstacle, without_argument};
use super::problem::Problem;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

/// What the host shows of interrupt remapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptRemapping {
    /// Interrupts go through it.
    On,
    /// They don't.
    Off(RemappingOff),
    /// No sign either way; the kernel decides at attach.
    Unknown,
}

/// What shows that interrupt remapping is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemappingOff {
    /// A kernel argument turned it off.
    Argument(String),
    /// This VT-d unit can't.
    Unsupported(String),
    /// The IO-APIC's interrupts don't go through it.
    IoApic,
}

/// VFIO will refuse the attach for want of interrupt remapping.
#[derive(Debug, thiserror::Error)]
#[error("{sbdf} can't be assigned: the host has no interrupt remapping")]
pub struct RemappingObstacle {
    /// The function asked for.
    pub sbdf: HostSbdf,
    /// The sign of it; `None` when only the kernel's EPERM says so.
    pub off: Option<RemappingOff>,
    /// Whether it is AMD-Vi rather than VT-d.
    pub amd_vi: bool,
}

impl HostRoot {
    /// Whether interrupts of devices go through remapping.
    ///
    /// # Errors
    /// When a directory of sysfs can't be listed.
    pub fn interrupt_remapping(&self) -> Result<InterruptRemapping, HostError> {
        let io_apic = self.io_apic_is_remapped();
        if io_apic == Some(true) {
            return Ok(InterruptRemapping::On);
        }
        if let Some(argument) = self.remapping_argument() {
            return Ok(InterruptRemapping::Off(RemappingOff::Argument(argument)));
        }
        if let Some(unit) = self.unit_without_remapping()? {
            return Ok(InterruptRemapping::Off(RemappingOff::Unsupported(unit)));
        }
        Ok(match io_apic {
            Some(_) => InterruptRemapping::Off(RemappingOff::IoApic),
            None => InterruptRemapping::Unknown,
        })
    }

    /// Whether vfio_iommu_type1 was told to go without.
    pub(super) fn allows_unsafe_interrupts(&self) -> bool {
        let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        matches!(self.text_or_empty(parameter).as_str(), "Y" | "1")
    }

    /// Whether the IO-APIC's interrupts are remapped; `None` when there is no such interrupt. The
    /// sixteen ISA interrupts are on it on every PC; `/proc/interrupts`, megabytes on a large host, is
    /// read only where there are none.
    fn io_apic_is_remapped(&self) -> Option<bool> {
        let isa = (0..16)
            .map(|irq| self.text_or_empty(format!("sys/kernel/irq/{irq}/chip_name")))
            .find_map(|chip| is_remapped(&chip));
        isa.or_else(|| {
            let interrupts = self.text_or_empty("proc/interrupts");
            let chips = interrupts.split_whitespace().filter_map(is_remapped);
            // One on a bus of its own may lie outside on AMD: any inside decides.
            chips.reduce(|one, other| one || other)
        })
    }

    /// The CPU's vendor doesn't say: an emulated AMD CPU may stand behind an emulated VT-d.
    pub(super) fn has_amd_vi(&self) -> bool {
        let units = self.names("sys/class/iommu").unwrap_or_default();
        units.iter().any(|unit| unit.starts_with("ivhd"))
    }

    fn remapping_argument(&self) -> Option<String> {
        let cmdline = self.text_or_empty("proc/cmdline");
        if cmdline.split_whitespace().any(|word| word == "nointremap") {
            return Some("nointremap".to_owned());
        }
        let value = self.kernel_argument("intremap")?;
        value
            .split(',')
            .any(|word| word == "off")
            .then(|| format!("intremap={value}"))
    }

    fn unit_without_remapping(&self) -> Result<Option<String>, HostError> {
        const ECAP_IR: u64 = 1 << 3;
        for unit in self.names("sys/class/iommu")? {
            let ecap = self.text_or_empty(format!("sys/class/iommu/{unit}/intel-iommu/ecap"));
            if u64::from_str_radix(&ecap, 16).is_ok_and(|ecap| ecap & ECAP_IR == 0) {
                return Ok(Some(unit));
            }
        }
        Ok(None)
    }
}

/// Of an IO-APIC's chip name, whether it stands behind remapping.
fn is_remapped(chip: &str) -> Option<bool> {
    match chip {
        "IR-IO-APIC" => Some(true),
        "IO-APIC" => Some(false),
        _ => None,
    }
}

/// Whether VFIO is certain to refuse `sbdf`; doubt is left to the kernel and [`explain_eperm_on_attach`].
pub(super) fn check(
    root: &HostRoot,
    sbdf: HostSbdf,
) -> Result<Option<RemappingObstacle>, HostError> {
    if root.allows_unsafe_interrupts() {
        return Ok(None);
    }
    Ok(match root.interrupt_remapping()? {
        InterruptRemapping::Off(off) => Some(RemappingObstacle {
            sbdf,
            off: Some(off),
            amd_vi: root.has_amd_vi(),
        }),
        InterruptRemapping::On | InterruptRemapping::Unknown => None,
    })
}

/// For the moment when `VFIO_SET_IOMMU` on the container of `sbdf`'s group returns EPERM.
#[must_use]
pub fn explain_eperm_on_attach(root: &HostRoot, sbdf: HostSbdf, group: u32) -> Problem {
    let regions = root.reserved_regions(group).unwrap_or_default();
    let direct = regions
        .iter()
        .find(|region| region.kind == ReservedRegionType::Direct);
    if let Some(region) = direct {
        return IommuObstacle::DirectMapping {
            sbdf,
            group,
            start: region.start,
            end: region.end,
        }
        .problem();
    }
    match root.interrupt_remapping() {
        Ok(InterruptRemapping::On) => Problem::new(
            format!("the kernel refused to attach IOMMU group {group} of {sbdf} (EPERM)"),
            "interrupt remapping is on, so the cause is another; the kernel's log names it",
            "sudo dmesg | grep -iE 'vfio|iommu|dmar|amd-vi' | tail",
        ),
        remapping => RemappingObstacle {
            sbdf,
            off: match remapping {
                Ok(InterruptRemapping::Off(off)) => Some(off),
                _ => None,
            },
            amd_vi: root.has_amd_vi(),
        }
        .problem(),
    }
}

impl RemappingObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let sign = match &self.off {
            Some(RemappingOff::Argument(argument)) => {
                format!("the kernel was started with {argument}")
            }
            Some(RemappingOff::Unsupported(unit)) => {
                format!("IOMMU {unit} doesn't support it (its ecap lacks bit 3)")
            }
            Some(RemappingOff::IoApic) => {
                "the IO-APIC's interrupts don't pass through it (chip IO-APIC, not IR-IO-APIC)"
                    .to_owned()
            }
            None => "VFIO_SET_IOMMU returned EPERM".to_owned(),
        };
        let remedy = match (&self.off, self.amd_vi) {
            (Some(RemappingOff::Argument(argument)), _) => {
                format!(
                    "start the kernel without it: {}",
                    without_argument(argument)
                )
            }
            (_, true) => {
                "update the firmware, or see why AMD-Vi left it off: sudo dmesg | grep -iE \
                          'amd-vi|remapping'"
                    .to_owned()
            }
            (_, false) => {
                "turn VT-d interrupt remapping or x2APIC on in the firmware setup (QEMU: -device \
                 intel-iommu,intremap=on)"
                    .to_owned()
            }
        };
        // Named because every search result suggests it, and with what it gives away.
        Problem::new(
            self.to_string(),
            format!(
                "{sign}; without it a guest can make its device raise any interrupt on the host"
            ),
            format!(
                "for guests you trust as you trust root, allow_unsafe_interrupts=1 of \
                 vfio_iommu_type1 accepts that; else {remedy}"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{FakeLimits, NIC, SavedHost, sbdf};
    use crate::host::{InterruptRemapping, RemappingOff, explain_eperm_on_attach};

    const IRQ: &str = "sys/kernel/irq/9/chip_name";

    #[test]
    fn plain_io_apic_shows_that_remapping_is_off() {
        let host = SavedHost::intel();
        host.file(IRQ, "IO-APIC\n");
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "0000:03:00.0 can't be assigned: the host has no interrupt remapping\n  \
             why: the IO-APIC's interrupts don't pass through it (chip IO-APIC, not IR-IO-APIC); \
             without it a guest can make its device raise any interrupt on the host\n  \
             fix: for guests you trust as you trust root, allow_unsafe_interrupts=1 of \
             vfio_iommu_type1 accepts that; else turn VT-d interrupt remapping or x2APIC on in the \
             firmware setup (QEMU: -device intel-iommu,intremap=on)"
        );
    }

    #[test]
    fn kernel_argument_and_ecap_are_better_reasons() {
        let host = SavedHost::intel();
        host.file(IRQ, "IO-APIC\n");
        host.file("sys/class/iommu/dmar1/intel-iommu/ecap", "f050d7\n");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(
            text.contains("IOMMU dmar1 doesn't support it (its ecap lacks bit 3)"),
            "{text}"
        );
        host.file("proc/cmdline", "quiet intremap=off\n");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(
            text.contains("the kernel was started with intremap=off"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "sed -i 's/ *\\bintremap=off\\b//' /etc/default/grub && sudo update-grub && sudo reboot"
            ),
            "{text}"
        );
    }

    #[test]
    fn user_who_allowed_unsafe_interrupts_is_not_stopped() {
        let host = SavedHost::intel();
        host.file(IRQ, "IO-APIC\n");
        let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        host.file(parameter, "Y\n");
        assert_eq!(host.problems(&[NIC.0], &FakeLimits::generous()), []);
    }

    #[test]
    fn proc_interrupts_serve_where_no_isa_interrupt_is() {
        let host = SavedHost::intel();
        host.remove(IRQ);
        let row = |chip| format!("  CPU0\n 24:  1  {chip}  5-edge  ACPI:Ged\n");
        host.file("proc/interrupts", row("IO-APIC"));
        assert_eq!(
            host.root().interrupt_remapping().unwrap(),
            InterruptRemapping::Off(RemappingOff::IoApic)
        );
        let both = row("IO-APIC") + &row("IR-IO-APIC") + &row("IO-APIC");
        host.file("proc/interrupts", both);
        assert_eq!(
            host.root().interrupt_remapping().unwrap(),
            InterruptRemapping::On
        );
    }

    #[test]
    fn doubt_is_left_to_the_kernel_and_explained_at_attach() {
        let host = SavedHost::amd();
        host.remove(IRQ);
        assert_eq!(
            host.root().interrupt_remapping().unwrap(),
            InterruptRemapping::Unknown
        );
        assert_eq!(host.problems(&[NIC.0], &FakeLimits::generous()), []);
        let text = explain_eperm_on_attach(&host.root(), sbdf(NIC.0), 16).to_string();
        assert!(text.contains("VFIO_SET_IOMMU returned EPERM"), "{text}");
        assert!(text.contains("see why AMD-Vi left it off"), "{text}");
    }

    #[test]
    fn eperm_with_remapping_on_has_another_cause() {
        let host = SavedHost::intel();
        let text = explain_eperm_on_attach(&host.root(), sbdf(NIC.0), 16).to_string();
        assert!(
            text.starts_with(
                "the kernel refused to attach IOMMU group 16 of 0000:03:00.0 (EPERM)\n"
            )
        );
        host.file(
            "sys/kernel/iommu_groups/16/reserved_regions",
            "0x8b800000 0x9fffffff direct\n",
        );
        let text = explain_eperm_on_attach(&host.root(), sbdf(NIC.0), 16).to_string();
        assert!(text.contains("0x8b800000-0x9fffffff"), "{text}");
    }
}
