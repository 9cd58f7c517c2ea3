//! Registers of the type 0 configuration header (PCI 3.0 section 6.1), in the order of the
//! specification.

use bitflags::bitflags;

/// Vendor ID, 2 bytes.
pub const VENDOR_ID: u16 = 0x00;
/// Device ID, 2 bytes.
pub const DEVICE_ID: u16 = 0x02;
/// Command, 2 bytes; see [`Command`].
pub const COMMAND: u16 = 0x04;
/// Status, 2 bytes; see [`Status`].
pub const STATUS: u16 = 0x06;
/// Revision ID, 1 byte.
pub const REVISION_ID: u16 = 0x08;
/// Class Code, 3 bytes: interface, sub-class, base class.
pub const CLASS_CODE: u16 = 0x09;
/// Cache Line Size, 1 byte, in dwords.
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Latency Timer, 1 byte.
pub const LATENCY_TIMER: u16 = 0x0d;
/// Header Type, 1 byte; see [`HeaderType`].
pub const HEADER_TYPE: u16 = 0x0e;
/// Built-in Self Test, 1 byte.
pub const BIST: u16 = 0x0f;
/// First Base Address Register, 4 bytes each.
pub const BAR0: u16 = 0x10;
/// Secondary Bus Number of a bridge, 1 byte: the bus right behind it (PCI-to-PCI Bridge 1.2 section 3.2.5.3).
pub const SECONDARY_BUS: u16 = 0x19;
/// Cardbus CIS Pointer, 4 bytes.
pub const CARDBUS_CIS: u16 = 0x28;
/// Subsystem Vendor ID, 2 bytes.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem ID, 2 bytes.
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Expansion ROM Base Address, 4 bytes.
pub const EXPANSION_ROM: u16 = 0x30;
/// In it: the ROM decodes, if Memory Space does too.
pub const EXPANSION_ROM_ENABLE: u32 = 1;
/// Capabilities Pointer, 1 byte.
pub const CAPABILITIES_POINTER: u16 = 0x34;
/// Interrupt Line, 1 byte; the guest's own notes.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt Pin, 1 byte: 0 none, 1 INTA# to 4 INTD#.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Min_Gnt, 1 byte.
pub const MIN_GNT: u16 = 0x3e;
/// Max_Lat, 1 byte.
pub const MAX_LAT: u16 = 0x3f;
/// First byte after the header.
pub const END: u16 = 0x40;

bitflags! {
    /// The Command register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Command: u16 {
        /// I/O BARs decode.
        const IO_SPACE = 1 << 0;
        /// Memory BARs decode.
        const MEMORY_SPACE = 1 << 1;
        /// The function may start DMA and send MSIs.
        const BUS_MASTER = 1 << 2;
        /// Special Cycle Enable.
        const SPECIAL_CYCLES = 1 << 3;
        /// Memory Write and Invalidate Enable.
        const MEMORY_WRITE_INVALIDATE = 1 << 4;
        /// VGA Palette Snoop.
        const VGA_PALETTE_SNOOP = 1 << 5;
        /// Parity Error Response.
        const PARITY_ERROR_RESPONSE = 1 << 6;
        /// SERR# Enable.
        const SERR = 1 << 8;
        /// Fast Back-to-Back Enable.
        const FAST_BACK_TO_BACK = 1 << 9;
        /// The function may not assert INTx.
        const INTERRUPT_DISABLE = 1 << 10;
    }
}

bitflags! {
    /// The Status register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Status: u16 {
        /// INTx is pending inside the function.
        const INTERRUPT = 1 << 3;
        /// A capability chain starts at [`CAPABILITIES_POINTER`].
        const CAPABILITIES_LIST = 1 << 4;
        /// 66 MHz capable.
        const CAPABLE_66_MHZ = 1 << 5;
        /// Fast Back-to-Back capable.
        const FAST_BACK_TO_BACK = 1 << 7;
        /// Master Data Parity Error; written 1 to clear, as all bits that follow.
        const MASTER_DATA_PARITY_ERROR = 1 << 8;
        /// Signaled Target Abort.
        const SIGNALED_TARGET_ABORT = 1 << 11;
        /// Received Target Abort.
        const RECEIVED_TARGET_ABORT = 1 << 12;
        /// Received Master Abort.
        const RECEIVED_MASTER_ABORT = 1 << 13;
        /// Signaled System Error.
        const SIGNALED_SYSTEM_ERROR = 1 << 14;
        /// Detected Parity Error.
        const DETECTED_PARITY_ERROR = 1 << 15;
    }
}

/// The Header Type register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderType(pub u8);

impl HeaderType {
    /// Bit that tells a scan to look at functions 1 to 7 too.
    pub const MULTI_FUNCTION: u8 = 1 << 7;

    /// Header layout: 0 endpoint, 1 bridge, 2 CardBus bridge.
    #[must_use]
    pub fn layout(self) -> u8 {
        self.0 & !Self::MULTI_FUNCTION
    }

    /// Whether the slot holds several functions.
    #[must_use]
    pub fn multi_function(self) -> bool {
        self.0 & Self::MULTI_FUNCTION != 0
    }

    /// The same layout with the multi-function bit as given.
    #[must_use]
    pub fn with_multi_function(self, several: bool) -> Self {
        let bit = if several { Self::MULTI_FUNCTION } else { 0 };
        Self(self.layout() | bit)
    }
}

/// Reads a little-endian word of `config`; `None` outside it.
#[must_use]
pub fn word(config: &[u8], offset: u16) -> Option<u16> {
    let bytes = config.get(usize::from(offset)..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

/// Reads a little-endian dword of `config`; `None` outside it.
#[must_use]
pub fn dword(config: &[u8], offset: u16) -> Option<u32> {
    let bytes = config.get(usize::from(offset)..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_function_bit_leaves_the_layout_alone() {
        let bridge = HeaderType(0x01).with_multi_function(true);
        assert_eq!(bridge, HeaderType(0x81));
        assert_eq!((bridge.layout(), bridge.multi_function()), (1, true));
        assert_eq!(bridge.with_multi_function(false), HeaderType(0x01));
    }

    #[test]
    fn registers_are_little_endian_and_bounded() {
        let config = [0x86, 0x80, 0x57, 0x0d];
        assert_eq!(word(&config, VENDOR_ID), Some(0x8086));
        assert_eq!(dword(&config, VENDOR_ID), Some(0x0d57_8086));
        assert_eq!(dword(&config, 1), None);
        assert_eq!(word(&config, u16::MAX), None);
    }
}
