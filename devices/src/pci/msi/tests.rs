use super::*;
use proptest::prelude::*;

/// Message Control of a function that wants 8 vectors.
const WANTS_8: u16 = 3 << 1;

fn state(control: u16) -> MsiState {
    MsiState::new(MsiLayout::of_control(control))
}

fn word(state: &MsiState, offset: u16) -> u16 {
    let mut data = [0; 2];
    state.read(offset, &mut data, 0);
    u16::from_le_bytes(data)
}

#[test]
fn layout_follows_from_two_bits_of_message_control() {
    let expected = [
        (0, 0x0a, 0x08, None),
        (ADDRESS_64, 0x0e, 0x0c, None),
        (PER_VECTOR_MASKING, 0x14, 0x08, Some(0x0c)),
        (ADDRESS_64 | PER_VECTOR_MASKING, 0x18, 0x0c, Some(0x10)),
    ];
    for (control, len, data, mask) in expected {
        let layout = MsiLayout::of_control(control);
        assert_eq!(
            (layout.len(), layout.data_offset(), layout.mask_offset()),
            (len, data, mask)
        );
    }
    let config = [0x05, 0, 0x86, 0x01];
    let layout = MsiLayout::parse(&config, 0).unwrap();
    assert_eq!((layout.capable(), layout.len()), (8, 0x18));
    assert_eq!(MsiLayout::parse(&config, 2), None);
}

#[test]
fn reserved_vector_counts_are_taken_as_32() {
    assert_eq!(MsiLayout::of_control(0x7 << 1).capable(), 32);
    let mut granted = state(5 << 1);
    granted.write(
        MESSAGE_CONTROL,
        &(0x7 << GRANTED_SHIFT | ENABLE).to_le_bytes(),
    );
    assert_eq!(granted.vectors(), 32);
}

#[test]
fn message_is_sent_when_enabled() {
    let mut msi = state(ADDRESS_64);
    msi.write(4, &0xfee0_1003_u32.to_le_bytes());
    msi.write(8, &0x0000_0001_u32.to_le_bytes());
    msi.write(12, &0x4041_u16.to_le_bytes());
    assert_eq!(msi.wanted(0), None);
    msi.write(MESSAGE_CONTROL, &ENABLE.to_le_bytes());
    let message = MsiMessage {
        address: 0x1_fee0_1000,
        data: 0x4041,
    };
    assert_eq!(msi.wanted(0), Some(message));
    assert_eq!(msi.wanted(1), None);
}

#[test]
fn a_32_bit_layout_has_data_where_others_have_the_upper_address() {
    let mut msi = state(0);
    msi.write(4, &0xfee0_0000_u32.to_le_bytes());
    msi.write(8, &0x0031_u16.to_le_bytes());
    let message = msi.message(0).unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x31));
}

#[test]
fn vectors_are_counted_in_the_low_bits_of_message_data() {
    let mut msi = state(WANTS_8);
    msi.write(8, &0x4035_u16.to_le_bytes());
    // Four of the eight are granted.
    msi.write(
        MESSAGE_CONTROL,
        &(2 << GRANTED_SHIFT | ENABLE).to_le_bytes(),
    );
    let data: Vec<_> = (0..8)
        .map_while(|v| msi.wanted(v))
        .map(|m| m.data)
        .collect();
    assert_eq!(data, [0x4034, 0x4035, 0x4036, 0x4037]);
}

#[test]
fn no_more_vectors_than_wanted_are_granted() {
    let mut msi = state(1 << 1);
    msi.write(MESSAGE_CONTROL, &(5u16 << GRANTED_SHIFT).to_le_bytes());
    assert_eq!(msi.vectors(), 2);
}

#[test]
fn mask_bits_hold_back_their_vector_only() {
    let mut msi = state(WANTS_8 | PER_VECTOR_MASKING);
    msi.write(
        MESSAGE_CONTROL,
        &(3 << GRANTED_SHIFT | ENABLE).to_le_bytes(),
    );
    msi.write(0x0c, &0b0000_0100_u32.to_le_bytes());
    assert!(msi.masked(2) && !msi.masked(1) && !msi.masked(200));
    assert_eq!(msi.wanted(2), None);
    assert!(msi.message(2).is_some() && msi.wanted(1).is_some());
}

#[test]
fn mask_bits_without_a_vector_read_as_zero() {
    let mut msi = state(WANTS_8 | PER_VECTOR_MASKING);
    msi.write(0x0c, &u32::MAX.to_le_bytes());
    let mut data = [0; 4];
    msi.read(0x0c, &mut data, 0);
    assert_eq!(data, [0xff, 0, 0, 0]);
    assert!(state(5 << 1 | PER_VECTOR_MASKING).vector_bits() == u32::MAX);
}

#[test]
fn pending_bits_are_read_only() {
    let mut msi = state(WANTS_8 | PER_VECTOR_MASKING);
    msi.write(0x10, &u32::MAX.to_le_bytes());
    let mut data = [0; 4];
    msi.read(0x10, &mut data, 0x0000_0102);
    assert_eq!(data, [0x02, 0, 0, 0]);
}

#[test]
fn capability_bits_of_message_control_are_read_only() {
    for control in [WANTS_8, ADDRESS_64, PER_VECTOR_MASKING | 5 << 1] {
        let mut msi = state(control);
        msi.write(MESSAGE_CONTROL, &[0xff, 0xff]);
        let writable = ENABLE | LOG2_BITS << GRANTED_SHIFT;
        assert_eq!(word(&msi, MESSAGE_CONTROL), control | writable);
        msi.write(MESSAGE_CONTROL, &[0, 0]);
        assert_eq!(word(&msi, MESSAGE_CONTROL), control);
    }
}

#[test]
fn id_and_next_pointer_are_left_to_others() {
    let msi = state(WANTS_8);
    let mut dword = [0x05, 0x70, 0xff, 0xff];
    msi.read(0, &mut dword, 0);
    assert_eq!(dword, [0x05, 0x70, 0x06, 0x00]);
    // Behind the capability, too.
    let mut dword = [0xaa; 4];
    msi.read(8, &mut dword, 0);
    assert_eq!(dword, [0, 0, 0xaa, 0xaa]);
}

#[test]
fn reset_disables_and_unmasks() {
    let mut msi = state(WANTS_8 | PER_VECTOR_MASKING);
    msi.write(MESSAGE_CONTROL, &[0xff, 0xff]);
    msi.write(0x0c, &[0xff; 4]);
    msi.reset();
    assert!(!msi.enabled() && !msi.masked(0));
    assert_eq!(msi.control(), WANTS_8 | PER_VECTOR_MASKING);
}

proptest! {
    #[test]
    fn no_access_panics(
        control: u16,
        accesses in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..9)), 0..20),
        vector: u8,
    ) {
        let mut msi = state(control);
        for (offset, data) in accesses {
            let offset = if offset & 1 == 0 { offset } else { offset % 0x20 };
            msi.write(offset, &data);
            let mut back = data.clone();
            msi.read(offset, &mut back, u32::MAX);
        }
        let _ = msi.wanted(vector);
        prop_assert!((1..=32).contains(&msi.vectors()));
        prop_assert_eq!(msi.address & 3, 0);
        prop_assert_eq!(msi.layout(), MsiLayout::of_control(control));
    }

    #[test]
    fn byte_writes_and_dword_writes_end_alike(address: u32, data: u16) {
        let (mut bytes, mut dwords) = (state(ADDRESS_64), state(ADDRESS_64));
        dwords.write(4, &address.to_le_bytes());
        dwords.write(12, &data.to_le_bytes());
        for (at, byte) in (4..).zip(address.to_le_bytes()) {
            bytes.write(at, &[byte]);
        }
        for (at, byte) in (12..).zip(data.to_le_bytes()) {
            bytes.write(at, &[byte]);
        }
        prop_assert_eq!(bytes.message(0), dwords.message(0));
    }
}
