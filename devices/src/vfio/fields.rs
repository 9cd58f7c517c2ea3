//! What of configuration space is not, or not only, the device's: the one table of it.
//!
//! The rows of a plan point into it, `ferry run -v` prints what of it applies to a device, and docs/devices.md has it whole,
//! with the reasons (a test compares).

use crate::pci::capability::{CapabilityId, ExtendedCapabilityId};
use std::fmt;

/// Who answers for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The device.
    Forwarded,
    /// The device; Ferry follows what is written.
    Followed,
    /// Ferry.
    Virtual,
    /// A constant.
    Fixed,
    /// A constant in some bits, the device in the others.
    Patched,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarded => "forwarded",
            Self::Followed => "followed",
            Self::Virtual => "virtual",
            Self::Fixed => "fixed",
            Self::Patched => "patched",
        })
    }
}

/// A field, or several that are treated alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) answer: Answer,
    /// What the guest sees, and why.
    pub(super) sees: &'static str,
}

const fn field(name: &'static str, answer: Answer, sees: &'static str) -> Field {
    Field { name, answer, sees }
}

pub(super) static HEADER_TYPE: Field = field(
    "Header Type",
    Answer::Fixed,
    "layout 0; the multi-function bit follows the guest's slot, since the host's neighbours are not the guest's",
);
pub(super) static BARS: Field = field(
    "BARs 0 to 5",
    Answer::Virtual,
    "guest addresses, with the real size, width and prefetchability",
);
pub(super) static ROM_SHOWN: Field = field(
    "Expansion ROM, shown",
    Answer::Virtual,
    "a guest address and the enable bit, as a BAR",
);
pub(super) static ROM_HIDDEN: Field = field(
    "Expansion ROM, hidden",
    Answer::Fixed,
    "0: `rom=off`, or there is none that can be read",
);
pub(super) static INTERRUPT_LINE: Field = field(
    "Interrupt Line",
    Answer::Virtual,
    "the guest's own notes, which mean nothing to the host",
);
pub(super) static INTERRUPT_PIN: Field = field(
    "Interrupt Pin",
    Answer::Fixed,
    "INTA# if the device has INTx and the host can give it, else none; the pins of a slot are wired as one",
);
pub(super) static MSI: Field = field(
    "MSI capability",
    Answer::Virtual,
    "messages, masks and pending bits are the guest's; what the host arms is Ferry's matter",
);
pub(super) static MSI_X: Field = field(
    "MSI-X Message Control",
    Answer::Virtual,
    "Enable and Function Mask are the guest's; table size, BIRs and offsets are the device's",
);
pub(super) static PCI_EXPRESS: Field = field(
    "PCI Express capability",
    Answer::Patched,
    "a Root Complex Integrated Endpoint, as there is no port above it on bus 0: link, slot and root registers, slot power \
     limit, LTR and OBFF read as 0",
);
pub(super) static CHAIN: Field = field(
    "Capability chain",
    Answer::Patched,
    "leads around what is hidden; one that was broken or circular ends properly; Status says so if nothing is left",
);
pub(super) static EXTENDED_CHAIN: Field = field(
    "Extended capability chain",
    Answer::Patched,
    "leads around what is hidden; one that comes first is a null capability instead, since the chain starts there",
);

// Fields that no row names, because they are read from the device and written to it.
pub(super) static COMMAND: Field = field(
    "Command",
    Answer::Followed,
    "Memory and I/O Space decide what is mapped, Interrupt Disable whether INTx is wired, and the first Bus Master Enable \
     waits until guest RAM is mapped for DMA. 0 after power-on, although the kernel enables decoding as it opens the device",
);
pub(super) static POWER: Field = field(
    "Power Management capability",
    Answer::Followed,
    "outside D0 the BARs are unmapped, back in D0 they are mapped again",
);
pub(super) static FLR: Field = field(
    "Initiate FLR (PCI Express, Advanced Features)",
    Answer::Followed,
    "the function is reset by vfio-pci, and Ferry's picture with it",
);
pub(super) static REST: Field = field(
    "All else",
    Answer::Forwarded,
    "vendor, device, class and subsystem ids are the real ones, so the real driver binds; vfio-pci keeps its own guard over \
     what would harm the host",
);

/// All fields, in the order of the specifications.
#[cfg(test)]
const FIELDS: [&Field; 15] = [
    &COMMAND,
    &HEADER_TYPE,
    &BARS,
    &ROM_SHOWN,
    &ROM_HIDDEN,
    &INTERRUPT_LINE,
    &INTERRUPT_PIN,
    &CHAIN,
    &POWER,
    &MSI,
    &MSI_X,
    &PCI_EXPRESS,
    &FLR,
    &EXTENDED_CHAIN,
    &REST,
];

/// A capability that a guest may not get to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HiddenCapability {
    id: Id,
    /// When it is hidden, and why.
    pub(super) reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    Standard(CapabilityId),
    Extended(ExtendedCapabilityId),
}

impl fmt::Display for HiddenCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Id::Standard(id) => id.fmt(f),
            Id::Extended(id) => id.fmt(f),
        }
    }
}

const fn standard(id: CapabilityId, reason: &'static str) -> HiddenCapability {
    HiddenCapability {
        id: Id::Standard(id),
        reason,
    }
}

const fn extended(id: ExtendedCapabilityId, reason: &'static str) -> HiddenCapability {
    HiddenCapability {
        id: Id::Extended(id),
        reason,
    }
}

const MAKES_FUNCTIONS: &str = "makes functions, which only the host may";
const CHANGES_BARS: &str = "changes the size of what is mapped, and the host's address space";

pub(super) static NO_MSI: HiddenCapability = standard(
    CapabilityId::MSI,
    "if the host offers no MSI vectors, or the registers run past byte 255: it could not work",
);
pub(super) static NO_MSI_X: HiddenCapability = standard(
    CapabilityId::MSI_X,
    "if table or PBA lie outside their BARs, or the host offers fewer vectors than the table has: it could not work",
);
pub(super) static ENHANCED_ALLOCATION: HiddenCapability = standard(
    CapabilityId::ENHANCED_ALLOCATION,
    "its BARs are where the host has them",
);

/// Extended capabilities that no guest sees.
static EXTENDED: [HiddenCapability; 5] = [
    extended(
        ExtendedCapabilityId::ARI,
        "leads to functions beyond 7, of which the guest's bus has none",
    ),
    extended(ExtendedCapabilityId::SR_IOV, MAKES_FUNCTIONS),
    extended(ExtendedCapabilityId::MR_IOV, MAKES_FUNCTIONS),
    extended(ExtendedCapabilityId::RESIZABLE_BAR, CHANGES_BARS),
    extended(ExtendedCapabilityId::VF_RESIZABLE_BAR, CHANGES_BARS),
];

/// Whether no guest sees extended capability `id`, and why.
pub(super) fn hidden_extended(id: ExtendedCapabilityId) -> Option<&'static HiddenCapability> {
    EXTENDED.iter().find(|hidden| hidden.id == Id::Extended(id))
}

/// The tables of the user guide: fields, then hidden capabilities.
#[cfg(test)]
pub(super) fn guide() -> [String; 2] {
    let fields = FIELDS.map(|field| {
        let Field { name, answer, sees } = field;
        format!("| {name} | {answer} | {sees} |\n")
    });
    let always = [&NO_MSI, &NO_MSI_X, &ENHANCED_ALLOCATION].into_iter();
    let hidden: Vec<_> = always
        .chain(&EXTENDED)
        .map(|hidden| format!("| {hidden} | {} |\n", hidden.reason))
        .collect();
    let head = "| Field | Kind | What the guest sees, and why |\n|---|---|---|\n";
    let hidden_head = "| Capability | Why |\n|---|---|\n";
    [
        format!("{head}{}", fields.concat()),
        format!("{hidden_head}{}", hidden.concat()),
    ]
}
