//! The part of the machine that every guest has: serial console, clock, power and reset registers.

use super::buses::{Buses, Space};
use super::mailbox::Mailbox;
use super::{MachineError, process};
use crate::kvm::GsiRouting;
use crate::spec::{MachineSpec, PanicPolicy, SerialSpec};
use arch::x86_64::layout;
use devices::acpi::{AcpiPower, S5_SLEEP_TYPE};
use devices::bus::BusDevice;
use devices::legacy::{DebugExit, I8042, PvPanic, Rtc, Serial, SystemClock};
use devices::machine::MachineControl;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

// What the ACPI tables say of the registers is what the devices do.
const _: () = {
    assert!(
        (layout::ACPI_RESET_PORT - layout::ACPI_POWER_PORT) as u64 == AcpiPower::RESET_OFFSET
            && (layout::ACPI_SLEEP_CONTROL_PORT - layout::ACPI_POWER_PORT) as u64
                == AcpiPower::SLEEP_CONTROL_OFFSET
            && (layout::ACPI_SLEEP_STATUS_PORT - layout::ACPI_POWER_PORT) as u64
                == AcpiPower::SLEEP_STATUS_OFFSET
            && layout::ACPI_RESET_VALUE == AcpiPower::RESET_VALUE
            && layout::ACPI_SLEEP_TYPE_S5 == S5_SLEEP_TYPE
            && layout::PVPANIC_PORTS as u64 == PvPanic::LEN
    );
};

/// The serial console and how it is fed.
pub(super) struct Console {
    /// The UART.
    pub serial: Arc<Serial>,
    /// Readable each time the guest has read all input.
    pub drained: EventFd,
}

/// Puts the devices that every guest has on `buses`.
///
/// # Errors
/// [`MachineError`].
pub(super) fn attach(
    buses: &Buses,
    routing: &GsiRouting,
    mailbox: &Arc<Mailbox>,
    spec: &MachineSpec,
) -> Result<Option<Console>, MachineError> {
    let control = || Arc::clone(mailbox) as Arc<dyn MachineControl>;
    let port = |base: u16, len: u64, name, device: Arc<dyn BusDevice>| {
        buses.insert(Space::Port, (base.into(), len), name, device)
    };
    port(
        layout::DEBUG_EXIT_PORT,
        DebugExit::LEN,
        "debug exit",
        Arc::new(DebugExit::new(control())),
    )?;
    port(
        layout::I8042_DATA_PORT,
        I8042::LEN,
        "i8042",
        Arc::new(I8042::new(control())),
    )?;
    port(
        layout::ACPI_POWER_PORT,
        AcpiPower::LEN,
        "acpi power",
        Arc::new(AcpiPower::new(control())),
    )?;
    let panic_ends = spec.on_panic != PanicPolicy::Report;
    port(
        layout::PVPANIC_PORT,
        PvPanic::LEN,
        "pvpanic",
        Arc::new(PvPanic::new(control(), panic_ends)),
    )?;
    let rtc = Arc::new(Rtc::new(Box::new(SystemClock)));
    port(layout::RTC_PORT, Rtc::LEN, "rtc", rtc)?;
    let Some(output) = output(&spec.serial)? else {
        return Ok(None);
    };
    let interrupt = eventfd()?;
    let drained = eventfd()?;
    routing
        .attach_edge(layout::COM1_GSI, &interrupt)
        .map_err(process("wiring the serial interrupt (KVM_IRQFD)"))?;
    let told = drained.try_clone().map_err(process("dup of an eventfd"))?;
    let serial = Arc::new(Serial::new(interrupt, told, output));
    let device = Arc::clone(&serial) as Arc<dyn BusDevice>;
    port(layout::COM1_PORT, Serial::LEN, "serial", device)?;
    Ok(Some(Console { serial, drained }))
}

/// A new eventfd.
pub(super) fn eventfd() -> Result<EventFd, MachineError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(process("eventfd"))
}

fn output(serial: &SerialSpec) -> Result<Option<Box<dyn Write + Send>>, MachineError> {
    Ok(match serial {
        SerialSpec::Absent => None,
        SerialSpec::Terminal => Some(Box::new(io::stdout())),
        SerialSpec::File(path) => {
            let file = File::create(path).map_err(|source| MachineError::SerialFile {
                path: path.clone(),
                source,
            })?;
            Some(Box::new(file))
        }
    })
}
