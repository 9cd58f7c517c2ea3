//! What of a function's configuration space goes into a report: what the specifications define, without serial numbers.
//! A register that a vendor has made for itself may hold anything.

use crate::pci::capability::{self, CapabilityId as Id, ExtendedCapabilityId as Extended};
use crate::pci::{header, msi::MsiLayout};

/// A capability's id and pointer, which every walk needs.
const HEADER: u16 = 2;
/// The same of an extended capability.
const EXTENDED_HEADER: u16 = 4;

/// A copy of the same length that has the header, the chains, and of each capability what can be no secret.
pub(super) fn masked(config: &[u8]) -> Vec<u8> {
    let plain = capability::capabilities(config).map(|found| {
        (
            found.offset,
            HEADER.max(length(config, found.id, found.offset)),
        )
    });
    let extended = capability::extended_capabilities(config)
        .map(|found| (found.offset, EXTENDED_HEADER.max(extended_length(found.id))));
    let mut parts: Vec<(u16, u16)> = plain.chain(extended).collect();
    parts.sort_unstable();
    let ends = parts.iter().skip(1).map(|(start, _)| *start);
    let ends: Vec<u16> = ends.chain([u16::MAX]).collect();
    let mut copy = vec![0; config.len()];
    keep(config, &mut copy, 0, header::END);
    for ((start, length), next) in parts.into_iter().zip(ends) {
        // No further than to the next one: a register of that may be a secret.
        keep(
            config,
            &mut copy,
            start,
            start.saturating_add(length).min(next),
        );
    }
    copy
}

fn keep(config: &[u8], copy: &mut [u8], start: u16, end: u16) {
    let range = usize::from(start)..usize::from(end).min(config.len());
    if let (Some(from), Some(to)) = (config.get(range.clone()), copy.get_mut(range)) {
        to.copy_from_slice(from);
    }
}

/// Bytes of a capability that may be told.
fn length(config: &[u8], id: Id, offset: u16) -> u16 {
    const EXPRESS_VERSION: u8 = 0xf;
    match id {
        Id::POWER_MANAGEMENT | Id::PCI_X | Id::BRIDGE_SUBSYSTEM => 8,
        Id::MSI => MsiLayout::parse(config, offset).map_or(0, MsiLayout::len),
        Id::MSI_X => 12,
        Id::ADVANCED_FEATURES => 6,
        // The first version ends with the link's registers.
        Id::PCI_EXPRESS => match config.get(usize::from(offset) + usize::from(HEADER)) {
            Some(low) if low & EXPRESS_VERSION > 1 => 0x3c,
            _ => 0x14,
        },
        // Vital Product Data has a window to the serial number, vendors' own anything.
        _ => 0,
    }
}

/// The same of an extended one.
fn extended_length(id: Extended) -> u16 {
    match id {
        // Without the log of what went wrong, which has data of it.
        Extended::AER => 0x1c,
        Extended::ACS | Extended::ARI | Extended::ATS | Extended::LTR | Extended::PASID => 8,
        Extended::SR_IOV => 0x40,
        Extended::RESIZABLE_BAR | Extended::VF_RESIZABLE_BAR => 0x34,
        Extended::PAGE_REQUEST | Extended::L1_SUBSTATES => 0x10,
        Extended::PTM => 0xc,
        // The Device Serial Number is a MAC address more often than not.
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Power management, VPD, MSI-X and a capability of the vendor's; ACS, serial number, a capability of the vendor's.
    fn config() -> Vec<u8> {
        let mut config = vec![0xee; 4096];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x86, 0x80]);
        put(0x06, &[0x10, 0]);
        put(0x34, &[0x40]);
        put(0x40, &[0x01, 0x48, 3, 0, 8, 0, 0, 0]);
        put(0x48, &[0x03, 0x50]);
        put(0x50, &[0x11, 0x60, 9, 0]);
        put(0x60, &[0x09, 0x00, 0x20]);
        put(0x100, &0x1100_000d_u32.to_le_bytes());
        put(0x110, &0x1200_0003_u32.to_le_bytes());
        put(0x120, &0x0000_000b_u32.to_le_bytes());
        config
    }

    #[test]
    fn only_what_the_specifications_define_is_kept() {
        let config = config();
        let copy = masked(&config);
        assert_eq!(copy.len(), config.len());
        let told = [
            (0, 0x40),
            (0x40, 8),
            (0x48, 2),
            (0x50, 12),
            (0x60, 2),
            (0x100, 8),
            (0x110, 4),
            (0x120, 4),
        ];
        for (at, (byte, old)) in copy.iter().zip(&config).enumerate() {
            let kept = told
                .iter()
                .any(|(start, length)| (*start..start + length).contains(&at));
            assert_eq!(*byte, if kept { *old } else { 0 }, "{at:#x}");
        }
        let ids = |config: &[u8]| {
            let plain: Vec<_> = capability::capabilities(config).collect();
            let extended: Vec<_> = capability::extended_capabilities(config).collect();
            (plain, extended)
        };
        assert_eq!(ids(&copy), ids(&config));
    }

    #[test]
    fn capability_that_is_cut_short_by_the_next_keeps_nothing_of_that() {
        let mut config = config();
        // Vital Product Data inside of what a whole MSI-X capability takes.
        config[0x51] = 0x54;
        config[0x54..0x58].copy_from_slice(&[0x03, 0x60, 0xaa, 0xbb]);
        let copy = masked(&config);
        assert_eq!(
            copy[0x50..0x5c],
            [0x11, 0x54, 9, 0, 0x03, 0x60, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn header_alone_is_kept_as_it_is() {
        let config = vec![0x5a; 64];
        assert_eq!(masked(&config), config);
        assert_eq!(masked(&[1, 2]), [1, 2]);
    }
}
