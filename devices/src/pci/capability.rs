//! Capability chains (PCI 3.0 section 6.7, PCI Express 5.0 section 7.6): ids, bounded walks, and
//! hiding by relinking.

use super::header::{self, Status};
use std::fmt;

/// A Capability ID (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapabilityId(pub u8);

/// An Extended Capability ID (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCapabilityId(pub u16);

/// Defines the ids of one space as associated constants, with the names that messages use.
macro_rules! ids {
    ($space:ident { $($(#[$doc:meta])* $name:ident = $id:literal $text:literal;)* }) => {
        impl $space {
            $($(#[$doc])* pub const $name: Self = Self($id);)*

            /// The specification's name for the capability.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($id => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $space {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "capability {:#04x}", self.0),
                }
            }
        }
    };
}

ids!(CapabilityId {
    /// A capability with no registers.
    NULL = 0x00 "Null";
    /// Power Management.
    POWER_MANAGEMENT = 0x01 "Power Management";
    /// Accelerated Graphics Port.
    AGP = 0x02 "AGP";
    /// Vital Product Data.
    VPD = 0x03 "Vital Product Data";
    /// Slot Identification.
    SLOT_ID = 0x04 "Slot Identification";
    /// Message Signalled Interrupts.
    MSI = 0x05 "MSI";
    /// CompactPCI hot swap.
    COMPACT_PCI_HOT_SWAP = 0x06 "CompactPCI Hot Swap";
    /// PCI-X.
    PCI_X = 0x07 "PCI-X";
    /// HyperTransport.
    HYPER_TRANSPORT = 0x08 "HyperTransport";
    /// Vendor specific.
    VENDOR = 0x09 "Vendor Specific";
    /// Debug port.
    DEBUG_PORT = 0x0a "Debug Port";
    /// CompactPCI central resource control.
    COMPACT_PCI_RESOURCE = 0x0b "CompactPCI Resource Control";
    /// Standard hot-plug controller.
    HOT_PLUG = 0x0c "Hot-Plug";
    /// Subsystem ids of a bridge.
    BRIDGE_SUBSYSTEM = 0x0d "Bridge Subsystem Vendor ID";
    /// AGP 8x.
    AGP_8X = 0x0e "AGP 8x";
    /// Secure device.
    SECURE_DEVICE = 0x0f "Secure Device";
    /// PCI Express.
    PCI_EXPRESS = 0x10 "PCI Express";
    /// MSI-X.
    MSI_X = 0x11 "MSI-X";
    /// Serial ATA data and index configuration.
    SATA = 0x12 "SATA Configuration";
    /// Advanced Features: FLR of conventional functions.
    ADVANCED_FEATURES = 0x13 "Advanced Features";
    /// Enhanced Allocation: BARs with fixed addresses.
    ENHANCED_ALLOCATION = 0x14 "Enhanced Allocation";
    /// Flattening Portal Bridge.
    FLATTENING_PORTAL_BRIDGE = 0x15 "Flattening Portal Bridge";
});

ids!(ExtendedCapabilityId {
    /// A capability with no registers.
    NULL = 0x0000 "Null";
    /// Advanced Error Reporting.
    AER = 0x0001 "Advanced Error Reporting";
    /// Virtual Channel.
    VIRTUAL_CHANNEL = 0x0002 "Virtual Channel";
    /// Device Serial Number.
    DEVICE_SERIAL_NUMBER = 0x0003 "Device Serial Number";
    /// Power Budgeting.
    POWER_BUDGETING = 0x0004 "Power Budgeting";
    /// Root Complex Link Declaration.
    RC_LINK_DECLARATION = 0x0005 "Root Complex Link Declaration";
    /// Root Complex Internal Link Control.
    RC_INTERNAL_LINK = 0x0006 "Root Complex Internal Link Control";
    /// Root Complex Event Collector Endpoint Association.
    RC_EVENT_COLLECTOR = 0x0007 "Root Complex Event Collector";
    /// Multi-Function Virtual Channel.
    MULTI_FUNCTION_VC = 0x0008 "Multi-Function Virtual Channel";
    /// Virtual Channel of a function that also has Multi-Function Virtual Channel.
    VIRTUAL_CHANNEL_MFVC = 0x0009 "Virtual Channel (MFVC)";
    /// Root Complex Register Block.
    RC_REGISTER_BLOCK = 0x000a "Root Complex Register Block";
    /// Vendor specific.
    VENDOR = 0x000b "Vendor Specific";
    /// Access Control Services.
    ACS = 0x000d "Access Control Services";
    /// Alternative Routing-ID Interpretation.
    ARI = 0x000e "Alternative Routing-ID";
    /// Address Translation Services.
    ATS = 0x000f "Address Translation Services";
    /// Single Root I/O Virtualization.
    SR_IOV = 0x0010 "SR-IOV";
    /// Multi-Root I/O Virtualization.
    MR_IOV = 0x0011 "MR-IOV";
    /// Multicast.
    MULTICAST = 0x0012 "Multicast";
    /// Page Request Interface.
    PAGE_REQUEST = 0x0013 "Page Request Interface";
    /// Resizable BAR.
    RESIZABLE_BAR = 0x0015 "Resizable BAR";
    /// Dynamic Power Allocation.
    DYNAMIC_POWER = 0x0016 "Dynamic Power Allocation";
    /// TLP Processing Hints requester.
    TPH_REQUESTER = 0x0017 "TPH Requester";
    /// Latency Tolerance Reporting.
    LTR = 0x0018 "Latency Tolerance Reporting";
    /// Secondary PCI Express.
    SECONDARY_PCI_EXPRESS = 0x0019 "Secondary PCI Express";
    /// Process Address Space ID.
    PASID = 0x001b "PASID";
    /// Downstream Port Containment.
    DPC = 0x001d "Downstream Port Containment";
    /// L1 PM Substates.
    L1_SUBSTATES = 0x001e "L1 PM Substates";
    /// Precision Time Measurement.
    PTM = 0x001f "Precision Time Measurement";
    /// Readiness Time Reporting.
    READINESS_TIME = 0x0022 "Readiness Time Reporting";
    /// Designated vendor specific (CXL).
    DESIGNATED_VENDOR = 0x0023 "Designated Vendor Specific";
    /// Resizable BAR of virtual functions.
    VF_RESIZABLE_BAR = 0x0024 "VF Resizable BAR";
    /// Data Link Feature.
    DATA_LINK_FEATURE = 0x0025 "Data Link Feature";
    /// Physical Layer 16.0 GT/s.
    PHYSICAL_LAYER_16 = 0x0026 "Physical Layer 16.0 GT/s";
    /// Lane Margining at the Receiver.
    LANE_MARGINING = 0x0027 "Lane Margining";
    /// Physical Layer 32.0 GT/s.
    PHYSICAL_LAYER_32 = 0x002a "Physical Layer 32.0 GT/s";
    /// Data Object Exchange.
    DATA_OBJECT_EXCHANGE = 0x002e "Data Object Exchange";
});

/// A capability and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its id.
    pub id: CapabilityId,
    /// Offset of its header, a multiple of 4 in 0x40..0x100.
    pub offset: u16,
}

/// An extended capability and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Its id.
    pub id: ExtendedCapabilityId,
    /// Capability Version.
    pub version: u8,
    /// Offset of its header, a multiple of 4 in 0x100..0x1000.
    pub offset: u16,
}

/// First byte of the extended chain.
pub const EXTENDED_BASE: u16 = 0x100;
/// First byte after configuration space.
const SPACE_END: u16 = super::ConfigOffset::SPACE;
/// Capability header: offset of the Next Pointer byte.
const NEXT_POINTER: u16 = 1;
/// The bits of a pointer that count; the low two are reserved.
const POINTER_BITS: u16 = !3;
/// A header that reads so belongs to no capability: the function is gone.
const ABSENT_ID: u8 = 0xff;
/// Extended header: Capability ID in the low half.
const EXTENDED_ID_BITS: u32 = 0x0000_ffff;
/// Extended header: Capability Version above it.
const EXTENDED_VERSION_SHIFT: u32 = 16;
/// Extended header: Capability Version, width.
const EXTENDED_VERSION_BITS: u32 = 0xf;
/// Extended header: Next Capability Offset in the upper 12 bits.
const EXTENDED_NEXT_SHIFT: u32 = 20;

/// The dwords that a walk has seen, so that no chain can make it run in a circle.
struct Visited([u64; 16]);

impl Visited {
    fn new() -> Self {
        Self([0; 16])
    }

    /// Whether the dword at `offset` is seen for the first time.
    fn first_visit(&mut self, offset: u16) -> bool {
        let dword = usize::from(offset / 4);
        let Some(word) = self.0.get_mut(dword / 64) else {
            return false;
        };
        let bit = 1 << (dword % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}

/// Walks the capability chain of `config`, a function's configuration space from its first byte.
///
/// Ends at a pointer below 0x40, at the end of `config`, at an id of 0xff, or at a capability that
/// was seen before.
pub fn capabilities(config: &[u8]) -> impl Iterator<Item = Capability> {
    let status = header::word(config, header::STATUS).unwrap_or(0);
    let listed = Status::from_bits_retain(status).contains(Status::CAPABILITIES_LIST);
    let pointer = byte(config, header::CAPABILITIES_POINTER).filter(|_| listed);
    let mut next = u16::from(pointer.unwrap_or(0)) & POINTER_BITS;
    let mut visited = Visited::new();
    std::iter::from_fn(move || {
        let offset = next;
        if offset < header::END || !visited.first_visit(offset) {
            return None;
        }
        let id = byte(config, offset).filter(|id| *id != ABSENT_ID)?;
        next = u16::from(byte(config, offset + NEXT_POINTER)?) & POINTER_BITS;
        Some(Capability {
            id: CapabilityId(id),
            offset,
        })
    })
}

/// Walks the extended capability chain of `config`, a function's configuration space from its first
/// byte.
///
/// Ends at a pointer below 0x100, at the end of `config`, at a header of all zeroes or all ones, or
/// at a capability that was seen before.
pub fn extended_capabilities(config: &[u8]) -> impl Iterator<Item = ExtendedCapability> {
    let mut next = EXTENDED_BASE;
    let mut visited = Visited::new();
    std::iter::from_fn(move || {
        let offset = next;
        if !(EXTENDED_BASE..SPACE_END).contains(&offset) || !visited.first_visit(offset) {
            return None;
        }
        let value = header::dword(config, offset).filter(|v| *v != 0 && *v != u32::MAX)?;
        let [low, high, version_and_next, _] = value.to_le_bytes();
        next = extended_next(value);
        Some(ExtendedCapability {
            id: ExtendedCapabilityId(u16::from_le_bytes([low, high])),
            version: version_and_next & 0xf,
            offset,
        })
    })
}

/// The first capability with this id.
#[must_use]
pub fn find(config: &[u8], id: CapabilityId) -> Option<Capability> {
    capabilities(config).find(|c| c.id == id)
}

/// The first extended capability with this id.
#[must_use]
pub fn find_extended(config: &[u8], id: ExtendedCapabilityId) -> Option<ExtendedCapability> {
    extended_capabilities(config).find(|c| c.id == id)
}

fn byte(config: &[u8], offset: u16) -> Option<u8> {
    config.get(usize::from(offset)).copied()
}

fn extended_next(value: u32) -> u16 {
    // 12 bits always fit.
    u16::try_from(value >> EXTENDED_NEXT_SHIFT).unwrap_or(0) & POINTER_BITS
}

/// Bits of one dword of configuration space that a guest sees otherwise than the device has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigPatch {
    /// Offset of the dword, a multiple of 4.
    pub offset: u16,
    /// The bits that are replaced.
    pub mask: u32,
    /// What replaces them; no bit outside `mask` is set.
    pub value: u32,
}

impl ConfigPatch {
    /// Replaces `mask` by `value` in the dword at `offset` rounded down.
    #[must_use]
    pub fn dword(offset: u16, mask: u32, value: u32) -> Self {
        Self {
            offset: offset & POINTER_BITS,
            mask,
            value: value & mask,
        }
    }

    /// Replaces the byte at `offset`.
    #[must_use]
    pub fn byte(offset: u16, value: u8) -> Self {
        let shift = u32::from(offset & !POINTER_BITS) * 8;
        Self::dword(offset, 0xff << shift, u32::from(value) << shift)
    }

    /// `dword` as the guest sees it.
    #[must_use]
    pub fn over(self, dword: u32) -> u32 {
        dword & !self.mask | self.value
    }

    /// Carries the patch out on a copy of configuration space; nothing happens outside it.
    pub fn apply(self, config: &mut [u8]) {
        let start = usize::from(self.offset);
        if let Some(bytes) = config.get_mut(start..start + 4) {
            let old = header::dword(bytes, 0).unwrap_or(0);
            bytes.copy_from_slice(&self.over(old).to_le_bytes());
        }
    }
}

impl fmt::Display for ConfigPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            mask,
            value,
        } = self;
        write!(
            f,
            "config {offset:#05x}: {value:#010x} under mask {mask:#010x}"
        )
    }
}

/// The patches after which the capability chain of `config` is the same without those that `hidden`
/// picks. A chain that ended in a circle or in nothing ends properly then; a well-formed chain of
/// which nothing is hidden needs no patch.
pub fn hide_capabilities(config: &[u8], hidden: impl Fn(Capability) -> bool) -> Vec<ConfigPatch> {
    let status = header::word(config, header::STATUS).unwrap_or(0);
    if !Status::from_bits_retain(status).contains(Status::CAPABILITIES_LIST) {
        return Vec::new();
    }
    let kept: Vec<_> = capabilities(config).filter(|c| !hidden(*c)).collect();
    let mut patches = Vec::new();
    let mut link = header::CAPABILITIES_POINTER;
    let ends = kept.iter().map(|c| c.offset).chain([0]);
    for target in ends {
        let current = u16::from(byte(config, link).unwrap_or(0)) & POINTER_BITS;
        if current != target {
            // Offsets of this chain lie below 0x100.
            let pointer = u8::try_from(target).unwrap_or(0);
            patches.push(ConfigPatch::byte(link, pointer));
        }
        link = target + NEXT_POINTER;
    }
    if kept.is_empty() {
        let listed = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
        patches.push(ConfigPatch::dword(header::STATUS, listed, 0));
    }
    patches
}

/// The patches after which the extended capability chain of `config` is the same without those that
/// `hidden` picks. The first one can't be skipped, since the chain starts there: it becomes a null
/// capability that leads to the rest.
pub fn hide_extended_capabilities(
    config: &[u8],
    hidden: impl Fn(ExtendedCapability) -> bool,
) -> Vec<ConfigPatch> {
    let next_bits = u32::MAX << EXTENDED_NEXT_SHIFT;
    let mut walk = extended_capabilities(config).peekable();
    let Some(head) = walk.peek().copied() else {
        return Vec::new();
    };
    let kept: Vec<_> = walk
        .filter(|c| c.offset == EXTENDED_BASE || !hidden(*c))
        .map(|c| c.offset)
        .collect();
    let mut patches = Vec::new();
    if hidden(head) {
        let nulled = EXTENDED_ID_BITS | EXTENDED_VERSION_BITS << EXTENDED_VERSION_SHIFT;
        patches.push(ConfigPatch::dword(EXTENDED_BASE, nulled, 0));
    }
    let targets = kept.iter().copied().skip(1).chain([0]);
    for (link, target) in kept.iter().copied().zip(targets) {
        let current = header::dword(config, link).map_or(0, extended_next);
        if current != target {
            let next = u32::from(target) << EXTENDED_NEXT_SHIFT;
            patches.push(ConfigPatch::dword(link, next_bits, next));
        }
    }
    patches
}

#[cfg(test)]
mod tests;
