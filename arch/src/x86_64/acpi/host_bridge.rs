//! `PCI0`: the PCI Express host bridge with its windows, interrupt wires and `_OSC`.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    If, Local, Method, Name, NotEqual, Or, Package, PackageBuilder, Path, ResourceTemplate, Return,
    Store, Uuid,
};
use acpi_tables::{Aml, AmlSink};

use super::dsdt::ports;
use super::hotplug::Slots;
use super::{AcpiError, Verbatim};
use crate::platform::{PciWindow, PlatformDescription};
use crate::x86_64::layout;

/// The UUID that PCI Express host bridges answer `_OSC` for.
const OSC_PCI_EXPRESS: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
const OSC_REVISION: u8 = 1;
/// Bits of the first capabilities DWORD.
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;
const OSC_CAPABILITIES_MASKED: u8 = 1 << 4;
/// Bits of the third: what the kernel may control.
const OSC_CONTROL_PME: u32 = 1 << 2;
const OSC_CONTROL_AER: u32 = 1 << 3;
const OSC_CONTROL_CAPABILITY_STRUCTURE: u32 = 1 << 4;
const OSC_CONTROL_LTR: u32 = 1 << 5;
/// Everything but hotplug, native and SHPC, which is ACPI's here.
const OSC_GRANTED: u32 =
    OSC_CONTROL_PME | OSC_CONTROL_AER | OSC_CONTROL_CAPABILITY_STRUCTURE | OSC_CONTROL_LTR;

const SLOTS: u8 = 32;
const PINS: u8 = 4;
/// In a `_PRT` address: any function of the slot.
const ANY_FUNCTION: u32 = 0xFFFF;

/// The host bridge, its windows checked.
pub(super) struct HostBridge {
    io: AddressSpace<u16>,
    memory_32: AddressSpace<u32>,
    memory_64: Option<AddressSpace<u64>>,
}

impl HostBridge {
    pub(super) fn new(platform: &PlatformDescription) -> Result<Self, AcpiError> {
        let (io_base, io_len) = platform.pci_window_io;
        let io = PciWindow {
            base: io_base.into(),
            len: io_len.into(),
        };
        let (io_first, io_last) = bounds(&io, "16-bit I/O space")?;
        let (first_32, last_32) = bounds(&platform.pci_window_32, "32-bit memory")?;
        let memory_64 = match platform.pci_window_64 {
            PciWindow { len: 0, .. } => None,
            window => {
                let (first, last) = bounds(&window, "64-bit memory")?;
                Some(AddressSpace::new_memory(
                    AddressSpaceCacheable::NotCacheable,
                    true,
                    first,
                    last,
                    None,
                ))
            }
        };
        Ok(Self {
            io: AddressSpace::new_io(io_first, io_last, None),
            memory_32: AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                first_32,
                last_32,
                None,
            ),
            memory_64,
        })
    }

    fn resources(&self, sink: &mut dyn AmlSink) {
        let buses = AddressSpace::<u16>::new_bus_number(0, layout::PCIE_ECAM_LAST_BUS.into());
        let config = ports(layout::PCI_CONFIG_ADDRESS_PORT, layout::PCI_CONFIG_PORTS);
        let mut resources: Vec<&dyn Aml> = vec![&buses, &config, &self.io, &self.memory_32];
        if let Some(memory_64) = &self.memory_64 {
            resources.push(memory_64);
        }
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)).to_aml_bytes(sink);
    }
}

impl Aml for HostBridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut resources = Vec::new();
        self.resources(&mut resources);
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &0u8),
                &Name::new("_SEG".into(), &0u8),
                &Name::new("_BBN".into(), &0u8),
                &Name::new("_CCA".into(), &1u8),
                &Verbatim(resources),
                &Name::new("_PRT".into(), &interrupt_routing()),
                &OperatingSystemCapabilities,
                &Slots,
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// First and last address of a window, in the width of its descriptor.
fn bounds<T: TryFrom<u64>>(window: &PciWindow, space: &'static str) -> Result<(T, T), AcpiError> {
    let error = AcpiError::PciWindow {
        base: window.base,
        len: window.len,
        space,
    };
    let last = window
        .len
        .checked_sub(1)
        .and_then(|len| window.base.checked_add(len))
        .ok_or(error)?;
    // A descriptor's length field must hold the length, too, so the window may not be the whole space.
    T::try_from(window.len).map_err(|_| error)?;
    Ok((
        T::try_from(window.base).map_err(|_| error)?,
        T::try_from(last).map_err(|_| error)?,
    ))
}

/// `_PRT`: every pin of every slot, wired to its GSI without a link device.
fn interrupt_routing() -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for slot in 0..SLOTS {
        for pin in 0..PINS {
            let address = (u32::from(slot) << 16) | ANY_FUNCTION;
            let gsi = layout::intx_gsi(slot, pin);
            routes.add_element(&Package::new(vec![&address, &pin, &0u8, &gsi]));
        }
    }
    routes
}

/// `_OSC`: gives the kernel native control of PCI Express, except for hotplug.
struct OperatingSystemCapabilities;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (uuid, revision, capabilities, granted) = (Arg(0), Arg(1), Arg(3), Local(0));
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        Method::new(
            "_OSC".into(),
            4,
            // It creates named fields, so two calls must not overlap.
            true,
            vec![
                &CreateDWordField::new(&status, &capabilities, &0u8),
                &If::new(
                    &Equal::new(&uuid, &Uuid::new(OSC_PCI_EXPRESS)),
                    vec![
                        &CreateDWordField::new(&control, &capabilities, &8u8),
                        &And::new(&granted, &control, &OSC_GRANTED),
                        &If::new(
                            &NotEqual::new(&revision, &OSC_REVISION),
                            vec![&Or::new(&status, &status, &OSC_UNKNOWN_REVISION)],
                        ),
                        &If::new(
                            &NotEqual::new(&control, &granted),
                            vec![&Or::new(&status, &status, &OSC_CAPABILITIES_MASKED)],
                        ),
                        &Store::new(&control, &granted),
                    ],
                ),
                &Else::new(vec![&Or::new(&status, &status, &OSC_UNKNOWN_UUID)]),
                &Return::new(&capabilities),
            ],
        )
        .to_aml_bytes(sink);
    }
}
