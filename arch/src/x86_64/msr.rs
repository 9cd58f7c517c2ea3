//! MSRs.
use kvm_bindings::kvm_msr_entry;

/// x
#[must_use]
pub fn boot_msrs() -> Vec<kvm_msr_entry> {
    todo!()
}
