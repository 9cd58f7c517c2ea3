use proptest::prelude::*;

use super::*;

const INDEXED: u32 = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

fn vendor_entry(max: u32, vendor: [u8; 12]) -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
    entry(0, 0, [max, word(0), word(8), word(4)])
}

fn common() -> Vec<kvm_cpuid_entry2> {
    vec![
        // A host that shows OSXSAVE, a foreign APIC id and HTT.
        entry(0x1, 0, [0x000A_0F11, 0x0502_0800, 0x0800_0000, 0x1000_0000]),
        entry(0x6, 0, [0, 0, 0, 0]),
        entry(0xA, 0, [0x0730_0802, 0, 0, 0x603]),
        entry(0xB, 0, [1, 2, 0x100, 5]),
        entry(0xB, 1, [4, 16, 0x201, 5]),
        entry(
            0x4000_0000,
            0,
            [0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D],
        ),
        entry(0x4000_0001, 0, [0x0100_7EFB | 1 << 12, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 0, 0]),
        entry(0x8000_0007, 0, [0, 0, 0, 1 << 8]),
        entry(0x8000_0008, 0, [0x0030_3030, 0, 0x0000_7003, 0]),
    ]
}

fn intel() -> Vec<kvm_cpuid_entry2> {
    let mut leaves = common();
    leaves.push(vendor_entry(0x20, *b"GenuineIntel"));
    // L1d, L2, L3, end; the host shares its L1 between two threads and its L3 between 64 ids.
    leaves.push(entry(0x4, 0, [0xFC00_4121, 0, 0, 0]));
    leaves.push(entry(0x4, 1, [0xFC00_4143, 0, 0, 0]));
    leaves.push(entry(0x4, 2, [0xFC0F_C163, 0, 0, 0]));
    leaves.push(entry(0x4, 3, [0, 0, 0, 0]));
    leaves
}

fn amd() -> Vec<kvm_cpuid_entry2> {
    let mut leaves = common();
    leaves.push(vendor_entry(0x10, *b"AuthenticAMD"));
    leaves.push(entry(0x8000_001D, 0, [0x0000_4121, 0, 0, 0]));
    leaves.push(entry(0x8000_001D, 3, [0x0003_C163, 0, 0, 0]));
    leaves.push(entry(0x8000_001E, 0, [0, 0, 0, 0]));
    leaves.push(entry(0x8000_0026, 0, [1, 2, 3, 4]));
    leaves
}

fn identity(apic_id: u32, cpus: u32) -> CpuIdentity {
    CpuIdentity {
        apic_id,
        cpus,
        phys_bits: None,
        tsc_khz: Some(2_500_000),
        apic_bus_hz: KVM_APIC_BUS_HZ,
    }
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    leaves
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
        .copied()
}

fn leaf(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    find(leaves, function, index).unwrap()
}

#[test]
fn leaf_1_carries_the_identity_of_the_vcpu() {
    let guest = leaf(&guest_cpuid(&intel(), &identity(2, 3)), 1, 0);
    assert_eq!(guest.ebx, 0x0204_0800);
    assert_ne!(guest.edx & 1 << 28, 0, "HTT");
}

#[test]
fn a_single_cpu_is_not_multithreaded() {
    let guest = leaf(&guest_cpuid(&intel(), &identity(0, 1)), 1, 0);
    assert_eq!(guest.ebx, 0x0001_0800);
    assert_eq!(guest.edx & 1 << 28, 0);
}

#[test]
fn leaf_1_announces_deadline_timer_x2apic_and_hypervisor_but_not_osxsave() {
    let guest = leaf(&guest_cpuid(&amd(), &identity(0, 1)), 1, 0);
    assert_eq!(guest.ecx, 1 << 31 | 1 << 24 | 1 << 21);
}

#[test]
fn the_apic_timer_always_runs() {
    assert_eq!(leaf(&guest_cpuid(&amd(), &identity(0, 1)), 6, 0).eax, 4);
}

#[test]
fn there_is_no_pmu_to_look_for() {
    let guest = leaf(&guest_cpuid(&intel(), &identity(0, 1)), 0xA, 0);
    assert_eq!((guest.eax, guest.ebx, guest.ecx, guest.edx), (0, 0, 0, 0));
}

#[test]
fn extended_topology_replaces_the_host_s() {
    let leaves = guest_cpuid(&amd(), &identity(5, 6));
    let levels: Vec<_> = leaves
        .iter()
        .filter(|entry| entry.function == 0xB)
        .collect();
    assert_eq!(levels.len(), 3);
    assert!(
        levels
            .iter()
            .all(|level| level.edx == 5 && level.flags == INDEXED)
    );
    let shape: Vec<_> = levels
        .iter()
        .map(|level| (level.index, level.eax, level.ebx, level.ecx))
        .collect();
    assert_eq!(shape, [(0, 0, 1, 0x100), (1, 3, 6, 0x201), (2, 0, 0, 2)]);
}

#[test]
fn v2_topology_is_there_only_where_the_host_counts_that_far() {
    assert!(find(&guest_cpuid(&intel(), &identity(0, 2)), 0x1F, 1).is_some());
    assert!(find(&guest_cpuid(&amd(), &identity(0, 2)), 0x1F, 1).is_none());
}

#[test]
fn the_highest_leaf_reaches_the_topology() {
    let mut old = intel();
    old.last_mut().unwrap().eax = 0;
    for leaf in &mut old {
        if leaf.function == 0 {
            leaf.eax = 0x7;
        }
    }
    assert_eq!(leaf(&guest_cpuid(&old, &identity(0, 1)), 0, 0).eax, 0xB);
}

#[test]
fn intel_caches_are_private_except_the_last_level() {
    let leaves = guest_cpuid(&intel(), &identity(0, 4));
    assert_eq!(leaf(&leaves, 4, 0).eax, 3 << 26 | 0x121);
    assert_eq!(leaf(&leaves, 4, 1).eax, 3 << 26 | 0x143);
    assert_eq!(leaf(&leaves, 4, 2).eax, 3 << 26 | 3 << 14 | 0x163);
    assert_eq!(leaf(&leaves, 4, 3).eax, 0);
}

#[test]
fn amd_caches_cores_and_ids_describe_the_guest() {
    let leaves = guest_cpuid(&amd(), &identity(3, 5));
    assert_eq!(leaf(&leaves, 0x8000_001D, 0).eax, 0x121);
    assert_eq!(leaf(&leaves, 0x8000_001D, 3).eax, 7 << 14 | 0x163);
    assert_eq!(
        (
            leaf(&leaves, 0x8000_001E, 0).eax,
            leaf(&leaves, 0x8000_001E, 0).ebx
        ),
        (3, 3)
    );
    assert_eq!(leaf(&leaves, 0x8000_0008, 0).ecx, 3 << 12 | 4);
    assert_ne!(leaf(&leaves, 0x8000_0001, 0).ecx & 2, 0, "CmpLegacy");
    assert!(find(&leaves, 0x8000_0026, 0).is_none(), "host topology");
}

#[test]
fn amd_fields_stay_untouched_on_intel() {
    assert_eq!(
        leaf(&guest_cpuid(&intel(), &identity(0, 4)), 0x8000_0008, 0).ecx,
        0x7003
    );
    assert_eq!(
        leaf(&guest_cpuid(&intel(), &identity(0, 4)), 0x8000_0001, 0).ecx,
        0
    );
}

#[test]
fn the_guest_is_told_its_frequencies() {
    let leaves = guest_cpuid(&intel(), &identity(0, 1));
    assert_eq!(leaf(&leaves, 0x4000_0000, 0).eax, 0x4000_0010);
    let frequencies = leaf(&leaves, 0x4000_0010, 0);
    assert_eq!((frequencies.eax, frequencies.ebx), (2_500_000, 1_000_000));
}

#[test]
fn without_a_tsc_frequency_there_is_no_frequency_leaf() {
    let leaves = guest_cpuid(
        &intel(),
        &CpuIdentity {
            tsc_khz: None,
            ..identity(0, 1)
        },
    );
    assert_eq!(leaf(&leaves, 0x4000_0000, 0).eax, 0x4000_0001);
    assert!(find(&leaves, 0x4000_0010, 0).is_none());
}

#[test]
fn kvm_features_pass_except_poll_control() {
    let guest = leaf(&guest_cpuid(&intel(), &identity(0, 1)), 0x4000_0001, 0);
    assert_eq!(guest.eax, 0x0100_7EFB & !(1 << 12));
}

#[test]
fn invariant_tsc_passes_as_kvm_reports_it() {
    assert_eq!(
        leaf(&guest_cpuid(&amd(), &identity(0, 1)), 0x8000_0007, 0).edx,
        1 << 8
    );
}

#[test]
fn a_limit_narrows_the_physical_width_but_never_widens_it() {
    let eax = |limit| {
        let identity = CpuIdentity {
            phys_bits: limit,
            ..identity(0, 1)
        };
        leaf(&guest_cpuid(&intel(), &identity), 0x8000_0008, 0).eax
    };
    assert_eq!(eax(None), 0x0030_3030);
    assert_eq!(eax(Some(52)), 0x0030_3030);
    assert_eq!(eax(Some(40)), 0x0000_3028);
}

#[test]
fn phys_bits_come_from_the_address_size_leaf_or_the_architecture() {
    assert_eq!(phys_bits(&intel()), 48);
    assert_eq!(phys_bits(&[]), 36);
}

proptest! {
    #[test]
    fn every_leaf_is_given_once(cpus in 1u32..=254, apic_id in 0u32..254, on_amd: bool) {
        let leaves = guest_cpuid(&if on_amd { amd() } else { intel() }, &identity(apic_id, cpus));
        let mut keys: Vec<_> = leaves.iter().map(|entry| (entry.function, entry.index)).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), leaves.len());
    }

    #[test]
    fn package_shift_covers_every_apic_id(cpus in 1u32..=254) {
        let leaves = guest_cpuid(&intel(), &identity(cpus - 1, cpus));
        let shift = leaf(&leaves, 0xB, 1).eax;
        prop_assert_eq!((cpus - 1) >> shift, 0);
        prop_assert!(shift == 0 || (cpus - 1) >> (shift - 1) != 0, "one bit too many");
    }
}
