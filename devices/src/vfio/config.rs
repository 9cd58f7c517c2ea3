//! Configuration space as a guest sees it: which bits are the device's and which are Ferry's.
//!
//! One table of [`ConfigRow`]s says it all. What no row names is read from the device and written to
//! it, through vfio-pci, which guards what would harm the host.

use super::fields::{self, Field, HiddenCapability};
use super::probe::VfioProbe;
use crate::pci::capability::{self, Capability, CapabilityId, ConfigPatch, ExtendedCapability};
use crate::pci::header::{self, HeaderType};
use crate::pci::msi::MsiLayout;
use crate::pci::msix::{self, MsixCapability};
use crate::pci::{BarIndex, ConfigOffset, advanced_features, express, msi};
use std::collections::BTreeSet;
use vfio_bindings::bindings::vfio::{VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX};

/// Power Management: Power Management Capabilities, 2 bytes (PCI Power Management 1.2 section 3.2).
const PM_CAPABILITIES: u16 = 0x02;
/// Power Management: Power Management Control/Status, 2 bytes.
const PM_CONTROL: u16 = 0x04;
/// Power Management Capabilities: D1 is supported. D2 is the bit above.
const D1_SUPPORT_SHIFT: u16 = 9;

/// Who answers for the bits of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// They read as this, and can't be written.
    Fixed(u32),
    /// The guest's own notes, zero after reset.
    Stored,
    /// The virtual BAR registers, the expansion ROM's among them.
    Bars,
    /// The virtual MSI capability.
    Msi,
    /// The virtual MSI-X Message Control.
    MsiX,
}

/// Bits of one dword that are not the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigRow {
    /// Offset of the dword.
    pub(super) offset: u16,
    pub(super) mask: u32,
    pub(super) behaviour: Behaviour,
    /// What it is part of, and why it is not the device's.
    pub(super) field: &'static Field,
}

/// Where the power state is, and which of the four there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PowerPlan {
    /// Offset of Power Management Control/Status.
    pub(super) control: u16,
    supported: [bool; 4],
}

impl PowerPlan {
    /// The power state after `state` (0 to 3) was written.
    pub(super) fn entered(&self, state: u8, current: u8) -> u8 {
        let supported = self.supported.get(usize::from(state));
        if supported.copied().unwrap_or(false) {
            state
        } else {
            current
        }
    }
}

/// A bit that resets the function when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResetBit {
    /// Offset of its byte.
    pub(super) offset: u16,
    pub(super) bit: u8,
}

/// Configuration space as the guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigPlan {
    pub(super) rows: Vec<ConfigRow>,
    /// Bytes there are: 256 or 4096. What lies beyond reads as ones.
    pub(super) len: u16,
    /// MSI capability: offset and layout.
    pub(super) msi: Option<(u16, MsiLayout)>,
    /// MSI-X capability: offset and contents.
    pub(super) msix: Option<(u16, MsixCapability)>,
    pub(super) power: Option<PowerPlan>,
    pub(super) resets: Vec<ResetBit>,
    /// What the guest doesn't see.
    pub(super) hidden: Vec<&'static HiddenCapability>,
    pub(super) file_offset: u64,
}

/// What [`ConfigPlan::new`] needs to know that the device doesn't say.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigWishes {
    pub(super) multifunction: bool,
    /// INTx is wired.
    pub(super) intx: bool,
    /// There is an expansion ROM.
    pub(super) rom: bool,
}

impl ConfigPlan {
    pub(super) fn new(probe: &VfioProbe, file_offset: u64, wishes: ConfigWishes) -> Self {
        let config = &probe.config;
        let len = if config.len() > usize::from(capability::EXTENDED_BASE) {
            ConfigOffset::SPACE
        } else {
            capability::EXTENDED_BASE
        };
        let mut plan = Self {
            rows: Vec::new(),
            len,
            msi: None,
            msix: None,
            power: None,
            resets: Vec::new(),
            hidden: Vec::new(),
            file_offset,
        };
        plan.header(wishes);
        let msi = plan.plan_msi(probe);
        let msix = plan.plan_msix(probe);
        let hidden = |c: Capability| match c.id {
            CapabilityId::MSI if msi != Some(c.offset) => Some(&fields::NO_MSI),
            CapabilityId::MSI_X if msix != Some(c.offset) => Some(&fields::NO_MSI_X),
            CapabilityId::ENHANCED_ALLOCATION => Some(&fields::ENHANCED_ALLOCATION),
            _ => None,
        };
        for found in capability::capabilities(config) {
            match hidden(found) {
                Some(hidden) => plan.hidden.push(hidden),
                None => plan.capability(config, found),
            }
        }
        let links = capability::hide_capabilities(config, |c| hidden(c).is_some());
        plan.fix(&links, &fields::CHAIN);
        plan.extended(config);
        plan
    }

    /// Configuration space in words: what is not simply the device's, and where; what is hidden, and why.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut fields: Vec<(&Field, BTreeSet<u16>)> = Vec::new();
        let mut note = |field, bytes: &mut dyn Iterator<Item = u16>| match fields
            .iter_mut()
            .find(|(known, _)| *known == field)
        {
            Some((_, there)) => there.extend(bytes),
            None => fields.push((field, bytes.collect())),
        };
        for row in &self.rows {
            let bytes = (0..4).filter(|byte| row.mask >> (byte * 8) & 0xff != 0);
            note(row.field, &mut bytes.map(|byte| row.offset + byte));
        }
        note(
            &fields::COMMAND,
            &mut (header::COMMAND..header::COMMAND + 2),
        );
        if let Some(power) = self.power {
            note(&fields::POWER, &mut (power.control..power.control + 2));
        }
        for reset in &self.resets {
            note(&fields::FLR, &mut std::iter::once(reset.offset));
        }
        fields.sort_by_key(|(_, bytes)| bytes.first().copied());
        let line = |(field, bytes): (&Field, BTreeSet<u16>)| {
            let Field { name, answer, .. } = field;
            format!("config: {name}: {answer} at {}", ranges(&bytes))
        };
        let hidden = self.hidden.iter();
        let hidden = hidden.map(|hidden| format!("hidden: {hidden}: {}", hidden.reason));
        let rest = &fields::REST;
        let rest = format!("config: {}: {}", rest.name, rest.answer);
        let fields = fields.into_iter().map(line);
        fields.chain([rest]).chain(hidden).collect()
    }

    fn fix(&mut self, patches: &[ConfigPatch], field: &'static Field) {
        self.rows.extend(patches.iter().map(|patch| ConfigRow {
            offset: patch.offset,
            mask: patch.mask,
            behaviour: Behaviour::Fixed(patch.value),
            field,
        }));
    }

    fn fix_byte(&mut self, offset: u16, value: u8, field: &'static Field) {
        self.fix(&[ConfigPatch::byte(offset, value)], field);
    }

    /// Rows of the type 0 header.
    fn header(&mut self, wishes: ConfigWishes) {
        let bars = (0..u16::from(BarIndex::COUNT)).map(|n| ConfigRow {
            offset: header::BAR0 + n * 4,
            mask: u32::MAX,
            behaviour: Behaviour::Bars,
            field: &fields::BARS,
        });
        self.rows.extend(bars);
        let layout = HeaderType(0).with_multi_function(wishes.multifunction);
        self.fix_byte(header::HEADER_TYPE, layout.0, &fields::HEADER_TYPE);
        if wishes.rom {
            self.rows.push(ConfigRow {
                offset: header::EXPANSION_ROM,
                mask: u32::MAX,
                behaviour: Behaviour::Bars,
                field: &fields::ROM_SHOWN,
            });
        } else {
            let rom = ConfigPatch::dword(header::EXPANSION_ROM, u32::MAX, 0);
            self.fix(&[rom], &fields::ROM_HIDDEN);
        }
        self.rows.push(ConfigRow {
            offset: header::INTERRUPT_LINE,
            mask: 0xff,
            behaviour: Behaviour::Stored,
            field: &fields::INTERRUPT_LINE,
        });
        self.fix_byte(
            header::INTERRUPT_PIN,
            wishes.intx.into(),
            &fields::INTERRUPT_PIN,
        );
    }

    /// The offset of the MSI capability that the guest gets.
    fn plan_msi(&mut self, probe: &VfioProbe) -> Option<u16> {
        probe.irq(VFIO_PCI_MSI_IRQ_INDEX)?;
        let found = capability::find(&probe.config, CapabilityId::MSI)?;
        let layout = MsiLayout::parse(&probe.config, found.offset)?;
        // vfio-pci shows at most 256 bytes of it.
        let end = found.offset.checked_add(layout.len())?;
        (end <= capability::EXTENDED_BASE).then_some(())?;
        self.msi = Some((found.offset, layout));
        let mut at = found.offset;
        while at < end {
            let first = if at == found.offset {
                msi::MESSAGE_CONTROL
            } else {
                0
            };
            let last = (end - at).min(4);
            let mask = (first..last).fold(0, |mask, byte| mask | 0xff << (byte * 8));
            self.rows.push(ConfigRow {
                offset: at,
                mask,
                behaviour: Behaviour::Msi,
                field: &fields::MSI,
            });
            at += 4;
        }
        Some(found.offset)
    }

    /// The offset of the MSI-X capability that the guest gets.
    fn plan_msix(&mut self, probe: &VfioProbe) -> Option<u16> {
        let irq = probe.irq(VFIO_PCI_MSIX_IRQ_INDEX)?;
        let found = capability::find(&probe.config, CapabilityId::MSI_X)?;
        let msix = MsixCapability::parse(&probe.config, found.offset)?;
        let inside = |bar: BarIndex, offset: u32, len: u64| {
            probe
                .region(u32::from(bar.get()))
                .is_some_and(|region| u64::from(offset) + len <= region.size)
        };
        let table = inside(msix.table_bar, msix.table_offset, msix.table_size());
        let pba = inside(msix.pba_bar, msix.pba_offset, msix.pba_size());
        if !table || !pba || irq.count < u32::from(msix.entries) {
            return None;
        }
        self.msix = Some((found.offset, msix));
        self.rows.push(ConfigRow {
            offset: found.offset,
            mask: 0xffff << (msix::MESSAGE_CONTROL * 8),
            behaviour: Behaviour::MsiX,
            field: &fields::MSI_X,
        });
        Some(found.offset)
    }

    /// What a capability that the guest sees asks for.
    fn capability(&mut self, config: &[u8], found: Capability) {
        let Capability { id, offset } = found;
        match id {
            CapabilityId::POWER_MANAGEMENT if self.power.is_none() => {
                let supported = header::word(config, offset + PM_CAPABILITIES).unwrap_or(0);
                let d1 = supported >> D1_SUPPORT_SHIFT & 1 != 0;
                let d2 = supported >> (D1_SUPPORT_SHIFT + 1) & 1 != 0;
                self.power = Some(PowerPlan {
                    control: offset + PM_CONTROL,
                    supported: [true, d1, d2, true],
                });
            }
            CapabilityId::PCI_EXPRESS => {
                let mut patches = express::integrate(config, offset);
                patches.retain(|patch| patch.offset < capability::EXTENDED_BASE);
                self.fix(&patches, &fields::PCI_EXPRESS);
                if express::flr_capable(config, offset) {
                    let [_, bit] = express::INITIATE_FLR.to_le_bytes();
                    self.resets.push(ResetBit {
                        offset: offset + express::DEVICE_CONTROL + 1,
                        bit,
                    });
                }
            }
            CapabilityId::ADVANCED_FEATURES if advanced_features::flr_capable(config, offset) => {
                self.resets.push(ResetBit {
                    offset: offset + advanced_features::CONTROL,
                    bit: advanced_features::INITIATE_FLR,
                });
            }
            _ => {}
        }
    }

    /// Rows of the extended capabilities.
    fn extended(&mut self, config: &[u8]) {
        let hidden = |c: ExtendedCapability| fields::hidden_extended(c.id);
        let found = capability::extended_capabilities(config).filter_map(hidden);
        self.hidden.extend(found);
        let links = capability::hide_extended_capabilities(config, |c| hidden(c).is_some());
        self.fix(&links, &fields::EXTENDED_CHAIN);
    }
}

/// `0x00e 0x010-0x027`.
fn ranges(bytes: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for byte in bytes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *byte => *last = *byte,
            _ => ranges.push((*byte, *byte)),
        }
    }
    let text = |(first, last): &(u16, u16)| match first == last {
        true => format!("{first:#05x}"),
        false => format!("{first:#05x}-{last:#05x}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// [`ConfigPlan::rows`] laid out by byte, for quick look-up.
#[derive(Clone, Debug)]
pub(super) struct ConfigBytes {
    /// The bits that are not the device's.
    mask: Vec<u8>,
    /// What those read as, where the row is [`Behaviour::Fixed`].
    fixed: Vec<u8>,
}

impl ConfigBytes {
    pub(super) fn new(plan: &ConfigPlan) -> Self {
        let size = usize::from(ConfigOffset::SPACE);
        let mut bytes = Self {
            mask: vec![0; size],
            fixed: vec![0; size],
        };
        for row in &plan.rows {
            let value = match row.behaviour {
                Behaviour::Fixed(value) => value,
                _ => 0,
            };
            let start = usize::from(row.offset);
            let places = bytes.mask.iter_mut().zip(&mut bytes.fixed).skip(start);
            let row = row.mask.to_le_bytes().into_iter().zip(value.to_le_bytes());
            for ((mask, fixed), (row_mask, row_value)) in places.zip(row) {
                *fixed = *fixed & !row_mask | row_value & row_mask;
                *mask |= row_mask;
            }
        }
        bytes
    }

    /// The bits of the `len` bytes at `offset` that are not the device's.
    pub(super) fn mask(&self, offset: ConfigOffset, len: usize) -> &[u8] {
        let start = usize::from(offset.get());
        let end = (start + len).min(self.mask.len());
        self.mask.get(start..end).unwrap_or(&[])
    }

    /// Whether any of the bytes has a bit of the device's.
    pub(super) fn any_real(&self, offset: ConfigOffset, len: usize) -> bool {
        self.mask(offset, len).iter().any(|mask| *mask != 0xff)
    }

    /// Puts the fixed bits over what the device gave.
    pub(super) fn overlay(&self, offset: ConfigOffset, data: &mut [u8]) {
        let start = usize::from(offset.get());
        let bits = self.mask.iter().zip(&self.fixed).skip(start);
        for (byte, (mask, fixed)) in data.iter_mut().zip(bits) {
            *byte = *byte & !mask | fixed & mask;
        }
    }
}
