//! Probes as text: what one machine's VFIO tells of a device, to be looked at and planned for on another.
//!
//! A line for each thing, numbers as the kernel's headers have them, configuration space last:
//!
//! ```text
//! device 0000:01:00.0 flags 0x3
//! region 0 flags 0xf size 0x20000 file 0x0 msix-mappable area 0x0+0x1000
//! irq 2 flags 0x9 count 10
//! bus-reset 0000:01:00.0 group 7
//! config 000 86 80 c9 10 …
//! ```
//!
//! Lines of configuration space that hold nothing but zeros are left out, and so is what follows a `#`.

use super::probe::{IrqLine, MappableArea, Region, VfioProbe};
use super::reset::AffectedFunction;
use std::fmt;
use std::str::FromStr;

/// Bytes of configuration space in a line.
const LINE: usize = 16;

/// A line that says nothing that a probe has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of a saved probe is not understood: {text}")]
pub struct SavedProbeError {
    /// From 1.
    pub number: usize,
    /// The line.
    pub text: String,
}

impl fmt::Display for VfioProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = if self.intx_busy { " intx-busy" } else { "" };
        writeln!(f, "device {} flags {:#x}{busy}", self.sbdf, self.flags)?;
        for region in &self.regions {
            let Region {
                index, flags, size, ..
            } = region;
            let file = region.file_offset;
            write!(
                f,
                "region {index} flags {flags:#x} size {size:#x} file {file:#x}"
            )?;
            if region.msix_mappable {
                write!(f, " msix-mappable")?;
            }
            for MappableArea { offset, size } in region.sparse.iter().flatten() {
                write!(f, " area {offset:#x}+{size:#x}")?;
            }
            writeln!(f)?;
        }
        for IrqLine {
            index,
            flags,
            count,
        } in &self.irqs
        {
            writeln!(f, "irq {index} flags {flags:#x} count {count}")?;
        }
        for AffectedFunction { sbdf, group } in &self.bus_reset {
            writeln!(f, "bus-reset {sbdf} group {group}")?;
        }
        for (line, bytes) in self.config.chunks(LINE).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                write!(f, "config {:03x}", line * LINE)?;
                for byte in bytes {
                    write!(f, " {byte:02x}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl FromStr for VfioProbe {
    type Err = SavedProbeError;

    fn from_str(text: &str) -> Result<Self, SavedProbeError> {
        let mut probe = None;
        for (index, line) in text.lines().enumerate() {
            let said = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = said.split_whitespace().collect();
            if !words.is_empty() && take(&mut probe, &words).is_none() {
                return Err(SavedProbeError {
                    number: index + 1,
                    text: line.to_owned(),
                });
            }
        }
        probe.ok_or_else(|| SavedProbeError {
            number: 1,
            text: "nothing".to_owned(),
        })
    }
}

/// Adds what a line says to `probe`, which its first line begins.
fn take(probe: &mut Option<VfioProbe>, words: &[&str]) -> Option<()> {
    if let ["device", sbdf, "flags", flags, busy @ ..] = words {
        if !matches!(busy, [] | ["intx-busy"]) {
            return None;
        }
        let begun = VfioProbe {
            sbdf: sbdf.parse().ok()?,
            flags: number(flags)?,
            regions: Vec::new(),
            irqs: Vec::new(),
            intx_busy: !busy.is_empty(),
            bus_reset: Vec::new(),
            config: Vec::new(),
        };
        return probe.replace(begun).is_none().then_some(());
    }
    let probe = probe.as_mut()?;
    match words {
        [
            "region",
            index,
            "flags",
            flags,
            "size",
            size,
            "file",
            file,
            rest @ ..,
        ] => {
            let mut region = Region::new(number(index)?, number(size)?);
            region.flags = number(flags)?;
            region.file_offset = number(file)?;
            areas(&mut region, rest)?;
            // Its size is that of the configuration region, as `VfioProbe::read` has it.
            if region.index == CONFIG_REGION {
                probe.config = vec![0; usize::try_from(region.size.min(4096)).ok()? & !3];
            }
            probe.regions.push(region);
        }
        ["irq", index, "flags", flags, "count", count] => probe.irqs.push(IrqLine {
            index: number(index)?,
            flags: number(flags)?,
            count: number(count)?,
        }),
        ["bus-reset", sbdf, "group", group] => probe.bus_reset.push(AffectedFunction {
            sbdf: sbdf.parse().ok()?,
            group: number(group)?,
        }),
        ["config", start, bytes @ ..] => {
            let start = usize::from_str_radix(start, 16).ok()?;
            let place = probe
                .config
                .get_mut(start..start.checked_add(bytes.len())?)?;
            for (byte, word) in place.iter_mut().zip(bytes) {
                *byte = u8::from_str_radix(word, 16).ok()?;
            }
        }
        _ => return None,
    }
    Some(())
}

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG_REGION: u32 = 7;

fn areas(region: &mut Region, mut words: &[&str]) -> Option<()> {
    loop {
        words = match words {
            [] => return Some(()),
            ["msix-mappable", rest @ ..] => {
                region.msix_mappable = true;
                rest
            }
            ["area", area, rest @ ..] => {
                let (offset, size) = area.split_once('+')?;
                let area = MappableArea {
                    offset: number(offset)?,
                    size: number(size)?,
                };
                region.sparse.get_or_insert_default().push(area);
                rest
            }
            _ => return None,
        };
    }
}

/// Decimal, or hexadecimal after 0x.
fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    T::try_from(value.ok()?).ok()
}
