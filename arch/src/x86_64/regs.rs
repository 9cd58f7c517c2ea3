//! Registers.
use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_regs, kvm_sregs};

/// How the boot CPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// The 64-bit entry of the Linux boot protocol.
    Linux64 {
        /// First instruction.
        rip: u64,
        /// Address of the zero page.
        zero_page: u64,
    },
    /// The PVH entry: 32-bit protected mode, paging off.
    Pvh {
        /// First instruction.
        rip: u64,
        /// Address of the `hvm_start_info`.
        start_info: u64,
    },
}

/// x
#[must_use]
pub fn boot_regs(entry: &EntryPoint) -> kvm_regs {
    let _ = entry;
    todo!()
}

/// x
#[must_use]
pub fn boot_sregs(initial: kvm_sregs, entry: &EntryPoint) -> kvm_sregs {
    let _ = (initial, entry);
    todo!()
}

/// x
#[must_use]
pub fn boot_fpu() -> kvm_fpu {
    todo!()
}

/// x
#[must_use]
pub fn lapic_with_lint(lapic: kvm_lapic_state) -> kvm_lapic_state {
    let _ = lapic;
    todo!()
}
