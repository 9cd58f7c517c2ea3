//! The topology leaves: one package of `cpus` cores with one thread each, private caches but for a shared last level.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::CpuIdentity;

/// Level types of the extended topology leaves.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What a cache leaf's EAX says about the cache itself: type, level, self-initializing, fully associative.
const CACHE_EAX_OWN: u32 = 0x3FFF;
/// Widest core count that leaf 4 can express, less one.
const CACHE_CORES_MAX: u32 = 0x3F;
/// What leaf 0x80000008's ECX says besides core count and core id width.
const ADDRESS_SIZES_ECX_OTHER: u32 = 0xFFFF_0F00;

/// Cache type "no more caches".
const CACHE_NONE: u32 = 0;
/// The first cache level that all cores share.
const SHARED_CACHE_LEVEL: u32 = 3;

/// Number of APIC ids the package spans: `cpus` rounded up to a power of two.
pub(super) fn addressable_cpus(identity: &CpuIdentity) -> u32 {
    identity.cpus.max(1).next_power_of_two()
}

/// Leaves 0xB and 0x1F: subleaf 0 the threads of a core, 1 the cores of the package, 2 the end.
pub(super) fn extended(function: u32, identity: &CpuIdentity) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, kind: u32, shift: u32, cpus: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: cpus,
        ecx: kind << 8 | index,
        edx: identity.apic_id,
        ..Default::default()
    };
    [
        level(0, LEVEL_SMT, 0, 1),
        level(1, LEVEL_CORE, core_id_bits(identity), identity.cpus.max(1)),
        level(2, 0, 0, 0),
    ]
}

/// Leaf 4: ids sharing the cache in EAX[25:14], core ids of the package in EAX[31:26], each less one.
pub(super) fn intel_cache(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity) {
    if cache_type(guest) == CACHE_NONE {
        return;
    }
    let cores = (addressable_cpus(identity) - 1).min(CACHE_CORES_MAX);
    guest.eax = guest.eax & CACHE_EAX_OWN | sharing(guest, identity) << 14 | cores << 26;
}

/// Leaf 0x8000001D: CPUs sharing the cache, less one, in EAX[25:14].
pub(super) fn amd_cache(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity) {
    if cache_type(guest) == CACHE_NONE {
        return;
    }
    guest.eax = guest.eax & CACHE_EAX_OWN | sharing(guest, identity) << 14;
}

/// Leaf 0x8000001E: extended APIC id, core id with one thread per core, one node.
pub(super) fn amd_identity(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity) {
    guest.eax = identity.apic_id;
    guest.ebx = identity.apic_id & 0xFF;
    guest.ecx = 0;
    guest.edx = 0;
}

/// Leaf 0x80000008: cores less one in ECX[7:0], width of the core id in ECX[15:12].
pub(super) fn amd_core_count(guest: &mut kvm_cpuid_entry2, identity: &CpuIdentity) {
    let cores = (identity.cpus.max(1) - 1).min(0xFF);
    guest.ecx = guest.ecx & ADDRESS_SIZES_ECX_OTHER | core_id_bits(identity) << 12 | cores;
}

fn core_id_bits(identity: &CpuIdentity) -> u32 {
    addressable_cpus(identity).trailing_zeros()
}

fn cache_type(guest: &kvm_cpuid_entry2) -> u32 {
    guest.eax & 0x1F
}

fn sharing(guest: &kvm_cpuid_entry2, identity: &CpuIdentity) -> u32 {
    let level = guest.eax >> 5 & 0x7;
    if level >= SHARED_CACHE_LEVEL {
        addressable_cpus(identity) - 1
    } else {
        0
    }
}
