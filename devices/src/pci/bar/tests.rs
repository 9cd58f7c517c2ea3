use super::*;
use proptest::prelude::*;

fn bar(index: u8) -> BarIndex {
    BarIndex::new(index).unwrap()
}

fn layout(index: u8, kind: BarKind, size: u64) -> BarLayout {
    BarLayout {
        index: bar(index),
        kind,
        size,
        segments: Vec::new(),
    }
}

const IO: BarKind = BarKind::Io;
const MEM32: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const MEM64: BarKind = BarKind::Memory64 { prefetchable: true };

fn offset(register: u8) -> ConfigOffset {
    ConfigOffset::new(header::BAR0 + 4 * u16::from(register)).unwrap()
}

fn get(set: &BarSet, register: u8) -> u32 {
    let mut data = [0; 4];
    set.read(offset(register), &mut data);
    u32::from_le_bytes(data)
}

fn put(set: &mut BarSet, register: u8, value: u32) {
    set.write(offset(register), &value.to_le_bytes());
}

/// BAR 0: 64-bit 16 KiB; BAR 2: 32-bit 4 KiB; BAR 4: 32 ports.
fn example() -> BarSet {
    let layouts = [
        layout(0, MEM64, 0x4000),
        layout(2, MEM32, 0x1000),
        layout(4, IO, 32),
    ];
    BarSet::new(&layouts).unwrap()
}

/// The same with an expansion ROM.
fn with_rom(size: u64) -> Result<BarSet, BarError> {
    let rom = BarLayout {
        index: BarIndex::ROM,
        kind: MEM32,
        size,
        segments: Vec::new(),
    };
    BarSet::new(&[
        layout(0, MEM64, 0x4000),
        layout(2, MEM32, 0x1000),
        layout(4, IO, 32),
        rom,
    ])
}

/// Where the expansion ROM decodes.
fn decoded_rom(set: &BarSet) -> Option<u64> {
    let mut decoded = set.decoded(Command::MEMORY_SPACE);
    let found = decoded.find(|(bar, _)| *bar == BarIndex::ROM);
    found.map(|(_, base)| base)
}

#[test]
fn flags_tell_space_width_and_prefetchability() {
    let set = example();
    assert_eq!(get(&set, 0), 0xc);
    assert_eq!(get(&set, 1), 0);
    assert_eq!(get(&set, 2), 0);
    assert_eq!(get(&set, 4), 1);
}

#[test]
fn read_only_flags_survive_writes_of_zero_and_ones() {
    let mut set = example();
    for value in [0, u32::MAX] {
        for register in 0..6 {
            put(&mut set, register, value);
        }
        assert_eq!(get(&set, 0) & 0xf, 0xc);
        assert_eq!(get(&set, 2) & 0xf, 0);
        assert_eq!(get(&set, 4) & 0x3, 1);
    }
}

#[test]
fn registers_without_a_bar_read_zero_whatever_is_written() {
    let mut set = example();
    for register in [3, 5] {
        put(&mut set, register, u32::MAX);
        assert_eq!(get(&set, register), 0);
    }
    assert_eq!(set.kind(bar(1)), None);
    assert_eq!(set.base(bar(1)), 0);
}

#[test]
fn upper_half_holds_the_upper_32_bits() {
    let mut set = example();
    put(&mut set, 1, 0x0000_0038);
    put(&mut set, 0, 0x8000_0000);
    assert_eq!(set.base(bar(0)), 0x38_8000_0000);
}

#[test]
fn upper_16_bits_of_an_io_bar_are_hardwired_to_zero() {
    let mut set = example();
    put(&mut set, 4, u32::MAX);
    assert_eq!(get(&set, 4), 0x0000_ffe1);
    set.assign(bar(4), 0x1_c000);
    assert_eq!(set.base(bar(4)), 0xc000);
}

#[test]
fn bytes_and_words_change_their_part_only() {
    let mut set = example();
    put(&mut set, 2, 0xfebf_1000);
    set.write(ConfigOffset::new(0x1a).unwrap(), &[0xaa, 0xe0]);
    assert_eq!(set.base(bar(2)), 0xe0aa_1000);
    set.write(ConfigOffset::new(0x19).unwrap(), &[0x2f]);
    assert_eq!(set.base(bar(2)), 0xe0aa_2000);
    let mut word = [0; 2];
    set.read(ConfigOffset::new(0x1a).unwrap(), &mut word);
    assert_eq!(word, [0xaa, 0xe0]);
}

#[test]
fn only_the_space_that_command_enables_decodes() {
    let mut set = example();
    set.assign(bar(0), 0x10_0000_0000);
    set.assign(bar(2), 0xe000_0000);
    set.assign(bar(4), 0xc000);
    let decoded = |command| set.decoded(command).collect::<Vec<_>>();
    assert_eq!(decoded(Command::BUS_MASTER), []);
    assert_eq!(decoded(Command::IO_SPACE), [(bar(4), 0xc000)]);
    assert_eq!(
        decoded(Command::MEMORY_SPACE),
        [(bar(0), 0x10_0000_0000), (bar(2), 0xe000_0000)]
    );
}

#[test]
fn sizes_that_no_register_can_tell_are_refused() {
    for (kind, size) in [
        (IO, 2),
        (IO, 0x2_0000),
        (MEM32, 8),
        (MEM32, 0x3000),
        (MEM32, 1 << 32),
        (MEM64, 0),
    ] {
        let set = BarSet::new(&[layout(0, kind, size)]);
        assert_eq!(set.unwrap_err(), BarError::Size { bar: bar(0), size });
    }
}

#[test]
fn a_64_bit_bar_takes_two_registers() {
    let refused = |layouts: &[BarLayout]| BarSet::new(layouts).unwrap_err();
    let taken = |index| BarError::Register { bar: bar(index) };
    assert_eq!(refused(&[layout(5, MEM64, 16)]), taken(5));
    let upper = [layout(0, MEM64, 16), layout(1, MEM32, 16)];
    assert_eq!(refused(&upper), taken(1));
    let onto = [layout(1, MEM32, 16), layout(0, MEM64, 16)];
    assert_eq!(refused(&onto), taken(0));
    assert!(BarSet::new(&[layout(4, MEM64, 16)]).is_ok());
}

#[test]
fn expansion_rom_is_sized_with_its_enable_bit_clear() {
    let rom = ConfigOffset::new(header::EXPANSION_ROM).unwrap();
    let mut set = with_rom(0x1_0000).unwrap();
    assert_eq!(decoded_rom(&set), None);
    set.write(rom, &0xffff_f800_u32.to_le_bytes());
    let mut data = [0; 4];
    set.read(rom, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0xffff_0000);
    set.write(rom, &0xe000_0001_u32.to_le_bytes());
    assert_eq!(decoded_rom(&set), Some(0xe000_0000));
    assert_eq!(set.base(BarIndex::ROM), 0xe000_0000);
    // Memory Space is needed, too.
    assert_eq!(set.decoded(Command::IO_SPACE).last(), Some((bar(4), 0)));
    set.assign(BarIndex::ROM, 0xd000_0001);
    assert_eq!(decoded_rom(&set), None, "placing doesn't enable");
    assert_eq!(set.base(BarIndex::ROM), 0xd000_0000);
    set.reset();
    assert_eq!(set.base(BarIndex::ROM), 0);
    assert_eq!(set.kind(BarIndex::ROM), Some(MEM32));
    assert_eq!(example().kind(BarIndex::ROM), None);
    assert_eq!(with_rom(1024).unwrap_err(), BarError::Rom(1024));
}

#[test]
fn without_a_rom_its_register_is_zero() {
    let rom = ConfigOffset::new(header::EXPANSION_ROM).unwrap();
    let mut set = example();
    set.write(rom, &u32::MAX.to_le_bytes());
    let mut data = [0xff; 4];
    set.read(rom, &mut data);
    assert_eq!(data, [0; 4]);
    assert_eq!(decoded_rom(&set), None);
}

#[test]
fn reset_leaves_address_zero_and_the_size() {
    let mut set = example();
    set.assign(bar(0), 0x10_0000_0000);
    set.reset();
    assert_eq!(set.base(bar(0)), 0);
    put(&mut set, 0, u32::MAX);
    assert_eq!(get(&set, 0), 0xffff_c00c);
}

#[test]
fn bars_that_leave_are_unmapped_before_the_write_and_others_mapped_after() {
    let commit = HardwareWrite {
        offset: ConfigOffset::new(header::COMMAND).unwrap(),
        bytes: [2, 0, 0, 0],
        len: 2,
    };
    let before = [(bar(0), 0x1000), (bar(2), 0x2000)];
    let after = [(bar(0), 0x1000), (bar(2), 0x3000), (bar(4), 0x4000)];
    assert_eq!(
        remap(&before, &after, Some(commit)),
        [
            ConfigStep::UnmapBar {
                bar: bar(2),
                base: 0x2000
            },
            ConfigStep::Commit(commit),
            ConfigStep::MapBar {
                bar: bar(2),
                base: 0x3000
            },
            ConfigStep::MapBar {
                bar: bar(4),
                base: 0x4000
            },
        ]
    );
    assert_eq!(remap(&after, &after, None), []);
}

fn any_bar() -> impl Strategy<Value = (BarKind, u64)> {
    prop_oneof![
        (2u32..=16).prop_map(|log2| (IO, 1 << log2)),
        (4u32..=31, any::<bool>())
            .prop_map(|(log2, prefetchable)| (BarKind::Memory32 { prefetchable }, 1 << log2)),
        (4u32..=63, any::<bool>())
            .prop_map(|(log2, prefetchable)| (BarKind::Memory64 { prefetchable }, 1 << log2)),
    ]
}

/// The sizing algorithm of section 6.2.5.1, as software runs it.
fn sized(set: &mut BarSet, register: u8) -> u64 {
    let old = get(set, register);
    put(set, register, u32::MAX);
    let low = get(set, register);
    put(set, register, old);
    let mask = if low & 1 == 1 {
        // "If the upper 16 bits read zero, they are not counted."
        u64::from(low & !3) | 0xffff_ffff_ffff_0000
    } else if low & 0b110 == 0b100 {
        let old = get(set, register + 1);
        put(set, register + 1, u32::MAX);
        let high = get(set, register + 1);
        put(set, register + 1, old);
        u64::from(high) << 32 | u64::from(low & !0xf)
    } else {
        u64::from(low & !0xf) | 0xffff_ffff_0000_0000
    };
    (!mask).wrapping_add(1)
}

proptest! {
    #[test]
    fn sizing_finds_the_size_and_restores_the_address(
        (kind, size) in any_bar(), index in 0u8..5, base: u64,
    ) {
        let mut set = BarSet::new(&[layout(index, kind, size)]).unwrap();
        set.assign(bar(index), base);
        let before = set.base(bar(index));
        prop_assert_eq!(sized(&mut set, index), size);
        prop_assert_eq!(set.base(bar(index)), before);
    }

    #[test]
    fn what_is_read_back_is_what_was_written_under_the_mask(
        (kind, size) in any_bar(), value: u64,
    ) {
        let reach = match kind {
            BarKind::Io => 0xffff,
            BarKind::Memory32 { .. } => 0xffff_ffff,
            BarKind::Memory64 { .. } => u64::MAX,
        };
        let expected = value & !(size - 1) & reach;
        let mut written = BarSet::new(&[layout(0, kind, size)]).unwrap();
        written.write(offset(0), &value.to_le_bytes()[..4]);
        written.write(offset(1), &value.to_le_bytes()[4..]);
        prop_assert_eq!(written.base(bar(0)), expected);
        let mut assigned = BarSet::new(&[layout(0, kind, size)]).unwrap();
        assigned.assign(bar(0), value);
        prop_assert_eq!(assigned.base(bar(0)), expected);
    }

    #[test]
    fn any_access_stays_in_its_register(
        at in 0u16..4096, data in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        let mut set = with_rom(0x800).unwrap();
        let at = ConfigOffset::new(at).unwrap();
        set.write(at, &data);
        let mut back = data.clone();
        set.read(at, &mut back);
        if !BarSet::contains(at) {
            prop_assert!(back.iter().all(|byte| *byte == 0xff));
        }
        for register in 0..6 {
            if BarSet::contains(at) && at.get() & !3 != offset(register).get() {
                prop_assert_eq!(get(&set, register), get(&example(), register));
            }
        }
    }
}
