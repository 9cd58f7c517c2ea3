//! Message Signalled Interrupts as a guest programs them (PCI 3.0 section 6.8.1).

use super::header;
use crate::interrupt::MsiMessage;

/// Message Control, 2 bytes at offset 2 of the capability.
pub const MESSAGE_CONTROL: u16 = 0x02;
/// Message Address, 4 bytes.
pub const MESSAGE_ADDRESS: u16 = 0x04;
/// Message Upper Address, 4 bytes; 64-bit layouts only. Message Data follows the address, Mask Bits
/// and Pending Bits follow at the next dword.
pub const MESSAGE_UPPER_ADDRESS: u16 = 0x08;

/// Message Control: MSI Enable.
const ENABLE: u16 = 1 << 0;
/// Message Control: Multiple Message Capable, log2 of the vectors the function wants.
const CAPABLE_SHIFT: u16 = 1;
/// Message Control: Multiple Message Enable, log2 of the vectors the guest granted.
const GRANTED_SHIFT: u16 = 4;
/// Width of both fields.
const LOG2_BITS: u16 = 0x7;
/// Message Control: 64 bit address capable.
const ADDRESS_64: u16 = 1 << 7;
/// Message Control: per-vector masking capable.
const PER_VECTOR_MASKING: u16 = 1 << 8;
/// Message Address: the low bits that read as zero.
const ADDRESS_RESERVED: u32 = 0x3;
/// Values 6 and 7 of the log2 fields are reserved.
const MAX_LOG2: u16 = 5;
/// Longest layout: 64-bit with masking.
const MAX_LEN: usize = 0x18;

/// Which registers an MSI capability has; they differ by two bits of Message Control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLayout {
    /// Message Upper Address is there.
    pub address_64: bool,
    /// Mask Bits and Pending Bits are there.
    pub per_vector_masking: bool,
    /// log2 of the number of vectors that the function wants, 0 to 5.
    pub capable_log2: u8,
}

impl MsiLayout {
    /// The layout that a Message Control value tells of.
    #[must_use]
    pub fn of_control(control: u16) -> Self {
        let [capable, _] = ((control >> CAPABLE_SHIFT) & LOG2_BITS)
            .min(MAX_LOG2)
            .to_le_bytes();
        Self {
            address_64: control & ADDRESS_64 != 0,
            per_vector_masking: control & PER_VECTOR_MASKING != 0,
            capable_log2: capable,
        }
    }

    /// The layout of the MSI capability at `offset` of `config`.
    #[must_use]
    pub fn parse(config: &[u8], offset: u16) -> Option<Self> {
        let control = offset.checked_add(MESSAGE_CONTROL)?;
        header::word(config, control).map(Self::of_control)
    }

    /// How many vectors the function wants, 1 to 32.
    #[must_use]
    pub fn capable(self) -> u8 {
        1 << self.capable_log2.min(5)
    }

    /// Length of the capability in bytes, its id included.
    #[must_use]
    pub fn len(self) -> u16 {
        match (self.address_64, self.per_vector_masking) {
            (false, false) => 0x0a,
            (true, false) => 0x0e,
            (false, true) => 0x14,
            (true, true) => 0x18,
        }
    }

    /// Never true; a capability has at least ten bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// Offset of Message Data.
    #[must_use]
    pub fn data_offset(self) -> u16 {
        if self.address_64 { 0x0c } else { 0x08 }
    }

    /// Offset of Mask Bits, if there.
    #[must_use]
    pub fn mask_offset(self) -> Option<u16> {
        self.per_vector_masking.then(|| self.data_offset() + 4)
    }

    /// Offset of Pending Bits, if there.
    #[must_use]
    pub fn pending_offset(self) -> Option<u16> {
        self.per_vector_masking.then(|| self.data_offset() + 8)
    }
}

/// The MSI capability as the guest has programmed it. Extended Message Data is not offered: its two
/// bits of Message Control read as zero.
#[derive(Clone, Copy, Debug)]
pub struct MsiState {
    layout: MsiLayout,
    enabled: bool,
    granted_log2: u16,
    address: u64,
    data: u16,
    mask: u32,
}

impl MsiState {
    /// The state after reset: disabled, one vector, nothing masked.
    #[must_use]
    pub fn new(layout: MsiLayout) -> Self {
        Self {
            layout,
            enabled: false,
            granted_log2: 0,
            address: 0,
            data: 0,
            mask: 0,
        }
    }

    /// Which registers there are.
    #[must_use]
    pub fn layout(&self) -> MsiLayout {
        self.layout
    }

    /// MSI Enable.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// How many vectors the guest granted, 1 to 32, never more than the function wants.
    #[must_use]
    pub fn vectors(&self) -> u8 {
        let capable = u16::from(self.layout.capable_log2).min(MAX_LOG2);
        1 << self.granted_log2.min(capable)
    }

    /// Whether the guest has masked `vector`.
    #[must_use]
    pub fn masked(&self, vector: u8) -> bool {
        self.layout.per_vector_masking
            && 1u32
                .checked_shl(u32::from(vector))
                .is_some_and(|bit| self.mask & bit != 0)
    }

    /// The message of `vector`, whether or not it may be sent now: the function counts vectors in the
    /// low bits of Message Data. `None` beyond the granted vectors.
    #[must_use]
    pub fn message(&self, vector: u8) -> Option<MsiMessage> {
        let low_bits = u16::from(self.vectors() - 1);
        (vector < self.vectors()).then(|| MsiMessage {
            address: self.address,
            data: u32::from(self.data & !low_bits | u16::from(vector)),
        })
    }

    /// The message that `vector` sends now: `None` when MSI is off, the vector masked or not granted.
    #[must_use]
    pub fn wanted(&self, vector: u8) -> Option<MsiMessage> {
        self.message(vector)
            .filter(|_| self.enabled && !self.masked(vector))
    }

    /// Message Control as the guest reads it.
    #[must_use]
    pub fn control(&self) -> u16 {
        let layout = self.layout;
        (u16::from(self.enabled) * ENABLE)
            | (u16::from(layout.capable_log2) << CAPABLE_SHIFT)
            | self.granted_log2 << GRANTED_SHIFT
            | (u16::from(layout.address_64) * ADDRESS_64)
            | (u16::from(layout.per_vector_masking) * PER_VECTOR_MASKING)
    }

    /// The implemented bits of Mask Bits.
    fn vector_bits(&self) -> u32 {
        u32::MAX >> (32 - u32::from(self.layout.capable()))
    }

    /// The capability's bytes; id and next pointer are zero.
    fn image(&self, pending: u32) -> [u8; MAX_LEN] {
        let mut image = [0; MAX_LEN];
        let mut put = |offset: u16, bytes: &[u8]| {
            let start = usize::from(offset);
            if let Some(to) = image.get_mut(start..start + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(MESSAGE_CONTROL, &self.control().to_le_bytes());
        put(MESSAGE_ADDRESS, &self.address.to_le_bytes());
        put(self.layout.data_offset(), &[0; 4]);
        put(self.layout.data_offset(), &self.data.to_le_bytes());
        if let Some(offset) = self.layout.mask_offset() {
            put(offset, &self.mask.to_le_bytes());
            put(offset + 4, &(pending & self.vector_bits()).to_le_bytes());
        }
        image
    }

    /// Reads from `offset` inside the capability, `pending` being the pending vectors. The id and the
    /// next pointer, and bytes behind the capability, are left as they are in `data`.
    pub fn read(&self, offset: u16, data: &mut [u8], pending: u32) {
        let image = self.image(pending);
        for (at, byte) in (usize::from(offset)..).zip(data) {
            if (usize::from(MESSAGE_CONTROL)..usize::from(self.layout.len())).contains(&at) {
                *byte = image[at];
            }
        }
    }

    /// Writes at `offset` inside the capability. Read-only bits keep their value; bytes outside are
    /// ignored.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let mut image = self.image(0);
        for (at, byte) in (usize::from(offset)..).zip(data) {
            if at < usize::from(self.layout.len()) {
                image[at] = *byte;
            }
        }
        let control = header::word(&image, MESSAGE_CONTROL).unwrap_or(0);
        self.enabled = control & ENABLE != 0;
        self.granted_log2 = (control >> GRANTED_SHIFT) & LOG2_BITS;
        let low = header::dword(&image, MESSAGE_ADDRESS).unwrap_or(0) & !ADDRESS_RESERVED;
        let high = header::dword(&image, MESSAGE_UPPER_ADDRESS).filter(|_| self.layout.address_64);
        self.address = u64::from(high.unwrap_or(0)) << 32 | u64::from(low);
        self.data = header::word(&image, self.layout.data_offset()).unwrap_or(0);
        let mask = self.layout.mask_offset();
        let mask = mask.and_then(|offset| header::dword(&image, offset));
        self.mask = mask.unwrap_or(0) & self.vector_bits();
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.layout);
    }
}

#[cfg(test)]
mod tests;
