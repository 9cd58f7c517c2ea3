//! Access Control Services: what keeps functions from reaching each other past the IOMMU (PCI Express 5.0
//! sections 6.12 and 7.7.8).

use super::header;
use bitflags::bitflags;

/// ACS Capability, 2 bytes.
const CAPABILITY: u16 = 0x04;
/// ACS Control, 2 bytes.
const CONTROL: u16 = 0x06;

bitflags! {
    /// The services, in the ACS Capability register and in ACS Control.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AccessControl: u16 {
        /// ACS Source Validation.
        const SOURCE_VALIDATION = 1 << 0;
        /// ACS P2P Request Redirect.
        const REQUEST_REDIRECT = 1 << 2;
        /// ACS P2P Completion Redirect.
        const COMPLETION_REDIRECT = 1 << 3;
        /// ACS Upstream Forwarding.
        const UPSTREAM_FORWARDING = 1 << 4;
    }
}

impl AccessControl {
    /// The services that the function with the capability at `offset` of `config` has and that are off. What it does not
    /// have it does not need: the kernel takes it for wired in.
    #[must_use]
    pub fn off(config: &[u8], offset: u16) -> Option<Self> {
        let register = |at| header::word(config, offset.checked_add(at)?);
        let has = Self::from_bits_truncate(register(CAPABILITY)?);
        Some(has - Self::from_bits_truncate(register(CONTROL)?))
    }

    /// The specification's names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let names = [
            (Self::SOURCE_VALIDATION, "Source Validation"),
            (Self::REQUEST_REDIRECT, "Request Redirect"),
            (Self::COMPLETION_REDIRECT, "Completion Redirect"),
            (Self::UPSTREAM_FORWARDING, "Upstream Forwarding"),
        ];
        let set = names.into_iter().filter(|(bit, _)| self.contains(*bit));
        set.map(|(_, name)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_a_port_has_and_that_are_off_are_told() {
        // All but Completion Redirect, and others that don't matter; Source Validation on.
        let config = [0x0d, 0, 1, 0, 0x75, 0, 0x01, 0];
        let off = AccessControl::off(&config, 0).unwrap();
        assert_eq!(off.names(), ["Request Redirect", "Upstream Forwarding"]);
        assert_eq!(AccessControl::off(&config, 2), None);
        assert_eq!(AccessControl::off(&config, u16::MAX), None);
    }
}
