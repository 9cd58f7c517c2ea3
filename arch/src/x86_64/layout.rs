//! Where things lie in the guest's physical and I/O address spaces.
//!
//! | physical address | what |
//! |---|---|
//! | 0x500 – 0x1_0000 | descriptor tables, PVH start info, zero page, identity page tables |
//! | 0x2_0000 | kernel command line |
//! | 0x9_FC00 – 0x10_0000 | never offered as RAM; ACPI tables from 0xE_0000 |
//! | 0x100_0000 | kernel, unless its header prefers another place |
//! | … 0xC000_0000 | low RAM, the initramfs at its top |
//! | 0xC000_0000 – 0xE000_0000 | PCI window for 32-bit BARs |
//! | 0xE000_0000 – 0xF000_0000 | ECAM |
//! | 0xFEC0_0000, 0xFEE0_0000 | I/O APIC, local APIC and MSI doorbell |
//! | 0xFEFF_C000 – 0xFF00_0000 | pages KVM needs on Intel hosts without unrestricted guest |
//! | 0x1_0000_0000 … | high RAM, then the PCI window for 64-bit BARs |

mod placement;

use std::ops::RangeInclusive;

use thiserror::Error;

pub use self::placement::{AddressLimits, BarSpace, RamPlacement, pci_window_64, place_ram};

// So that sizes read as sizes.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest page, the alignment of everything that is mapped.
pub const PAGE_SIZE: u64 = 4 * KIB;

/// Flat GDT of the boot CPU.
pub const GDT_ADDRESS: u64 = 0x500;
/// Empty IDT of the boot CPU, right behind the GDT.
pub const IDT_ADDRESS: u64 = 0x520;
/// `hvm_start_info` and the lists it points to (PVH entry only); one page.
pub const PVH_START_INFO_ADDRESS: u64 = 0x6000;
/// `boot_params`, the zero page (64-bit entry only); one page.
pub const ZERO_PAGE_ADDRESS: u64 = 0x7000;
/// Initial stack pointer; the stack grows down towards the zero page and is given up within a few instructions.
pub const BOOT_STACK_POINTER: u64 = 0x8FF0;
/// PML4, then one PDPT, then [`IDENTITY_MAP_GIB`] page directories.
pub const PML4_ADDRESS: u64 = 0x9000;
/// How many GiB from address 0 the boot page tables map one to one.
pub const IDENTITY_MAP_GIB: u64 = 4;
/// Kernel command line, NUL-terminated.
pub const CMDLINE_ADDRESS: u64 = 0x2_0000;
/// Room for the command line, its NUL included.
pub const CMDLINE_MAX: u64 = 64 * KIB;
/// End of conventional memory; the traditional home of the EBDA, which Ferry leaves unused.
pub const EBDA_ADDRESS: u64 = 0x9_FC00;
/// Legacy VGA frame buffer; conventional memory can't reach further.
pub const VGA_ADDRESS: u64 = 0xA_0000;
/// RSDP and ACPI tables, inside the area old kernels search for the RSDP.
pub const ACPI_ADDRESS: u64 = 0xE_0000;
/// First address behind the ACPI area.
pub const ACPI_END: u64 = 0x10_0000;
/// First address of memory above the legacy hole.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Where a kernel goes that doesn't ask for another place.
pub const KERNEL_ADDRESS: u64 = 0x100_0000;

/// RAM below 4 GiB ends here; what doesn't fit continues at [`HIGH_RAM_START`].
pub const LOW_RAM_END: u64 = 3 * GIB;
/// RAM that doesn't fit below [`LOW_RAM_END`] starts here.
pub const HIGH_RAM_START: u64 = 4 * GIB;

/// First address of the PCI window for 32-bit BARs.
pub const PCI_WINDOW_32_BASE: u64 = 0xC000_0000;
/// Length of the PCI window for 32-bit BARs.
pub const PCI_WINDOW_32_LEN: u64 = 512 * MIB;
/// PCI Express configuration space of segment 0.
pub const PCIE_ECAM_BASE: u64 = 0xE000_0000;
/// Part of the ECAM area that is decoded: bus 0.
pub const PCIE_ECAM_LEN: u64 = MIB;
/// Part of the address space kept free for ECAM: 256 buses.
pub const PCIE_ECAM_RESERVED_LEN: u64 = 256 * MIB;
/// Last bus that ECAM decodes.
pub const PCIE_ECAM_LAST_BUS: u8 = 0;

/// Registers of the in-kernel I/O APIC.
pub const IOAPIC_ADDRESS: u64 = 0xFEC0_0000;
/// Registers of the local APIC; also the MSI doorbell range.
pub const LAPIC_ADDRESS: u64 = 0xFEE0_0000;
/// Page for `KVM_SET_IDENTITY_MAP_ADDR`.
pub const KVM_IDENTITY_MAP_ADDRESS: u64 = 0xFEFF_C000;
/// Three pages for `KVM_SET_TSS_ADDR`.
pub const KVM_TSS_ADDRESS: u64 = 0xFEFF_D000;
/// Length of the KVM TSS.
pub const KVM_TSS_LEN: u64 = 3 * PAGE_SIZE;

/// COM1: first of eight I/O ports.
pub const COM1_PORT: u16 = 0x3F8;
/// COM1: number of I/O ports.
pub const COM1_PORTS: u8 = 8;
/// COM1: interrupt, edge-triggered.
pub const COM1_GSI: u32 = 4;
/// Keyboard controller data port (it exists for its reset line only).
pub const I8042_DATA_PORT: u16 = 0x60;
/// Keyboard controller command port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Real-time clock: index port, data port follows.
pub const RTC_PORT: u16 = 0x70;
/// Real-time clock: number of I/O ports.
pub const RTC_PORTS: u8 = 2;
/// A byte written here ends the VM with that byte as its exit code.
pub const DEBUG_EXIT_PORT: u16 = 0xF4;
/// The port by which a guest tells of its panic, one byte (QEMU's pvpanic is there, too).
pub const PVPANIC_PORT: u16 = 0x505;
/// The same: number of I/O ports.
pub const PVPANIC_PORTS: u8 = 1;
/// PCI configuration address port.
pub const PCI_CONFIG_ADDRESS_PORT: u16 = 0xCF8;
/// PCI configuration data port.
pub const PCI_CONFIG_DATA_PORT: u16 = 0xCFC;
/// Number of I/O ports of the PCI configuration mechanism.
pub const PCI_CONFIG_PORTS: u8 = 8;

/// ACPI power block: first port.
pub const ACPI_POWER_PORT: u16 = 0x600;
/// ACPI power block: number of ports, the free ones included.
pub const ACPI_POWER_PORTS: u8 = 8;
/// ACPI sleep control register, one byte.
pub const ACPI_SLEEP_CONTROL_PORT: u16 = ACPI_POWER_PORT;
/// ACPI sleep status register, one byte.
pub const ACPI_SLEEP_STATUS_PORT: u16 = ACPI_POWER_PORT + 1;
/// ACPI reset register, one byte.
pub const ACPI_RESET_PORT: u16 = ACPI_POWER_PORT + 2;
/// The value that, written to [`ACPI_RESET_PORT`], resets the machine.
pub const ACPI_RESET_VALUE: u8 = 1;
/// `SLP_TYPx` of the soft-off state S5.
pub const ACPI_SLEEP_TYPE_S5: u8 = 5;
/// Position of `SLP_TYPx` in the sleep control register.
pub const ACPI_SLEEP_TYPE_SHIFT: u8 = 2;
/// `SLP_EN` in the sleep control register.
pub const ACPI_SLEEP_ENABLE: u8 = 0x20;
/// `WAK_STS` in the sleep status register, written as 1 to clear.
pub const ACPI_WAKE_STATUS: u8 = 0x80;

/// Event register of the ACPI generic event device: first port.
pub const GED_PORT: u16 = 0x608;
/// Event register of the ACPI generic event device: number of I/O ports.
pub const GED_PORTS: u8 = 1;
/// The bit of the event register that says that slots of bus 0 change.
pub const GED_EVENT_PCI_HOTPLUG: u8 = 1;
/// The bit of the event register that says that the power button was pressed.
pub const GED_EVENT_POWER_BUTTON: u8 = 2;
/// PCI hotplug registers: first port. Dwords with a bit a slot: slots that have been filled, slots to be ejected
/// (reading clears), slots to eject.
pub const PCI_HOTPLUG_PORT: u16 = 0x610;
/// PCI hotplug registers: number of I/O ports.
pub const PCI_HOTPLUG_PORTS: u8 = 12;

/// First port of the PCI I/O window.
pub const PCI_WINDOW_IO_BASE: u16 = 0x1000;
/// Number of ports in the PCI I/O window.
pub const PCI_WINDOW_IO_LEN: u32 = 0xF000;

/// Interrupt of the ACPI generic event device, level-triggered.
pub const GED_GSI: u32 = 9;
/// First of the GSIs that PCI INTx lines use.
pub const PCI_INTX_GSI_BASE: u32 = 16;
/// Number of GSIs that PCI INTx lines use.
pub const PCI_INTX_GSI_COUNT: u32 = 8;
/// Number of I/O APIC inputs, so GSIs 0..=23 are wires and higher ones are free for MSI routes.
pub const IOAPIC_PINS: u32 = 24;

/// Why a guest can't be laid out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// An IOMMU can't map the first page of RAM, which can't lie elsewhere.
    #[error(
        "an IOMMU can't map {:#x}-{:#x}, which lies in the first {} MiB of RAM, and those can't be moved",
        reserved.start(), reserved.end(), page / MIB
    )]
    FirstPage {
        /// What it can't map.
        reserved: RangeInclusive<u64>,
        /// Bytes that have to be RAM from address 0 on.
        page: u64,
    },
    /// There are fewer addresses than RAM.
    #[error(
        "{} MiB of RAM need more addresses than there are: {} MiB have a place below the {phys_bits}-bit limit of the \
         CPU and around what the IOMMU can't map",
        size / MIB, available / MIB
    )]
    Ram {
        /// Bytes of RAM.
        size: u64,
        /// Bytes that have a place.
        available: u64,
        /// The guest's physical address width.
        phys_bits: u8,
    },
    /// The BARs present need more room than there is between RAM and the address limit.
    #[error(
        "64-bit BARs need {} MiB of address space, but only {} MiB lie free between the end of RAM at {ram_end:#x} \
         and the guest's {phys_bits}-bit physical address limit",
        needed.div_ceil(MIB), available / MIB
    )]
    PciWindow64 {
        /// Bytes the BARs need.
        needed: u64,
        /// Bytes that can be had, aligned as the BARs need it.
        available: u64,
        /// First address behind RAM.
        ram_end: u64,
        /// The guest's physical address width.
        phys_bits: u8,
    },
}

/// The GSI of INTx pin `pin` (0 = INTA) of device `slot` on bus 0.
#[must_use]
pub fn intx_gsi(slot: u8, pin: u8) -> u32 {
    PCI_INTX_GSI_BASE + (u32::from(slot) + u32::from(pin)) % PCI_INTX_GSI_COUNT
}

#[cfg(test)]
mod tests;
