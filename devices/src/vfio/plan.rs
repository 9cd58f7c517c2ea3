//! What a guest gets of a device: decided once, from plain data.

use super::bar::{self, BarError, BarPlan, TrappedRange};
use super::config::{ConfigPlan, ConfigWishes};
use super::probe::VfioProbe;
use super::reset::ResetPlan;
use super::rom::{RomChoice, RomPlan};
use crate::host::ResetFacts;
use crate::pci::header::{self, HeaderType};
use crate::pci::{BarIndex, GuestBdf, HostSbdf};
use std::collections::BTreeMap;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughSpec {
    /// The user's name for the device, or its host address.
    pub name: String,
    /// The device on the host.
    pub sbdf: HostSbdf,
    /// Its place on the guest's bus 0.
    pub guest: GuestBdf,
    /// The guest's slot holds further functions.
    pub multifunction: bool,
    /// The GSI that INTA# of the slot is wired to; `None` leaves INTx out.
    pub intx_gsi: Option<u32>,
    /// Its expansion ROM.
    pub rom: RomChoice,
    /// What the host says of its resets.
    pub resets: ResetFacts,
    /// The host's page size in bytes.
    pub page_size: u64,
}

/// Why a device can't be passed through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The probe is another device's.
    #[error("the probe is of {probed}, not of {wanted}")]
    OtherDevice {
        /// The probe's.
        probed: HostSbdf,
        /// The spec's.
        wanted: HostSbdf,
    },
    /// Configuration space reads as ones or is cut short: the device is gone or powered off.
    #[error("{0} doesn't answer: its configuration space reads as ones")]
    Absent(HostSbdf),
    /// A bridge.
    #[error("{sbdf} is a bridge (header type {header_type:#x}), only endpoints can be assigned")]
    NotEndpoint {
        /// Which device.
        sbdf: HostSbdf,
        /// Its Header Type without the multi-function bit.
        header_type: u8,
    },
    /// No page has this size.
    #[error("{0:#x} is no page size")]
    PageSize(u64),
    /// The expansion ROM that was asked for isn't there.
    #[error("{0} has no expansion ROM that can be read")]
    NoRom(HostSbdf),
    /// It has nothing but INTx, and the host's line is others', too, and can't be masked at the device.
    #[error("{0} can't share the interrupt line that it needs")]
    InterruptLine(HostSbdf),
    /// A BAR can't be shown.
    #[error(transparent)]
    Bar(#[from] BarError),
}

/// How the device may interrupt the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InterruptPlan {
    /// The GSI of INTA#, if the device has INTx and it is wired.
    pub(super) intx_gsi: Option<u32>,
    /// The device has INTx, and the host's line is not to be had.
    intx_busy: bool,
    /// MSI-X vectors can be added while MSI-X is enabled on the host.
    pub(super) msix_resizable: bool,
}

/// What a guest gets of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughPlan {
    pub(super) name: String,
    pub(super) sbdf: HostSbdf,
    pub(super) guest: GuestBdf,
    pub(super) bars: Vec<BarPlan>,
    pub(super) rom: Option<RomPlan>,
    pub(super) config: ConfigPlan,
    pub(super) interrupts: InterruptPlan,
    pub(super) reset: ResetPlan,
}

/// The smallest page that VFIO and KVM map.
const SMALLEST_PAGE: u64 = 4096;

impl PassthroughPlan {
    /// Decides what the guest gets of the device that `probe` describes.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(probe: &VfioProbe, spec: &PassthroughSpec) -> Result<Self, PlanError> {
        check(probe, spec)?;
        let pin = has_pin(probe);
        let intx_gsi = spec.intx_gsi.filter(|_| pin && !probe.intx_busy);
        let file_offset = probe
            .region(VFIO_PCI_CONFIG_REGION_INDEX)
            .ok_or(PlanError::Absent(probe.sbdf))?
            .file_offset;
        let rom = RomPlan::new(probe, &spec.rom);
        if spec.rom == RomChoice::Shown && rom.is_none() {
            return Err(PlanError::NoRom(probe.sbdf));
        }
        let wishes = ConfigWishes {
            multifunction: spec.multifunction,
            intx: intx_gsi.is_some(),
            rom: rom.is_some(),
        };
        let config = ConfigPlan::new(probe, file_offset, wishes);
        let messages = config.msi.is_some() || config.msix.is_some();
        if spec.intx_gsi.is_some() && pin && probe.intx_busy && !messages {
            return Err(PlanError::InterruptLine(probe.sbdf));
        }
        let trapped = trapped_ranges(&config);
        Ok(Self {
            name: spec.name.clone(),
            sbdf: spec.sbdf,
            guest: spec.guest,
            bars: bar::plan_bars(probe, &trapped, spec.page_size)?,
            rom,
            config,
            interrupts: InterruptPlan {
                intx_gsi,
                intx_busy: pin && probe.intx_busy,
                msix_resizable: probe
                    .irq(VFIO_PCI_MSIX_IRQ_INDEX)
                    .is_some_and(|irq| irq.resizable()),
            },
            reset: ResetPlan::new(probe, &spec.resets),
        })
    }

    /// The plan in words, a line each fact; those after the first are indented.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let first = format!("{}: host {} is guest {}", self.name, self.sbdf, self.guest);
        let mut lines: Vec<String> = self.bars.iter().map(ToString::to_string).collect();
        lines.extend(self.rom.iter().map(ToString::to_string));
        lines.push(self.describe_interrupts());
        lines.push(self.reset.describe());
        lines.extend(self.config.describe());
        let lines = lines.into_iter().map(|line| format!("  {line}"));
        std::iter::once(first).chain(lines).collect()
    }

    fn describe_interrupts(&self) -> String {
        let mut ways = Vec::new();
        if let Some((_, msix)) = self.config.msix {
            let how = if self.interrupts.msix_resizable {
                "armed one by one"
            } else {
                "re-armed together when one is added"
            };
            ways.push(format!("MSI-X, up to {}, {how}", msix.entries));
        }
        if let Some((_, layout)) = self.config.msi {
            ways.push(format!("MSI, up to {}", layout.capable()));
        }
        if let Some(gsi) = self.interrupts.intx_gsi {
            ways.push(format!("INTA# on GSI {gsi}"));
        }
        if self.interrupts.intx_busy {
            ways.push("no INTx, since the device can't share the host's line".to_owned());
        }
        if ways.is_empty() {
            ways.push("none".to_owned());
        }
        format!("interrupts: {}", ways.join("; "))
    }

    /// Where each BAR and the expansion ROM start in the device's file.
    pub(super) fn file_offsets(&self) -> BTreeMap<BarIndex, u64> {
        let bars = self.bars.iter().map(|bar| (bar.index, bar.file_offset));
        let rom = self.rom.as_ref().and_then(RomPlan::file_offset);
        bars.chain(rom.map(|offset| (BarIndex::ROM, offset)))
            .collect()
    }
}

/// Whether the device has INTx.
fn has_pin(probe: &VfioProbe) -> bool {
    let pin = probe.config.get(usize::from(header::INTERRUPT_PIN));
    probe.irq(VFIO_PCI_INTX_IRQ_INDEX).is_some() && pin.is_some_and(|pin| *pin != 0)
}

fn check(probe: &VfioProbe, spec: &PassthroughSpec) -> Result<(), PlanError> {
    if probe.sbdf != spec.sbdf {
        return Err(PlanError::OtherDevice {
            probed: probe.sbdf,
            wanted: spec.sbdf,
        });
    }
    if !spec.page_size.is_power_of_two() || spec.page_size < SMALLEST_PAGE {
        return Err(PlanError::PageSize(spec.page_size));
    }
    let vendor = header::word(&probe.config, header::VENDOR_ID);
    let header_type = probe.config.get(usize::from(header::HEADER_TYPE));
    let (Some(_), Some(header_type)) = (vendor.filter(|id| *id != u16::MAX), header_type) else {
        return Err(PlanError::Absent(probe.sbdf));
    };
    match HeaderType(*header_type).layout() {
        0 => Ok(()),
        header_type => Err(PlanError::NotEndpoint {
            sbdf: probe.sbdf,
            header_type,
        }),
    }
}

/// What the guest must not reach without an exit.
fn trapped_ranges(config: &ConfigPlan) -> Vec<TrappedRange> {
    let Some((_, msix)) = config.msix else {
        return Vec::new();
    };
    vec![
        TrappedRange {
            bar: msix.table_bar,
            offset: u64::from(msix.table_offset),
            len: msix.table_size(),
            what: "MSI-X table",
        },
        TrappedRange {
            bar: msix.pba_bar,
            offset: u64::from(msix.pba_offset),
            len: msix.pba_size(),
            what: "PBA",
        },
    ]
}
