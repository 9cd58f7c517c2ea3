//! The PCI Express capability (PCI Express 5.0 section 7.5.3), and an endpoint shown as a part of the
//! root complex.
//!
//! A function that sits directly on the root bus has no link above it: it is a Root Complex
//! Integrated Endpoint (section 1.3.2.3). A guest that saw a plain endpoint there would look for the
//! port above it.

use super::capability::ConfigPatch;
use super::header;

/// PCI Express Capabilities, 2 bytes.
pub const CAPABILITIES: u16 = 0x02;
/// Device Capabilities, 4 bytes.
pub const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device Control, 2 bytes.
pub const DEVICE_CONTROL: u16 = 0x08;
/// Device Status, 2 bytes.
pub const DEVICE_STATUS: u16 = 0x0a;
/// Link Capabilities, 4 bytes.
pub const LINK_CAPABILITIES: u16 = 0x0c;
/// Link Control and Link Status, 2 bytes each.
pub const LINK_CONTROL: u16 = 0x10;
/// Slot Capabilities, 4 bytes.
pub const SLOT_CAPABILITIES: u16 = 0x14;
/// Slot Control and Slot Status, 2 bytes each.
pub const SLOT_CONTROL: u16 = 0x18;
/// Root Control and Root Capabilities, 2 bytes each.
pub const ROOT_CONTROL: u16 = 0x1c;
/// Root Status, 4 bytes.
pub const ROOT_STATUS: u16 = 0x20;
/// Device Capabilities 2, 4 bytes.
pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
/// Device Control 2 and Device Status 2, 2 bytes each.
pub const DEVICE_CONTROL_2: u16 = 0x28;
/// Link Capabilities 2, 4 bytes.
pub const LINK_CAPABILITIES_2: u16 = 0x2c;
/// Link Control 2 and Link Status 2, 2 bytes each.
pub const LINK_CONTROL_2: u16 = 0x30;
/// Slot Capabilities 2, 4 bytes.
pub const SLOT_CAPABILITIES_2: u16 = 0x34;
/// Slot Control 2 and Slot Status 2, 2 bytes each.
pub const SLOT_CONTROL_2: u16 = 0x38;
/// Length of a version 2 capability.
pub const LEN_V2: u16 = 0x3c;

/// PCI Express Capabilities: Capability Version.
const VERSION: u16 = 0xf;
/// PCI Express Capabilities: Device/Port Type.
const PORT_TYPE_SHIFT: u16 = 4;
/// PCI Express Capabilities: Device/Port Type, width.
const PORT_TYPE: u16 = 0xf;
/// PCI Express Capabilities: Slot Implemented.
const SLOT_IMPLEMENTED: u16 = 1 << 8;

/// Device Capabilities: Function Level Reset Capability.
pub const FLR_CAPABLE: u32 = 1 << 28;
/// Device Control: Initiate Function Level Reset; reads as zero.
pub const INITIATE_FLR: u16 = 1 << 15;
/// Device Capabilities: Captured Slot Power Limit Value and Scale, which a link brings.
const SLOT_POWER_LIMIT: u32 = 0x0ffc_0000;
/// Device Capabilities 2: LTR Mechanism Supported.
pub const LTR_SUPPORTED: u32 = 1 << 11;
/// Device Capabilities 2: OBFF Supported.
const OBFF_SUPPORTED: u32 = 0b11 << 18;
/// Device Control 2: LTR Mechanism Enable.
pub const LTR_ENABLE: u32 = 1 << 10;
/// Device Control 2: OBFF Enable.
const OBFF_ENABLE: u32 = 0b11 << 13;

/// Device/Port Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortType(pub u8);

impl PortType {
    /// PCI Express Endpoint.
    pub const ENDPOINT: Self = Self(0x0);
    /// Legacy PCI Express Endpoint.
    pub const LEGACY_ENDPOINT: Self = Self(0x1);
    /// Root Port.
    pub const ROOT_PORT: Self = Self(0x4);
    /// Upstream Port of a switch.
    pub const UPSTREAM_PORT: Self = Self(0x5);
    /// Downstream Port of a switch.
    pub const DOWNSTREAM_PORT: Self = Self(0x6);
    /// PCI Express to PCI bridge.
    pub const PCI_BRIDGE: Self = Self(0x7);
    /// Root Complex Integrated Endpoint.
    pub const INTEGRATED_ENDPOINT: Self = Self(0x9);
    /// Root Complex Event Collector.
    pub const EVENT_COLLECTOR: Self = Self(0xa);

    /// Whether the function ends a link, so that [`integrate`] applies.
    #[must_use]
    pub fn is_endpoint(self) -> bool {
        matches!(self, Self::ENDPOINT | Self::LEGACY_ENDPOINT)
    }
}

/// The Device/Port Type of the PCI Express capability at `offset` of `config`.
#[must_use]
pub fn port_type(config: &[u8], offset: u16) -> Option<PortType> {
    let flags = header::word(config, offset.checked_add(CAPABILITIES)?)?;
    let [port_type, _] = ((flags >> PORT_TYPE_SHIFT) & PORT_TYPE).to_le_bytes();
    Some(PortType(port_type))
}

/// Whether the function with the PCI Express capability at `offset` of `config` has FLR.
#[must_use]
pub fn flr_capable(config: &[u8], offset: u16) -> bool {
    let capabilities = offset.checked_add(DEVICE_CAPABILITIES);
    let capabilities = capabilities.and_then(|at| header::dword(config, at));
    capabilities.is_some_and(|value| value & FLR_CAPABLE != 0)
}

/// The patches that show the endpoint whose PCI Express capability is at `offset` of `config` as a
/// Root Complex Integrated Endpoint: no link, no slot, none of the messages (LTR, OBFF) that the link
/// partner would take. None for a function that is no endpoint of a link.
#[must_use]
pub fn integrate(config: &[u8], offset: u16) -> Vec<ConfigPatch> {
    let flags = header::word(config, offset.saturating_add(CAPABILITIES));
    let (Some(flags), Some(kind)) = (flags, port_type(config, offset)) else {
        return Vec::new();
    };
    if !kind.is_endpoint() {
        return Vec::new();
    }
    let typed = u32::from(PORT_TYPE << PORT_TYPE_SHIFT | SLOT_IMPLEMENTED) << 16;
    let integrated = u32::from(PortType::INTEGRATED_ENDPOINT.0) << (16 + PORT_TYPE_SHIFT);
    let mut patches = vec![
        ConfigPatch::dword(offset, typed, integrated),
        ConfigPatch::dword(offset + DEVICE_CAPABILITIES, SLOT_POWER_LIMIT, 0),
        ConfigPatch::dword(offset + LINK_CAPABILITIES, u32::MAX, 0),
        ConfigPatch::dword(offset + LINK_CONTROL, u32::MAX, 0),
    ];
    // A version 1 capability of an endpoint ends here: what follows belongs to another one.
    if flags & VERSION >= 2 {
        let absent = [
            SLOT_CAPABILITIES,
            SLOT_CONTROL,
            ROOT_CONTROL,
            ROOT_STATUS,
            LINK_CAPABILITIES_2,
            LINK_CONTROL_2,
            SLOT_CAPABILITIES_2,
            SLOT_CONTROL_2,
        ];
        patches.extend(absent.map(|at| ConfigPatch::dword(offset + at, u32::MAX, 0)));
        let supported = LTR_SUPPORTED | OBFF_SUPPORTED;
        let enabled = LTR_ENABLE | OBFF_ENABLE;
        patches.push(ConfigPatch::dword(
            offset + DEVICE_CAPABILITIES_2,
            supported,
            0,
        ));
        patches.push(ConfigPatch::dword(offset + DEVICE_CONTROL_2, enabled, 0));
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint's capability at 0x10 with every other bit set.
    fn endpoint(version: u8) -> Vec<u8> {
        let mut config = vec![0xff; 0x10 + usize::from(LEN_V2) + 4];
        config[0x10..0x14].copy_from_slice(&[0x10, 0x70, version, 0x01]);
        config
    }

    fn integrated(config: &[u8]) -> Vec<u8> {
        let mut seen = config.to_vec();
        for patch in integrate(config, 0x10) {
            patch.apply(&mut seen);
        }
        seen
    }

    #[test]
    fn an_endpoint_becomes_a_root_complex_integrated_endpoint() {
        let seen = integrated(&endpoint(2));
        assert_eq!(port_type(&seen, 0x10), Some(PortType::INTEGRATED_ENDPOINT));
        // Id, next pointer and version stay; Slot Implemented goes.
        assert_eq!(seen[0x10..0x14], [0x10, 0x70, 0x92, 0x00]);
        let at = |register: u16| header::dword(&seen, 0x10 + register).unwrap();
        for register in [
            LINK_CAPABILITIES,
            LINK_CONTROL,
            SLOT_CAPABILITIES,
            SLOT_CONTROL,
            ROOT_CONTROL,
            ROOT_STATUS,
            LINK_CAPABILITIES_2,
            LINK_CONTROL_2,
            SLOT_CAPABILITIES_2,
            SLOT_CONTROL_2,
        ] {
            assert_eq!(at(register), 0, "{register:#x}");
        }
        assert_eq!(at(DEVICE_CONTROL), u32::MAX);
        assert_eq!(at(DEVICE_CAPABILITIES_2) & LTR_SUPPORTED, 0);
        assert_eq!(at(DEVICE_CONTROL_2) & LTR_ENABLE, 0);
        assert_eq!(at(LEN_V2), u32::MAX);
    }

    #[test]
    fn a_version_1_capability_ends_before_the_slot_registers() {
        let seen = integrated(&endpoint(1));
        assert_eq!(port_type(&seen, 0x10), Some(PortType::INTEGRATED_ENDPOINT));
        assert_eq!(header::dword(&seen, 0x10 + LINK_CONTROL), Some(0));
        let behind = 0x10 + usize::from(SLOT_CAPABILITIES);
        assert!(seen[behind..].iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn what_is_no_endpoint_of_a_link_stays_what_it_is() {
        for kind in [
            PortType::ROOT_PORT,
            PortType::INTEGRATED_ENDPOINT,
            PortType::PCI_BRIDGE,
        ] {
            let mut config = endpoint(2);
            config[0x12] = 2 | kind.0 << 4;
            assert_eq!(integrate(&config, 0x10), []);
        }
        assert_eq!(integrate(&[0x10, 0, 2], 0), []);
        assert_eq!(integrate(&endpoint(2), u16::MAX), []);
    }

    #[test]
    fn flr_is_told_by_device_capabilities() {
        let mut config = endpoint(2);
        assert!(flr_capable(&config, 0x10));
        config[0x17] &= !0x10;
        assert!(!flr_capable(&config, 0x10));
        assert!(!flr_capable(&config, u16::MAX - 1));
    }
}
