//! The CPUID leaves of a guest CPU (Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E, KVM's leaves in
//! Documentation/virt/kvm/x86/cpuid.rst).
//!
//! What KVM supports is passed on; only what KVM leaves to its user (identity, topology, frequencies) is replaced.

mod topology;

use kvm_bindings::kvm_cpuid_entry2;

/// What sets one vCPU apart from what the host's KVM supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuIdentity {
    /// APIC id of this vCPU, its index.
    pub apic_id: u32,
    /// Number of vCPUs of the guest, at least 1.
    pub cpus: u32,
    /// Announce at most this physical address width; `None` announces what KVM supports.
    pub phys_bits: Option<u8>,
    /// TSC frequency from `KVM_GET_TSC_KHZ`; `None` leaves the frequency leaf out.
    pub tsc_khz: Option<u32>,
    /// Frequency of the bus clock behind the APIC timer, in Hz; [`KVM_APIC_BUS_HZ`] unless KVM was told otherwise.
    pub apic_bus_hz: u64,
}

/// KVM counts its APIC timer in nanoseconds unless told otherwise.
pub const KVM_APIC_BUS_HZ: u64 = 1_000_000_000;

/// The width the architecture gives a CPU that doesn't say.
const DEFAULT_PHYS_BITS: u8 = 36;

/// CPUID functions, in ascending order.
mod leaf {
    pub(super) const VENDOR: u32 = 0x0;
    pub(super) const FEATURES: u32 = 0x1;
    pub(super) const INTEL_CACHE: u32 = 0x4;
    pub(super) const POWER: u32 = 0x6;
    pub(super) const PERFORMANCE_MONITORING: u32 = 0xA;
    pub(super) const TOPOLOGY: u32 = 0xB;
    pub(super) const TOPOLOGY_V2: u32 = 0x1F;
    pub(super) const KVM_SIGNATURE: u32 = 0x4000_0000;
    pub(super) const KVM_FEATURES: u32 = 0x4000_0001;
    pub(super) const HYPERVISOR_FREQUENCIES: u32 = 0x4000_0010;
    pub(super) const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub(super) const ADDRESS_SIZES: u32 = 0x8000_0008;
    pub(super) const AMD_CACHE: u32 = 0x8000_001D;
    pub(super) const AMD_TOPOLOGY: u32 = 0x8000_001E;
    pub(super) const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;
}

/// Bits of single leaves, each named after its register.
mod bit {
    pub(super) const FEATURES_ECX_X2APIC: u32 = 1 << 21;
    pub(super) const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const FEATURES_ECX_OSXSAVE: u32 = 1 << 27;
    pub(super) const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
    pub(super) const FEATURES_EDX_HTT: u32 = 1 << 28;
    pub(super) const POWER_EAX_ARAT: u32 = 1 << 2;
    pub(super) const KVM_FEATURES_EAX_POLL_CONTROL: u32 = 1 << 12;
    pub(super) const EXTENDED_ECX_CMP_LEGACY: u32 = 1 << 1;
}

/// CLFLUSH line size in units of 8 bytes, for a host that doesn't say.
const CLFLUSH_LINE_64: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    /// AMD, and Hygon, whose leaves are AMD's.
    Amd,
}

/// Computes the leaves for `KVM_SET_CPUID2` of one vCPU from those of `KVM_GET_SUPPORTED_CPUID`.
///
/// The guest has neither PIT nor PM timer, so nothing may send it into a calibration loop: TSC deadline mode and an
/// always running APIC timer (ARAT) are announced, and the frequencies come with kvm-clock and leaf 0x40000010.
/// Invariant TSC (0x80000007) passes as KVM reports it, as do KVM's paravirtual features except the control of
/// host-side polling, which costs an exit for each idle CPU and gains nothing.
#[must_use]
pub fn guest_cpuid(
    supported: &[kvm_cpuid_entry2],
    identity: &CpuIdentity,
) -> Vec<kvm_cpuid_entry2> {
    let vendor = vendor(supported);
    let mut leaves: Vec<kvm_cpuid_entry2> = supported
        .iter()
        .filter(|entry| !is_replaced(entry.function))
        .map(|entry| guest_leaf(entry, identity, vendor))
        .collect();
    leaves.extend(topology::extended(leaf::TOPOLOGY, identity));
    if max_basic_leaf(supported) >= leaf::TOPOLOGY_V2 {
        leaves.extend(topology::extended(leaf::TOPOLOGY_V2, identity));
    }
    let under_kvm = supported
        .iter()
        .any(|entry| entry.function == leaf::KVM_SIGNATURE);
    if let (true, Some(tsc_khz)) = (under_kvm, identity.tsc_khz) {
        leaves.push(frequencies(tsc_khz, identity.apic_bus_hz));
    }
    leaves
}

/// The physical address width that KVM supports.
#[must_use]
pub fn phys_bits(supported: &[kvm_cpuid_entry2]) -> u8 {
    supported
        .iter()
        .find(|entry| entry.function == leaf::ADDRESS_SIZES)
        .map(|entry| entry.eax.to_le_bytes()[0])
        .filter(|bits| *bits != 0)
        .unwrap_or(DEFAULT_PHYS_BITS)
}

fn vendor(supported: &[kvm_cpuid_entry2]) -> Vendor {
    let ebx = supported
        .iter()
        .find(|entry| entry.function == leaf::VENDOR)
        .map(|entry| entry.ebx.to_le_bytes());
    match ebx.as_ref() {
        Some(b"Auth" | b"Hygo") => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

fn max_basic_leaf(supported: &[kvm_cpuid_entry2]) -> u32 {
    supported
        .iter()
        .find(|entry| entry.function == leaf::VENDOR)
        .map_or(0, |entry| entry.eax)
}

/// Leaves that are built anew, or left out because they'd describe the host's topology.
fn is_replaced(function: u32) -> bool {
    matches!(
        function,
        leaf::TOPOLOGY | leaf::TOPOLOGY_V2 | leaf::AMD_TOPOLOGY_V2 | leaf::HYPERVISOR_FREQUENCIES
    )
}

fn guest_leaf(
    entry: &kvm_cpuid_entry2,
    identity: &CpuIdentity,
    vendor: Vendor,
) -> kvm_cpuid_entry2 {
    let mut guest = *entry;
    match guest.function {
        leaf::VENDOR => guest.eax = guest.eax.max(leaf::TOPOLOGY),
        leaf::FEATURES => features(&mut guest, identity),
        leaf::INTEL_CACHE if vendor == Vendor::Intel => topology::intel_cache(&mut guest, identity),
        leaf::POWER => guest.eax |= bit::POWER_EAX_ARAT,
        // Without a version there is no PMU, and the guest doesn't spend exits on looking for its counters.
        leaf::PERFORMANCE_MONITORING => clear(&mut guest),
        leaf::KVM_SIGNATURE if identity.tsc_khz.is_some() => {
            guest.eax = guest.eax.max(leaf::HYPERVISOR_FREQUENCIES);
        }
        leaf::KVM_FEATURES => guest.eax &= !bit::KVM_FEATURES_EAX_POLL_CONTROL,
        leaf::EXTENDED_FEATURES if vendor == Vendor::Amd && identity.cpus > 1 => {
            guest.ecx |= bit::EXTENDED_ECX_CMP_LEGACY;
        }
        leaf::ADDRESS_SIZES => address_sizes(&mut guest, identity, vendor),
        leaf::AMD_CACHE if vendor == Vendor::Amd => topology::amd_cache(&mut guest, identity),
        leaf::AMD_TOPOLOGY if vendor == Vendor::Amd => topology::amd_identity(&mut guest, identity),
        _ => {}
    }
    guest
}

fn features(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity) {
    let [_, clflush, _, _] = guest.ebx.to_le_bytes().map(u32::from);
    let clflush = if clflush == 0 {
        CLFLUSH_LINE_64
    } else {
        clflush
    };
    let apic_id = identity.apic_id.min(0xFF);
    let logical = topology::addressable_cpus(identity).min(0xFF);
    guest.ebx = apic_id << 24 | logical << 16 | clflush << 8;
    guest.ecx |=
        bit::FEATURES_ECX_X2APIC | bit::FEATURES_ECX_TSC_DEADLINE | bit::FEATURES_ECX_HYPERVISOR;
    // KVM sets OSXSAVE when the guest sets CR4.OSXSAVE.
    guest.ecx &= !bit::FEATURES_ECX_OSXSAVE;
    if identity.cpus > 1 {
        guest.edx |= bit::FEATURES_EDX_HTT;
    } else {
        guest.edx &= !bit::FEATURES_EDX_HTT;
    }
}

fn address_sizes(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity, vendor: Vendor) {
    let [physical, linear, guest_physical, reserved] = guest.eax.to_le_bytes();
    let announced = identity
        .phys_bits
        .map_or(physical, |limit| physical.min(limit));
    // A guest-physical width beyond the announced one makes no sense; 0 means "the same".
    let guest_physical = if guest_physical > announced {
        0
    } else {
        guest_physical
    };
    guest.eax = u32::from_le_bytes([announced, linear, guest_physical, reserved]);
    if vendor == Vendor::Amd {
        topology::amd_core_count(guest, identity);
    }
}

/// Leaf 0x40000010, VMware's and by now everyone's: TSC and APIC bus frequency in kHz.
fn frequencies(tsc_khz: u32, apic_bus_hz: u64) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: leaf::HYPERVISOR_FREQUENCIES,
        eax: tsc_khz,
        ebx: u32::try_from(apic_bus_hz / 1000).unwrap_or(0),
        ..Default::default()
    }
}

fn clear(guest: &mut kvm_cpuid_entry2) {
    (guest.eax, guest.ebx, guest.ecx, guest.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests;
