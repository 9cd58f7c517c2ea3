//! How a guest hears of slots that change while it runs, and of its power button: the generic event device and the slots of
//! bus 0 (ACPI specification 6.4, 5.6.9 for the event device, 4.8.2.2.1.2 for the button, 6.3 for `_EJ0`, 6.1.1 for `_ADR`,
//! 6.1.11 for `_SUN`).
//!
//! The registers are those of `devices::acpi`.

use acpi_tables::aml::{
    And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Interrupt, Local, Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path,
    ResourceTemplate, Store,
};
use acpi_tables::{Aml, AmlSink};

use super::Verbatim;
use crate::x86_64::layout;

/// The method of the host bridge that tells the kernel which slots change.
const SCAN: &str = "PCNT";
/// Slots that have been filled; reading clears.
const FILLED: [u8; 4] = *b"PCIU";
/// Slots that the guest is to eject; reading clears.
const EJECT_REQUESTS: [u8; 4] = *b"PCID";
/// Takes the slots whose bits are set away.
const EJECT: [u8; 4] = *b"PCEJ";

/// Notification of a slot that is to be looked into.
const NOTIFY_DEVICE_CHECK: u8 = 1;
/// Notification of a device that it is to be ejected.
const NOTIFY_EJECT_REQUEST: u8 = 3;

/// Notification of a button that it was pressed.
const NOTIFY_PRESSED: u8 = 0x80;

/// Slot 0 is the host bridge's.
const SLOTS: std::ops::Range<u8> = 1..32;

const REGISTER_BITS: usize = 32;

fn field(name: [u8; 4]) -> Path {
    Path::new(&String::from_utf8_lossy(&name))
}

/// The event device: one level-triggered interrupt, and a register that says what happened.
pub(super) struct GenericEventDevice;

impl Aml for GenericEventDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (consumer, edge, active_low, shared) = (true, false, false, false);
        let interrupt = Interrupt::new(consumer, edge, active_low, shared, layout::GED_GSI);
        let (port, len) = (layout::GED_PORT, layout::GED_PORTS);
        let register = OpRegion::new("GEDR".into(), OpRegionSpace::SystemIO, &port, &len);
        let fields = Field::new(
            "GEDR".into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*b"EVTS", 8)],
        );
        let (happened, tested) = (Local(0), Local(1));
        let events = Path::new("EVTS");
        Device::new(
            "GED_".into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_UID".into(), &0u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
                &register,
                &fields,
                &Method::new(
                    "_EVT".into(),
                    1,
                    true,
                    vec![
                        &Store::new(&happened, &events),
                        &If::new(
                            &And::new(&tested, &happened, &layout::GED_EVENT_PCI_HOTPLUG),
                            vec![&MethodCall::new(
                                Path::new(&format!("\\_SB_.PCI0.{SCAN}")),
                                vec![],
                            )],
                        ),
                        &If::new(
                            &And::new(&tested, &happened, &layout::GED_EVENT_POWER_BUTTON),
                            vec![&Notify::new(&Path::new(PowerButton::PATH), &NOTIFY_PRESSED)],
                        ),
                    ],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The power button, a device of its own as a hardware-reduced platform has it.
pub(super) struct PowerButton;

impl PowerButton {
    const PATH: &str = "\\_SB_.PWRB";
}

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            "PWRB".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
                &Name::new("_UID".into(), &0u8),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The part of the host bridge's scope that makes its slots removable.
pub(super) struct Slots;

impl Aml for Slots {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (port, len) = (layout::PCI_HOTPLUG_PORT, layout::PCI_HOTPLUG_PORTS);
        OpRegion::new("PCIH".into(), OpRegionSpace::SystemIO, &port, &len).to_aml_bytes(sink);
        Field::new(
            "PCIH".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![
                FieldEntry::Named(FILLED, REGISTER_BITS),
                FieldEntry::Named(EJECT_REQUESTS, REGISTER_BITS),
                FieldEntry::Named(EJECT, REGISTER_BITS),
            ],
        )
        .to_aml_bytes(sink);
        for slot in SLOTS {
            Slot(slot).to_aml_bytes(sink);
        }
        scan(sink);
    }
}

/// A slot of bus 0, whether a device is in it or not: configuration space says that.
struct Slot(u8);

impl Slot {
    fn path(&self) -> Path {
        Path::new(&format!("S{:03X}", self.0))
    }

    fn bit(&self) -> u32 {
        1 << self.0
    }
}

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let address = u32::from(self.0) << 16;
        Device::new(
            self.path(),
            vec![
                &Name::new("_ADR".into(), &address),
                &Name::new("_SUN".into(), &self.0),
                &Method::new(
                    "_EJ0".into(),
                    1,
                    true,
                    vec![&Store::new(&field(EJECT), &self.bit())],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The method that reads the registers and notifies the slots they name: those to be ejected first, since a slot is filled
/// again only after it was emptied.
fn scan(sink: &mut dyn AmlSink) {
    let (named, tested) = (Local(0), Local(1));
    let mut body = Vec::new();
    for (register, notification) in [
        (EJECT_REQUESTS, NOTIFY_EJECT_REQUEST),
        (FILLED, NOTIFY_DEVICE_CHECK),
    ] {
        Store::new(&named, &field(register)).to_aml_bytes(&mut body);
        for slot in SLOTS.map(Slot) {
            let path = slot.path();
            If::new(
                &And::new(&tested, &named, &slot.bit()),
                vec![&Notify::new(&path, &notification)],
            )
            .to_aml_bytes(&mut body);
        }
    }
    Method::new(SCAN.into(), 0, true, vec![&Verbatim(body)]).to_aml_bytes(sink);
}
