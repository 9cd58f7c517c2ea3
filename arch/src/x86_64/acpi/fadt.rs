//! FADT: a hardware-reduced platform with sleep and reset registers (ACPI specification 6.4, 5.2.9).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::x86_64::layout;

/// The tables follow ACPI 6.4.
const MINOR_VERSION: u8 = 4;

/// `IAPC_BOOT_ARCH`: no VGA to probe. What is left out matters as much: without the 8042 bit the kernel doesn't go
/// looking for a keyboard, which takes it half a second; the MSI and ASPM bits say "not supported" when set, and
/// without ASPM the kernel doesn't ask for native control of PCI Express at all; the CMOS clock is in the DSDT.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;

/// Latencies that mean "C2 and C3 don't exist".
const NO_C2_LATENCY: u16 = 101;
const NO_C3_LATENCY: u16 = 1001;

/// Bits in a power block register.
const REGISTER_BITS: u8 = 8;

pub(super) fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means "not a fixed-hardware button", which a hardware-reduced platform can't have.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.fadt_minor_version = MINOR_VERSION;
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.p_lvl2_lat = NO_C2_LATENCY.into();
    fadt.p_lvl3_lat = NO_C3_LATENCY.into();
    fadt.reset_reg = power_register(layout::ACPI_RESET_PORT);
    fadt.reset_value = layout::ACPI_RESET_VALUE;
    fadt.sleep_control_reg = power_register(layout::ACPI_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = power_register(layout::ACPI_SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn power_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        REGISTER_BITS,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}
