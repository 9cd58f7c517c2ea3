//! DSDT: the devices a kernel can't discover (ACPI specification 6.4, 6.1 – 6.4; PCI Firmware specification 3.3, 4.5
//! for `_OSC`).

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::host_bridge::HostBridge;
use super::hotplug::{GenericEventDevice, PowerButton};
use super::{AcpiError, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::platform::PlatformDescription;
use crate::x86_64::layout;

/// From revision 2 on integers have 64 bits.
const REVISION: u8 = 2;
/// Length of a table header.
const HEADER_LEN: u32 = 36;

pub(super) fn dsdt(platform: &PlatformDescription) -> Result<Sdt, AcpiError> {
    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let mut aml = Vec::new();
    soft_off(&mut aml);
    let host_bridge = HostBridge::new(platform)?;
    let processors: Vec<Processor> = (0..platform.cpus).map(|uid| Processor { uid }).collect();
    let mut devices: Vec<&dyn Aml> = vec![
        &host_bridge,
        &PowerButton,
        &GenericEventDevice,
        &Motherboard,
        &RealTimeClock,
        &PanicPort,
    ];
    if platform.serial {
        devices.push(&SerialPort);
    }
    devices.extend(processors.iter().map(|processor| processor as &dyn Aml));
    Scope::new("_SB_".into(), devices).to_aml_bytes(&mut aml);
    dsdt.append_slice(&aml);
    Ok(dsdt)
}

/// `\_S5`: the sleep type that, written to the sleep control register, turns the machine off.
fn soft_off(sink: &mut dyn AmlSink) {
    let package = Package::new(vec![&layout::ACPI_SLEEP_TYPE_S5, &0u8, &0u8, &0u8]);
    Name::new("_S5_".into(), &package).to_aml_bytes(sink);
}

/// Keeps ECAM and the ports of the platform's own devices out of the kernel's hands; only with ECAM listed here does
/// the kernel use it.
struct Motherboard;

impl Aml for Motherboard {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ecam = Memory32Fixed::new(
            true,
            dword(layout::PCIE_ECAM_BASE),
            dword(layout::PCIE_ECAM_RESERVED_LEN),
        );
        let power = ports(layout::ACPI_POWER_PORT, layout::ACPI_POWER_PORTS);
        let events = ports(layout::GED_PORT, layout::GED_PORTS);
        let hotplug = ports(layout::PCI_HOTPLUG_PORT, layout::PCI_HOTPLUG_PORTS);
        let debug_exit = ports(layout::DEBUG_EXIT_PORT, 1);
        Device::new(
            "MBRD".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &0u8),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&ecam, &power, &events, &hotplug, &debug_exit]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The CMOS clock, without an interrupt, so that the driver doesn't test for one.
struct RealTimeClock;

impl Aml for RealTimeClock {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let registers = ports(layout::RTC_PORT, layout::RTC_PORTS);
        Device::new(
            "RTC_".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The port by which a guest tells of its panic, under the name that drivers know (QEMU, docs/specs/pvpanic.rst).
struct PanicPort;

impl Aml for PanicPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let port = ports(layout::PVPANIC_PORT, layout::PVPANIC_PORTS);
        // Present, enabled and working, and nothing that a user interface would show.
        let status = 0b1011u8;
        Device::new(
            "PEVT".into(),
            vec![
                &Name::new("_HID".into(), &"QEMU0001"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port])),
                &Name::new("_STA".into(), &status),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// COM1.
struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let registers = ports(layout::COM1_PORT, layout::COM1_PORTS);
        let (consumer, edge, active_low, shared) = (true, true, false, false);
        let interrupt = Interrupt::new(consumer, edge, active_low, shared, layout::COM1_GSI);
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &1u8),
                &Name::new("_DDN".into(), &"COM1"),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&registers, &interrupt]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// A CPU; `_UID` is what the MADT calls it.
struct Processor {
    uid: u8,
}

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            format!("C{:03X}", self.uid).as_str().into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &self.uid),
            ],
        )
        .to_aml_bytes(sink);
    }
}

pub(super) fn ports(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

/// For constants below 4 GiB.
const fn dword(value: u64) -> u32 {
    (value & 0xFFFF_FFFF) as u32
}
