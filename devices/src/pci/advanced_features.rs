//! The Advanced Features capability: FLR of conventional functions (PCI-SIG ECN Advanced
//! Capabilities for Conventional PCI, 2006).

use super::header;

/// AF Capabilities, 1 byte at offset 3 of the capability.
pub const CAPABILITIES: u16 = 0x03;
/// AF Control, 1 byte; reads as zero.
pub const CONTROL: u16 = 0x04;
/// AF Status, 1 byte.
pub const STATUS: u16 = 0x05;
/// Length of the capability in bytes.
pub const LEN: u16 = 0x06;

/// AF Capabilities: Transactions Pending is implemented.
pub const TRANSACTIONS_PENDING_CAPABLE: u8 = 1 << 0;
/// AF Capabilities: Function Level Reset is implemented.
pub const FLR_CAPABLE: u8 = 1 << 1;
/// AF Control: Initiate FLR.
pub const INITIATE_FLR: u8 = 1 << 0;
/// AF Status: Transactions Pending.
pub const TRANSACTIONS_PENDING: u8 = 1 << 0;

/// Whether the function with the Advanced Features capability at `offset` of `config` has FLR.
#[must_use]
pub fn flr_capable(config: &[u8], offset: u16) -> bool {
    let capabilities = offset.checked_add(CAPABILITIES - 1);
    let word = capabilities.and_then(|at| header::word(config, at));
    word.is_some_and(|word| word.to_le_bytes()[1] & FLR_CAPABLE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flr_is_told_by_the_second_bit_of_af_capabilities() {
        let with = [0x13, 0, 6, 0b11, 0, 0];
        let without = [0x13, 0, 6, 0b01, 0, 0];
        assert!(flr_capable(&with, 0));
        assert!(!flr_capable(&without, 0));
        assert!(!flr_capable(&with, 2));
    }
}
