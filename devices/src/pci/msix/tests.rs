use super::*;
use proptest::prelude::*;

const ON: MsixState = MsixState {
    enable: true,
    function_mask: false,
};

/// Writes a message to a vector and unmasks it.
fn program(table: &mut MsixTable, vector: u16, message: MsiMessage) {
    let entry = u64::from(vector) * ENTRY_SIZE;
    table.write(entry, &message.address.to_le_bytes());
    table.write(entry + 8, &message.data.to_le_bytes());
    table.write(entry + 12, &[0; 4]);
}

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data,
    }
}

#[test]
fn every_vector_is_masked_after_reset() {
    let mut table = MsixTable::new(3).unwrap();
    table.set_state(ON);
    for vector in 0..3u16 {
        let mut control = [0; 4];
        table.read(u64::from(vector) * 16 + 12, &mut control);
        assert_eq!(control, [1, 0, 0, 0]);
        assert_eq!(table.wanted(vector), None);
    }
    program(&mut table, 1, message(0x31));
    table.reset();
    table.set_state(ON);
    assert_eq!(table.in_use().count(), 0);
}

#[test]
fn a_table_has_1_to_2048_entries() {
    assert!(MsixTable::new(0).is_none());
    assert!(MsixTable::new(2049).is_none());
    let table = MsixTable::new(2048).unwrap();
    assert_eq!((table.entries(), table.control()), (2048, 0x07ff));
}

#[test]
fn a_vector_sends_when_enabled_and_unmasked_at_all_three_places() {
    let mut table = MsixTable::new(2).unwrap();
    program(&mut table, 1, message(0x41));
    assert_eq!(table.wanted(1), None);
    assert_eq!(table.set_state(ON), [1]);
    assert_eq!(table.wanted(1), Some(message(0x41)));
    assert_eq!(table.in_use().collect::<Vec<_>>(), [1]);
    let masked = MsixState {
        function_mask: true,
        ..ON
    };
    assert_eq!(table.set_state(masked), [1]);
    assert_eq!(table.wanted(1), None);
    assert_eq!(table.in_use().count(), 0);
    assert_eq!(table.set_state(ON), [1]);
    assert_eq!(table.write(16 + 12, &[1, 0, 0, 0]), Some(1));
    assert_eq!(table.wanted(1), None);
    assert_eq!(table.wanted(2), None);
}

#[test]
fn only_a_write_that_matters_is_told() {
    let mut table = MsixTable::new(2).unwrap();
    table.set_state(ON);
    // A masked vector may be written as often as one likes.
    assert_eq!(table.write(0, &0xfee0_0000_u64.to_le_bytes()), None);
    assert_eq!(table.write(8, &[0x31, 0, 0, 0]), None);
    assert_eq!(table.write(12, &[0; 4]), Some(0));
    assert_eq!(table.write(12, &[0; 4]), None);
    assert_eq!(table.write(8, &[0x32, 0, 0, 0]), Some(0));
    assert!(table.set_state(ON).is_empty());
}

#[test]
fn a_qword_write_takes_data_and_vector_control_at_once() {
    let mut table = MsixTable::new(1).unwrap();
    table.set_state(ON);
    table.write(0, &0xfee0_0000_u64.to_le_bytes());
    assert_eq!(
        table.write(8, &0x0000_0000_0000_0051_u64.to_le_bytes()),
        Some(0)
    );
    assert_eq!(table.wanted(0), Some(message(0x51)));
}

#[test]
fn unaligned_and_narrow_table_accesses_are_refused() {
    let mut table = MsixTable::new(1).unwrap();
    program(&mut table, 0, message(0x31));
    table.set_state(ON);
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (2, 4),
        (4, 8),
        (12, 8),
        (0, 0),
        (0, 16),
        (16, 4),
    ] {
        assert_eq!(
            table.write(offset, &vec![0xff; len]),
            None,
            "{offset} {len}"
        );
        let mut data = vec![0; len];
        table.read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0xff), "{offset} {len}");
    }
    assert_eq!(table.wanted(0), Some(message(0x31)));
}

#[test]
fn reserved_bits_of_an_entry_read_as_zero() {
    let mut table = MsixTable::new(1).unwrap();
    table.write(0, &[0xff; 8]);
    table.write(8, &[0xff; 8]);
    let mut data = [0; 8];
    table.read(0, &mut data);
    assert_eq!(u64::from_le_bytes(data), !3);
    table.read(8, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x1_ffff_ffff);
}

#[test]
fn only_enable_and_function_mask_can_be_written_in_message_control() {
    let mut table = MsixTable::new(0x40).unwrap();
    program(&mut table, 0x3f, message(1));
    assert!(table.write_capability(2, &[0xff, 0xff]).is_empty());
    assert_eq!(table.control(), 0xc03f);
    // The upper byte alone, as Linux never does but may.
    assert_eq!(table.write_capability(3, &[0x80]), [0x3f]);
    assert_eq!(table.control(), 0x803f);
    // A dword from the id on, and the table register.
    assert_eq!(table.write_capability(0, &[0xff, 0xff, 0, 0]), [0x3f]);
    assert!(table.write_capability(4, &[0xff; 4]).is_empty());
    assert_eq!(table.state(), MsixState::default());
}

#[test]
fn pending_bits_are_asked_for_vector_by_vector() {
    let table = MsixTable::new(70).unwrap();
    let pending = |vector| vector == 1 || vector == 64 || vector > 69;
    let mut data = [0; 8];
    table.read_pba(0, &mut data, pending);
    assert_eq!(u64::from_le_bytes(data), 0b10);
    table.read_pba(8, &mut data, pending);
    assert_eq!(u64::from_le_bytes(data), 0b1);
    table.read_pba(16, &mut data, pending);
    assert_eq!(data, [0xff; 8]);
    let mut byte = [0];
    table.read_pba(0, &mut byte, pending);
    assert_eq!(byte, [0xff]);
}

#[test]
fn capability_tells_where_table_and_pba_are() {
    let config = [
        0x11, 0x00, 0x3f, 0x80, 0x03, 0x20, 0x00, 0x00, 0x04, 0x30, 0x00, 0x00,
    ];
    let capability = MsixCapability::parse(&config, 0).unwrap();
    assert_eq!(capability.entries, 64);
    assert_eq!(
        (capability.table_bar.get(), capability.table_offset),
        (3, 0x2000)
    );
    assert_eq!(
        (capability.pba_bar.get(), capability.pba_offset),
        (4, 0x3000)
    );
    assert_eq!((capability.table_size(), capability.pba_size()), (0x400, 8));
    let mut reserved_bir = config;
    reserved_bir[4] = 0x07;
    assert_eq!(MsixCapability::parse(&reserved_bir, 0), None);
    assert_eq!(MsixCapability::parse(&config[..11], 0), None);
}

proptest! {
    #[test]
    fn no_access_panics_and_what_is_told_is_what_changed(
        entries in 1u16..100,
        writes in prop::collection::vec(
            (0u64..1700, prop::collection::vec(any::<u8>(), 0..9), any::<u16>()), 0..60,
        ),
    ) {
        let mut table = MsixTable::new(entries).unwrap();
        let wanted = |table: &MsixTable| (0..entries).map(|v| table.wanted(v)).collect::<Vec<_>>();
        for (offset, data, control) in writes {
            let before = wanted(&table);
            let mut told: Vec<u16> = table.write(offset & !3, &data).into_iter().collect();
            told.extend(table.write(offset, &data));
            let between = wanted(&table);
            for vector in 0..entries {
                let index = usize::from(vector);
                prop_assert!(before[index] == between[index] || told.contains(&vector));
            }
            let told = table.set_state(MsixState::of_control(control));
            let after = wanted(&table);
            for vector in 0..entries {
                let index = usize::from(vector);
                prop_assert_eq!(between[index] != after[index], told.contains(&vector));
            }
            let mut back = data.clone();
            table.read(offset, &mut back);
            table.read_pba(offset, &mut back, |v| v % 3 == 0);
            table.write_capability(control, &data);
        }
    }

    #[test]
    fn dword_and_qword_writes_end_alike(address: u64, data: u32, masked: bool) {
        let (mut dwords, mut qwords) =
            (MsixTable::new(1).unwrap(), MsixTable::new(1).unwrap());
        let control = u64::from(masked) << 32;
        qwords.write(0, &address.to_le_bytes());
        qwords.write(8, &(u64::from(data) | control).to_le_bytes());
        dwords.write(0, &address.to_le_bytes()[..4]);
        dwords.write(4, &address.to_le_bytes()[4..]);
        dwords.write(8, &data.to_le_bytes());
        dwords.write(12, &u32::from(masked).to_le_bytes());
        for table in [&mut dwords, &mut qwords] {
            table.set_state(ON);
        }
        prop_assert_eq!(dwords.wanted(0), qwords.wanted(0));
        prop_assert_eq!(dwords.wanted(0).is_none(), masked);
    }
}
