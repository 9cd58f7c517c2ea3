use crate::pci::{BarIndex, ConfigStep, HardwareWrite, PciFunction};
use crate::vfio::motion::{Motion, MotionSupport};
use crate::vfio::tests::support::{
    COMMAND, IGB_EXPRESS, IGB_MSI, IGB_MSIX, IGB_PMCSR, Machine, igb, nvme, rtl8139,
};
use proptest::prelude::*;

const BAR0: u16 = 0x10;
const IO: u32 = 1;
const MEMORY: u32 = 2;
const BUS_MASTER: u32 = 4;
const DEVICE_CONTROL: u16 = IGB_EXPRESS + 8;
const INITIATE_FLR: u32 = 1 << 15;

fn bar(index: u8) -> BarIndex {
    BarIndex::new(index).unwrap()
}

/// An igb whose BARs have addresses.
fn assigned() -> Machine {
    let machine = Machine::new(&igb());
    for (index, base) in [
        (0, 0xe000_0000),
        (1, 0xe040_0000),
        (2, 0xc000),
        (3, 0xe080_0000),
    ] {
        machine.device.assign_bar(bar(index), base);
    }
    machine
}

fn commits(steps: &[ConfigStep]) -> Vec<HardwareWrite> {
    let commit = |step: &ConfigStep| match step {
        ConfigStep::Commit(write) => Some(*write),
        _ => None,
    };
    steps.iter().filter_map(commit).collect()
}

#[test]
fn the_guest_starts_with_decoding_off_in_hardware() {
    let machine = assigned();
    assert_eq!(machine.read(COMMAND, 2), 0);
    assert_eq!(machine.device.stop_decoding(), []);
}

#[test]
fn sizing_a_bar_reads_its_size_and_flags() {
    let mut machine = Machine::new(&nvme());
    machine.write(BAR0, 4, u32::MAX);
    machine.write(BAR0 + 4, 4, u32::MAX);
    assert_eq!(machine.read(BAR0, 4), 0xffff_c004);
    assert_eq!(machine.read(BAR0 + 4, 4), u32::MAX);
    let mut machine = Machine::new(&rtl8139());
    machine.write(BAR0, 4, u32::MAX);
    assert_eq!(machine.read(BAR0, 4), 0xff01);
    // The ROM and the registers without a BAR are hardwired to zero.
    for offset in [0x18, 0x1c, 0x20, 0x24, 0x30] {
        machine.write(offset, 4, u32::MAX);
        assert_eq!(machine.read(offset, 4), 0);
    }
}

#[test]
fn memory_space_on_writes_hardware_before_mapping() {
    let mut machine = assigned();
    let steps = machine.write(COMMAND, 2, MEMORY | BUS_MASTER);
    assert_eq!(commits(&steps), []);
    assert_eq!(steps.len(), 3);
    assert_eq!(machine.map[&bar(3)], 0xe080_0000);
    // Bus mastering reaches the hardware.
    assert_eq!(machine.read(COMMAND, 2), MEMORY | BUS_MASTER);
    let more = machine.write(COMMAND, 2, MEMORY | BUS_MASTER | IO);
    let base = 0xc000;
    assert_eq!(more, [ConfigStep::MapBar { bar: bar(2), base }]);
}

#[test]
fn memory_space_off_unmaps_before_writing_hardware() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY);
    let steps = machine.write(COMMAND, 2, 0);
    assert_eq!(steps.len(), 4);
    assert!(matches!(steps[3], ConfigStep::Commit(_)));
    assert!(machine.map.is_empty());
    assert_eq!(machine.read(COMMAND, 2), 0);
}

#[test]
fn a_bar_moves_while_decoding_without_touching_hardware() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY);
    let steps = machine.write(BAR0, 4, 0xf000_0000);
    let (old, new) = (0xe000_0000, 0xf000_0000);
    assert_eq!(
        steps,
        [
            ConfigStep::UnmapBar {
                bar: bar(0),
                base: old
            },
            ConfigStep::MapBar {
                bar: bar(0),
                base: new
            },
        ]
    );
}

#[test]
fn leaving_d0_unmaps_first_and_coming_back_maps_last() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY);
    let steps = machine.write(IGB_PMCSR, 2, 3);
    assert!(matches!(steps[..], [.., ConfigStep::Commit(_)]));
    assert!(machine.map.is_empty());
    assert_eq!(machine.read(IGB_PMCSR, 2), 3);
    let steps = machine.write(IGB_PMCSR, 2, 0);
    assert_eq!(commits(&steps), []);
    assert_eq!(machine.map.len(), 3);
}

#[test]
fn a_power_state_that_the_device_lacks_changes_nothing() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY);
    assert_eq!(machine.write(IGB_PMCSR, 2, 1), []);
    assert_eq!(machine.map.len(), 3);
}

#[test]
fn function_level_reset_takes_the_function_off_the_bus_first() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY | BUS_MASTER);
    machine.write(0x3c, 1, 11);
    let steps = machine.write(DEVICE_CONTROL, 2, INITIATE_FLR);
    assert_eq!(commits(&steps).len(), 1);
    assert!(machine.map.is_empty());
    let writes = machine.host.state().config_writes.clone();
    let [.., (flr, _), (command, value)] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(
        (*flr, *command, &value[..]),
        (DEVICE_CONTROL, COMMAND, &[0, 0][..])
    );
    assert_eq!(machine.read(BAR0, 4), 0);
    assert_eq!(machine.read(0x3c, 1), 0);
}

#[test]
fn what_the_guest_must_not_write_stays() {
    let mut machine = assigned();
    // Interrupt Line with Interrupt Pin, Min_Gnt and Max_Lat.
    machine.write(0x3c, 4, u32::MAX);
    assert_eq!(machine.read(0x3c, 4), 0x0000_01ff);
    machine.write(0x0e, 1, 0xff);
    assert_eq!(machine.read(0x0e, 1), 0);
    // Device Control 2: LTR Enable is not the guest's, the rest is.
    machine.host.state().config_writes.clear();
    machine.write(IGB_EXPRESS + 0x28, 2, 0x0405);
    let writes = machine.host.state().config_writes.clone();
    assert_eq!(writes, [(IGB_EXPRESS + 0x28, vec![0x05, 0x00])]);
}

#[test]
fn a_failed_write_leaves_nothing_mapped() {
    let mut machine = assigned();
    machine.host.state().broken = true;
    assert_eq!(machine.write(COMMAND, 2, MEMORY), []);
    assert!(machine.device.failures() > 0);
    machine.host.state().broken = false;
    assert_eq!(machine.write(COMMAND, 2, MEMORY).len(), 3);
}

#[test]
fn stop_decoding_ends_with_the_hardware_write() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY | IO | BUS_MASTER);
    let steps = machine.device.stop_decoding();
    assert_eq!(steps.len(), 5);
    machine.carry_out(&steps);
    assert_eq!(machine.read(COMMAND, 2), BUS_MASTER);
    machine.device.quiesce();
    assert_eq!(machine.read(COMMAND, 2), 0);
}

#[test]
fn reset_wakes_the_function_and_forgets_everything() {
    let mut machine = assigned();
    machine.write(COMMAND, 2, MEMORY | BUS_MASTER);
    machine.write(IGB_PMCSR, 2, 3);
    let steps = machine.device.stop_decoding();
    machine.carry_out(&steps);
    machine.device.reset().unwrap();
    assert_eq!(machine.host.state().resets, 1);
    assert_eq!(machine.read(IGB_PMCSR, 2), 0);
    assert_eq!(machine.read(COMMAND, 2), 0);
    assert_eq!(machine.read(BAR0, 4), 0);
}

#[test]
fn a_device_without_reset_says_so() {
    let mut probe = igb();
    probe.flags &= !1;
    let machine = Machine::new(&probe);
    assert!(matches!(
        machine.device.reset(),
        Err(crate::pci::ResetError::Unsupported(_))
    ));
    assert_eq!(machine.host.state().resets, 0);
}

#[test]
fn trapped_bar_accesses_reach_the_device() {
    let machine = assigned();
    assert_eq!(machine.bar_read(0, 0x20), 0x2020_2020);
    machine.table_write(2, 0x4, 0x1234_5678);
    let writes = machine.host.state().bar_writes.clone();
    assert_eq!(writes, [(2, 4, 0x1234_5678u32.to_le_bytes().to_vec())]);
    machine.host.state().broken = true;
    assert_eq!(machine.bar_read(0, 0x20), u32::MAX);
    assert_eq!(machine.device.failures(), 1);
}

#[test]
fn an_access_that_comes_as_the_device_leaves_is_no_failure() {
    let machine = assigned();
    machine.device.quiesce();
    machine.host.state().broken = true;
    assert_eq!(machine.bar_read(0, 0x20), u32::MAX);
    machine.table_write(2, 0x4, 0x1234_5678);
    assert_eq!(machine.device.failures(), 0);
}

#[test]
fn a_device_is_stopped_as_far_as_its_driver_can() {
    let machine = assigned();
    let steps = [Motion::Passive, Motion::Stopped];
    let set = || steps.map(|motion| machine.device.set_motion(motion).unwrap());
    assert_eq!(set(), [false, false]);
    machine.host.state().motion = Some(MotionSupport { passive: false });
    assert_eq!(set(), [false, true]);
    machine.host.state().motion = Some(MotionSupport { passive: true });
    assert_eq!(set(), [true, true]);
    let motions = machine.host.state().motions.clone();
    assert_eq!(motions, [Motion::Stopped, Motion::Passive, Motion::Stopped]);
}

#[test]
fn segments_are_mapped_congruent_to_their_place_in_the_bar() {
    let machine = assigned();
    let layout = &machine.device.bars()[3];
    assert_eq!(layout.segments.len(), 2);
    let [first, second] = &layout.segments[..] else {
        panic!("{layout:?}");
    };
    let apart = second.host.address() - first.host.address();
    assert_eq!(apart as u64, second.offset - first.offset);
}

/// Registers where things happen, and some where nothing does.
fn interesting_offset() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => Just(COMMAND),
        4 => (0u16..6).prop_map(|n| BAR0 + n * 4),
        2 => Just(IGB_PMCSR),
        2 => (0u16..6).prop_map(|n| IGB_MSI + n * 4),
        2 => (0u16..3).prop_map(|n| IGB_MSIX + n * 4),
        1 => Just(DEVICE_CONTROL),
        1 => (0u16..1024).prop_map(|n| n * 4),
    ]
}

fn interesting_value() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0u32..8, Just(u32::MAX), Just(INITIATE_FLR)]
}

proptest! {
    /// The machine checks that steps pair up and that nothing is mapped that doesn't decode.
    #[test]
    fn config_writes_in_any_order_keep_map_and_hardware_in_step(
        writes in proptest::collection::vec(
            (interesting_offset(), 0u16..4, 0u32..3, interesting_value()), 1..60
        ),
    ) {
        let mut machine = assigned();
        for (offset, byte, shift, value) in writes {
            let len = 1usize << shift;
            let byte = byte & !(u16::try_from(len).unwrap() - 1);
            machine.write(offset + byte, len, value);
            let _ = machine.read(offset, 4);
        }
        let steps = machine.device.stop_decoding();
        machine.carry_out(&steps);
        prop_assert!(machine.map.is_empty());
        machine.device.reset().unwrap();
        prop_assert_eq!(machine.device.armed_vectors(), Vec::<u32>::new());
        prop_assert_eq!(machine.read(COMMAND, 2), 0);
        prop_assert!(machine.router.routes().msi.is_empty());
    }

    #[test]
    fn bar_accesses_of_any_width_and_place_answer(
        bar in 0u8..6, offset: u64, len in 0usize..17, value: u8,
    ) {
        let machine = assigned();
        let bar = BarIndex::new(bar).unwrap();
        let mut data = vec![value; len];
        machine.device.bar_write(bar, offset, &data);
        machine.device.bar_read(bar, offset, &mut data);
    }
}

#[test]
fn only_a_write_that_sets_bus_master_enable_starts_dma() {
    let machine = assigned();
    let starts = |offset: u16, data: &[u8]| {
        let offset = crate::pci::ConfigOffset::new(offset).unwrap();
        machine.device.starts_dma(offset, data)
    };
    assert!(starts(COMMAND, &[4]));
    assert!(starts(COMMAND, &[6, 4]));
    assert!(starts(COMMAND, &[4, 0, 0, 0]));
    assert!(!starts(COMMAND, &[3, 4]));
    assert!(!starts(COMMAND + 1, &[4]));
    assert!(!starts(COMMAND + 4, &[4, 4, 4, 4]));
}
