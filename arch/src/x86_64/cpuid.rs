//! CPUID.
use kvm_bindings::kvm_cpuid_entry2;

/// What sets one vCPU apart from what the host's KVM supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuIdentity {
    /// APIC id of this vCPU, its index.
    pub apic_id: u32,
    /// Number of vCPUs of the guest.
    pub cpus: u32,
    /// Announce at most this physical address width.
    pub phys_bits: Option<u8>,
    /// TSC frequency, from `KVM_GET_TSC_KHZ`.
    pub tsc_khz: Option<u32>,
    /// Frequency of the APIC timer's bus clock, see [`KVM_APIC_BUS_HZ`].
    pub apic_bus_hz: u64,
}

/// KVM counts its APIC timer in nanoseconds unless told otherwise.
pub const KVM_APIC_BUS_HZ: u64 = 1_000_000_000;

/// x
#[must_use]
pub fn guest_cpuid(
    supported: &[kvm_cpuid_entry2],
    identity: &CpuIdentity,
) -> Vec<kvm_cpuid_entry2> {
    let _ = (supported, identity);
    todo!()
}

/// x
#[must_use]
pub fn phys_bits(supported: &[kvm_cpuid_entry2]) -> u8 {
    let _ = supported;
    todo!()
}
