//! What lies at the reset vector: the little that Ferry has of a BIOS.
//!
//! A Linux guest on a hardware-reduced ACPI platform restarts by EFI's reset call, and without EFI by a jump to the BIOS
//! entry point FFFF:0000 in real mode (`reboot_init` and `machine_real_restart` in its `arch/x86/kernel/reboot.c`); it
//! reaches for neither the ACPI reset register nor the keyboard controller before. The code here writes the reset register.

use super::boot::GuestBlob;
use super::layout::{ACPI_RESET_PORT, ACPI_RESET_VALUE};

/// Linear address of FFFF:0000 (IBM PC/AT Technical Reference, power-on reset vector).
pub const RESET_VECTOR_ADDRESS: u64 = 0xf_fff0;

/// The code at the reset vector, for the first MiB of guest memory.
#[must_use]
pub fn reset_vector() -> GuestBlob {
    const MOV_DX_IMM16: u8 = 0xba;
    const MOV_AL_IMM8: u8 = 0xb0;
    const OUT_DX_AL: u8 = 0xee;
    const HLT: u8 = 0xf4;
    /// Back to the `hlt`, which an interrupt would end.
    const JMP_TO_HLT: [u8; 2] = [0xeb, 0xfd];
    let [port_low, port_high] = ACPI_RESET_PORT.to_le_bytes();
    let mut bytes = vec![MOV_DX_IMM16, port_low, port_high];
    bytes.extend([MOV_AL_IMM8, ACPI_RESET_VALUE, OUT_DX_AL, HLT]);
    bytes.extend(JMP_TO_HLT);
    GuestBlob {
        address: RESET_VECTOR_ADDRESS,
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_vector_ends_with_the_first_mib() {
        let blob = reset_vector();
        assert!(blob.address + blob.bytes.len() as u64 <= 1 << 20);
        assert_eq!(blob.address, 0xffff << 4);
    }

    #[test]
    fn reset_vector_writes_the_reset_register() {
        let [low, high] = ACPI_RESET_PORT.to_le_bytes();
        let expected = [0xba, low, high, 0xb0, ACPI_RESET_VALUE, 0xee];
        assert!(reset_vector().bytes.starts_with(&expected));
    }
}
