//! The expansion ROM of a passed-through function (PCI 3.0 section 6.3).
//!
//! The guest's reads trap. They are few: a guest reads a ROM once, if at all, and turns its decoding on and off around every
//! piece, each of which would be a memslot made and taken away. So nothing of it is mapped for the guest or for DMA, and
//! nothing is read from the device before the guest does: each of those reads passes the bus by single dwords.

use super::host::VfioHost;
use super::probe::VfioProbe;
use crate::pci::{BarIndex, BarKind, BarLayout};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_bindings::bindings::vfio::VFIO_PCI_ROM_REGION_INDEX;

/// What every image begins with.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// What the register can describe.
const SMALLEST: u64 = 0x800;
const LARGEST: u64 = 0x100_0000;
/// Read from the device at once, so that no access of the guest's waits for all of a large ROM.
const PIECE: u64 = 0x1_0000;

/// Why something is no expansion ROM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RomImageError {
    /// It doesn't begin as every ROM does.
    #[error("it begins with {}, an expansion ROM with 55 aa", Hex(.0))]
    Signature(Vec<u8>),
    /// No register can describe it.
    #[error("it has {0} bytes or more, an expansion ROM at most {LARGEST}")]
    TooLarge(u64),
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        let bytes: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(" "))
    }
}

/// The content of an expansion ROM, from elsewhere than the device.
#[derive(Clone, PartialEq, Eq)]
pub struct RomImage(Arc<[u8]>);

impl RomImage {
    /// The most bytes that an image may have.
    pub const LARGEST: u64 = LARGEST;

    /// Takes what a ROM chip would hold.
    ///
    /// # Errors
    /// [`RomImageError`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, RomImageError> {
        let start = bytes.get(..SIGNATURE.len()).unwrap_or(&bytes);
        if start != SIGNATURE {
            return Err(RomImageError::Signature(start.to_vec()));
        }
        let len = bytes.len() as u64;
        if len > LARGEST {
            return Err(RomImageError::TooLarge(len));
        }
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for RomImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RomImage({} bytes)", self.0.len())
    }
}

/// What a user wants of a device's expansion ROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RomChoice {
    /// Shown if the device has one that can be read.
    #[default]
    IfReadable,
    /// Shown; the device must have one.
    Shown,
    /// Hidden.
    Hidden,
    /// This instead of the device's.
    Image(RomImage),
}

/// An expansion ROM as the guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RomPlan {
    /// Power of two.
    size: u64,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Device { file_offset: u64 },
    Image(RomImage),
}

impl RomPlan {
    /// The ROM that the guest gets by `choice`, if any. `None` for [`RomChoice::Shown`] says that the
    /// device has none that can be read.
    pub(super) fn new(probe: &VfioProbe, choice: &RomChoice) -> Option<Self> {
        match choice {
            RomChoice::Hidden => None,
            RomChoice::Image(image) => Some(Self {
                size: (image.0.len() as u64).next_power_of_two().max(SMALLEST),
                content: Content::Image(image.clone()),
            }),
            // The kernel describes a ROM only if it begins with the signature (`pci_map_rom`).
            RomChoice::IfReadable | RomChoice::Shown => probe
                .region(VFIO_PCI_ROM_REGION_INDEX)
                .filter(|region| region.readable())
                .and_then(|region| {
                    let size = region.size.checked_next_power_of_two()?.max(SMALLEST);
                    (size <= LARGEST).then_some(Self {
                        size,
                        content: Content::Device {
                            file_offset: region.file_offset,
                        },
                    })
                }),
        }
    }

    /// Where it starts in the device's file.
    pub(super) fn file_offset(&self) -> Option<u64> {
        match self.content {
            Content::Device { file_offset } => Some(file_offset),
            Content::Image(_) => None,
        }
    }

    /// Its register, and where it is trapped: everywhere.
    pub(super) fn layout(&self) -> BarLayout {
        BarLayout {
            index: BarIndex::ROM,
            kind: BarKind::Memory32 {
                prefetchable: false,
            },
            size: self.size,
            segments: Vec::new(),
        }
    }
}

impl fmt::Display for RomPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#x} bytes, ", BarIndex::ROM, self.size)?;
        match &self.content {
            Content::Device { .. } => f.write_str("read from the device when the guest reads it"),
            Content::Image(image) => write!(f, "{} of them from a file", image.0.len()),
        }
    }
}

/// An expansion ROM at run time. Its lock is a leaf, but for the read from the device.
pub(super) struct Rom {
    plan: RomPlan,
    /// What was read from the device, by where it starts.
    pieces: Mutex<BTreeMap<u64, Arc<[u8]>>>,
}

impl Rom {
    pub(super) fn new(plan: RomPlan) -> Self {
        Self {
            plan,
            pieces: Mutex::default(),
        }
    }

    /// Reads at `offset`; ones beyond what there is.
    ///
    /// # Errors
    /// What the host said when the device was read; `data` is all ones then.
    pub(super) fn read(&self, host: &dyn VfioHost, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(0xff);
        match &self.plan.content {
            Content::Image(image) => copy(&image.0, offset, data),
            Content::Device { .. } => {
                let start = offset / PIECE * PIECE;
                copy(&self.piece(host, start)?, offset - start, data);
                let end = start + PIECE;
                let beyond = usize::try_from(end - offset)
                    .ok()
                    .and_then(|here| data.get_mut(here..));
                if let Some(beyond) = beyond.filter(|rest| !rest.is_empty() && end < self.plan.size)
                {
                    copy(&self.piece(host, end)?, 0, beyond);
                }
            }
        }
        Ok(())
    }

    fn piece(&self, host: &dyn VfioHost, start: u64) -> io::Result<Arc<[u8]>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = pieces.get(&start) {
            return Ok(Arc::clone(piece));
        }
        let len = self.plan.size.saturating_sub(start).min(PIECE);
        let len = usize::try_from(len).unwrap_or_default();
        let mut piece = vec![0xff; len];
        host.bar_read(BarIndex::ROM, start, &mut piece)?;
        let piece: Arc<[u8]> = piece.into();
        pieces.insert(start, Arc::clone(&piece));
        Ok(piece)
    }
}

fn copy(from: &[u8], offset: u64, data: &mut [u8]) {
    let there = usize::try_from(offset)
        .ok()
        .and_then(|start| from.get(start..));
    for (to, from) in data.iter_mut().zip(there.unwrap_or_default()) {
        *to = *from;
    }
}
