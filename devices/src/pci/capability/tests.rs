use super::*;
use proptest::prelude::*;

const SPACE: usize = SPACE_END as usize;

/// Configuration space with a capability chain of `(id, offset)`.
fn chain(links: &[(CapabilityId, u16)]) -> Vec<u8> {
    let mut config = vec![0; SPACE];
    config[usize::from(header::STATUS)] = 1 << 4;
    let mut pointer = usize::from(header::CAPABILITIES_POINTER);
    for (id, offset) in links {
        config[pointer] = u8::try_from(*offset).unwrap();
        config[usize::from(*offset)] = id.0;
        pointer = usize::from(*offset) + 1;
    }
    config
}

/// Configuration space with an extended chain of `(id, offset)`.
fn extended_chain(links: &[(ExtendedCapabilityId, u16)]) -> Vec<u8> {
    let mut config = vec![0; SPACE];
    for (index, (id, offset)) in links.iter().enumerate() {
        let next = links.get(index + 1).map_or(0, |(_, next)| *next);
        let value = u32::from(id.0) | 1 << 16 | u32::from(next) << 20;
        let start = usize::from(*offset);
        config[start..start + 4].copy_from_slice(&value.to_le_bytes());
    }
    config
}

fn ids(config: &[u8]) -> Vec<CapabilityId> {
    capabilities(config).map(|c| c.id).collect()
}

fn extended_ids(config: &[u8]) -> Vec<ExtendedCapabilityId> {
    extended_capabilities(config).map(|c| c.id).collect()
}

fn patched(config: &[u8], patches: &[ConfigPatch]) -> Vec<u8> {
    let mut config = config.to_vec();
    for patch in patches {
        patch.apply(&mut config);
    }
    config
}

const PM: (CapabilityId, u16) = (CapabilityId::POWER_MANAGEMENT, 0x40);
const MSI: (CapabilityId, u16) = (CapabilityId::MSI, 0x50);
const EXPRESS: (CapabilityId, u16) = (CapabilityId::PCI_EXPRESS, 0xa0);
const AER: (ExtendedCapabilityId, u16) = (ExtendedCapabilityId::AER, 0x100);
const ATS: (ExtendedCapabilityId, u16) = (ExtendedCapabilityId::ATS, 0x200);
const LTR: (ExtendedCapabilityId, u16) = (ExtendedCapabilityId::LTR, 0xffc);

#[test]
fn chain_is_walked_in_its_own_order() {
    let config = chain(&[EXPRESS, PM, MSI]);
    let walked: Vec<_> = capabilities(&config).map(|c| (c.id, c.offset)).collect();
    assert_eq!(walked, [EXPRESS, PM, MSI]);
    assert_eq!(find(&config, CapabilityId::MSI).unwrap().offset, 0x50);
    assert_eq!(find(&config, CapabilityId::MSI_X), None);
}

#[test]
fn without_the_capabilities_list_bit_there_is_no_chain() {
    let mut config = chain(&[PM]);
    config[usize::from(header::STATUS)] = 0;
    assert_eq!(ids(&config), []);
    assert_eq!(hide_capabilities(&config, |_| true), []);
}

#[test]
fn reserved_low_bits_of_pointers_are_masked() {
    let mut config = chain(&[PM, MSI]);
    config[usize::from(header::CAPABILITIES_POINTER)] |= 3;
    config[0x41] |= 1;
    assert_eq!(ids(&config), [PM.0, MSI.0]);
    assert_eq!(hide_capabilities(&config, |_| false), []);
}

#[test]
fn pointer_into_the_header_ends_the_chain() {
    let mut config = chain(&[PM, MSI]);
    config[0x41] = 0x3c;
    assert_eq!(ids(&config), [PM.0]);
}

#[test]
fn malformed_capability_chain_cycle_terminates() {
    let mut config = chain(&[PM, MSI]);
    config[0x51] = 0x40;
    assert_eq!(ids(&config), [PM.0, MSI.0]);
    config[0x51] = 0x50;
    assert_eq!(ids(&config), [PM.0, MSI.0]);
}

#[test]
fn malformed_extended_chain_cycle_terminates() {
    let mut config = extended_chain(&[AER, ATS]);
    config[0x200..0x204].copy_from_slice(&0x1001_000f_u32.to_le_bytes());
    assert_eq!(extended_ids(&config), [AER.0, ATS.0]);
}

#[test]
fn a_function_that_is_gone_has_no_capabilities() {
    let config = vec![0xff; SPACE];
    assert_eq!(ids(&config), []);
    assert_eq!(extended_ids(&config), []);
}

#[test]
fn conventional_config_space_has_no_extended_chain() {
    let config = chain(&[PM]);
    assert_eq!(extended_ids(&config[..256]), []);
    assert_eq!(extended_ids(&config), []);
    assert_eq!(ids(&config[..0x41]), []);
}

#[test]
fn extended_chain_reaches_the_last_dword_and_tells_versions() {
    let config = extended_chain(&[AER, LTR]);
    let last = extended_capabilities(&config).last().unwrap();
    assert_eq!((last.id, last.offset, last.version), (LTR.0, 0xffc, 1));
}

#[test]
fn extended_pointer_below_0x100_ends_the_chain() {
    let mut config = extended_chain(&[AER, ATS]);
    config[0x100..0x104].copy_from_slice(&0x0fc1_0001_u32.to_le_bytes());
    assert_eq!(extended_ids(&config), [AER.0]);
}

#[test]
fn hidden_capability_is_skipped_by_its_predecessor() {
    let config = chain(&[PM, MSI, EXPRESS]);
    let patches = hide_capabilities(&config, |c| c.id == CapabilityId::MSI);
    assert_eq!(patches, [ConfigPatch::byte(0x41, 0xa0)]);
    assert_eq!(ids(&patched(&config, &patches)), [PM.0, EXPRESS.0]);
}

#[test]
fn hidden_head_is_skipped_by_the_capabilities_pointer() {
    let config = chain(&[PM, MSI]);
    let patches = hide_capabilities(&config, |c| c.id == PM.0);
    assert_eq!(patches, [ConfigPatch::byte(0x34, 0x50)]);
    assert_eq!(ids(&patched(&config, &patches)), [MSI.0]);
}

#[test]
fn hiding_all_capabilities_clears_the_list_bit() {
    let config = chain(&[PM, MSI]);
    let seen = patched(&config, &hide_capabilities(&config, |_| true));
    assert_eq!(seen[usize::from(header::CAPABILITIES_POINTER)], 0);
    assert_eq!(seen[usize::from(header::STATUS)], 0);
}

#[test]
fn hidden_extended_capability_is_skipped_by_its_predecessor() {
    let config = extended_chain(&[AER, ATS, LTR]);
    let patches = hide_extended_capabilities(&config, |c| c.id == ATS.0);
    assert_eq!(
        patches,
        [ConfigPatch::dword(0x100, 0xfff0_0000, 0xffc0_0000)]
    );
    assert_eq!(extended_ids(&patched(&config, &patches)), [AER.0, LTR.0]);
}

#[test]
fn hidden_extended_head_becomes_a_null_capability_that_leads_on() {
    let config = extended_chain(&[AER, ATS]);
    let seen = patched(
        &config,
        &hide_extended_capabilities(&config, |c| c.id == AER.0),
    );
    assert_eq!(header::dword(&seen, 0x100), Some(0x2000_0000));
    assert_eq!(extended_ids(&seen), [ExtendedCapabilityId::NULL, ATS.0]);
    let seen = patched(&config, &hide_extended_capabilities(&config, |_| true));
    assert_eq!(header::dword(&seen, 0x100), Some(0));
}

#[test]
fn ids_print_as_the_specification_names_them() {
    assert_eq!(CapabilityId::MSI_X.to_string(), "MSI-X");
    assert_eq!(CapabilityId(0x7f).to_string(), "capability 0x7f");
    assert_eq!(ExtendedCapabilityId::SR_IOV.to_string(), "SR-IOV");
    assert_eq!(
        ConfigPatch::byte(0x41, 0xa0).to_string(),
        "config 0x040: 0x0000a000 under mask 0x0000ff00"
    );
}

/// Chains as a broken device might have them: every byte anything.
fn any_config() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=SPACE).prop_map(|mut config| {
        if let Some(status) = config.get_mut(usize::from(header::STATUS)) {
            *status |= 1 << 4;
        }
        // A patch is one of a dword, and no space ends inside one.
        config.truncate(config.len() & !3);
        config
    })
}

proptest! {
    #[test]
    fn any_chain_terminates_and_stays_inside(config in any_config()) {
        let found: Vec<_> = capabilities(&config).collect();
        prop_assert!(found.len() <= 48);
        for capability in found {
            prop_assert!((0x40..0x100).contains(&capability.offset));
            prop_assert!(usize::from(capability.offset) < config.len());
            prop_assert_eq!(capability.offset % 4, 0);
        }
        let found: Vec<_> = extended_capabilities(&config).collect();
        prop_assert!(found.len() <= 960);
        for capability in found {
            prop_assert!((0x100..0x1000).contains(&capability.offset));
            prop_assert!(usize::from(capability.offset) + 4 <= config.len());
        }
    }

    #[test]
    fn hiding_leaves_the_others_in_their_order(config in any_config(), hidden: u64) {
        let hide = |id: u16| hidden >> (id % 64) & 1 == 1;
        let kept: Vec<_> = capabilities(&config).filter(|c| !hide(u16::from(c.id.0))).collect();
        let patches = hide_capabilities(&config, |c| hide(u16::from(c.id.0)));
        let seen = patched(&config, &patches);
        prop_assert_eq!(capabilities(&seen).collect::<Vec<_>>(), kept);
        // Hiding nothing more changes nothing more: the rewritten chain is well formed.
        prop_assert_eq!(hide_capabilities(&seen, |_| false), []);
    }

    #[test]
    fn hiding_extended_leaves_the_others_in_their_order(
        offsets in prop::collection::btree_set(65u16..1024, 0..20),
        head in 1u16..0x30,
        hidden: u64,
    ) {
        let hide = |id: ExtendedCapabilityId| hidden >> (id.0 % 64) & 1 == 1;
        let mut links = vec![(ExtendedCapabilityId(head), EXTENDED_BASE)];
        links.extend(offsets.iter().map(|at| (ExtendedCapabilityId(at % 0x2f + 1), at * 4)));
        let config = extended_chain(&links);
        let kept: Vec<_> = links.iter().map(|l| l.0).filter(|id| !hide(*id)).collect();
        let patches = hide_extended_capabilities(&config, |c| hide(c.id));
        let mut seen = extended_ids(&patched(&config, &patches));
        seen.retain(|id| *id != ExtendedCapabilityId::NULL);
        prop_assert_eq!(seen, kept);
    }
}
