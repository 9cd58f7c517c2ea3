use crate::pci::header::{COMMAND, EXPANSION_ROM};
use crate::pci::{BarIndex, ConfigStep, PciFunction};
use crate::vfio::plan::{PassthroughPlan, PassthroughSpec, PlanError};
use crate::vfio::probe::{Region, VfioProbe};
use crate::vfio::rom::{RomChoice, RomImage, RomImageError};
use crate::vfio::tests::support::{Machine, igb, rom_byte, spec};
use vfio_bindings::bindings::vfio::{VFIO_PCI_ROM_REGION_INDEX, VFIO_REGION_INFO_FLAG_READ};

const BASE: u32 = 0xc010_0000;

fn with_rom(size: u64) -> VfioProbe {
    let mut probe = igb();
    let mut rom = Region::new(VFIO_PCI_ROM_REGION_INDEX, size);
    rom.flags = VFIO_REGION_INFO_FLAG_READ;
    probe.regions.insert(4, rom);
    probe
}

fn planned(probe: &VfioProbe, rom: RomChoice) -> Result<PassthroughPlan, PlanError> {
    let spec = PassthroughSpec { rom, ..spec() };
    PassthroughPlan::new(probe, &spec)
}

fn machine(probe: &VfioProbe, rom: RomChoice) -> Machine {
    Machine::with_plan(probe, planned(probe, rom).unwrap())
}

fn image(len: usize) -> RomImage {
    let mut bytes = vec![0x77; len];
    bytes[..2].copy_from_slice(&[0x55, 0xaa]);
    RomImage::new(bytes).unwrap()
}

fn read(machine: &Machine, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    machine.device.bar_read(BarIndex::ROM, offset, &mut data);
    data
}

/// The size as software finds it.
fn sized(machine: &mut Machine) -> u32 {
    let before = machine.read(EXPANSION_ROM, 4);
    machine.write(EXPANSION_ROM, 4, 0xffff_f800);
    let mask = machine.read(EXPANSION_ROM, 4);
    machine.write(EXPANSION_ROM, 4, before);
    if mask == 0 { 0 } else { !mask + 1 }
}

#[test]
fn a_rom_decodes_where_it_is_placed_while_both_enable_bits_are_set() {
    let mut machine = machine(&with_rom(0x4_0000), RomChoice::IfReadable);
    assert_eq!(sized(&mut machine), 0x4_0000);
    let mapped = |machine: &Machine| machine.map.get(&BarIndex::ROM).copied();
    machine.write(EXPANSION_ROM, 4, BASE | 1);
    assert_eq!(mapped(&machine), None, "Memory Space is off");
    machine.write(COMMAND, 2, 2);
    assert_eq!(mapped(&machine), Some(BASE.into()));
    let steps = machine.write(EXPANSION_ROM, 4, (BASE + 0x4_0000) | 1);
    assert_eq!(steps.len(), 2, "moved: {steps:?}");
    assert_eq!(mapped(&machine), Some(u64::from(BASE) + 0x4_0000));
    machine.write(EXPANSION_ROM, 4, BASE);
    assert_eq!(mapped(&machine), None, "its own bit is off");
    let only = machine.write(EXPANSION_ROM, 1, 1);
    let base = BASE.into();
    let bar = BarIndex::ROM;
    assert_eq!(only, [ConfigStep::MapBar { bar, base }]);
}

#[test]
fn the_device_is_read_when_the_guest_reads_and_once() {
    let machine = machine(&with_rom(0x2_0000), RomChoice::Shown);
    let reads = || machine.host.state().rom_reads.clone();
    assert_eq!(reads(), [], "nothing at start-up");
    assert_eq!(read(&machine, 0, 2), [0x55, 0xaa]);
    assert_eq!(read(&machine, 0x1234, 1), [rom_byte(0x1234)]);
    assert_eq!(reads(), [(0, 0x1_0000)]);
    let across: Vec<u8> = (0xfffc..0x1_0004).map(rom_byte).collect();
    assert_eq!(read(&machine, 0xfffc, 8), across);
    assert_eq!(reads(), [(0, 0x1_0000), (0x1_0000, 0x1_0000)]);
}

#[test]
fn a_failed_read_shows_ones_and_is_tried_again() {
    let machine = machine(&with_rom(0x800), RomChoice::IfReadable);
    machine.host.state().broken = true;
    assert_eq!(read(&machine, 0, 4), [0xff; 4]);
    assert_eq!(machine.device.failures(), 1);
    machine.host.state().broken = false;
    assert_eq!(read(&machine, 0, 2), [0x55, 0xaa]);
}

#[test]
fn a_guest_cannot_write_a_rom() {
    let machine = machine(&with_rom(0x800), RomChoice::IfReadable);
    machine.device.bar_write(BarIndex::ROM, 0, &[0; 4]);
    assert_eq!(machine.host.state().bar_writes, []);
    assert_eq!(read(&machine, 0, 2), [0x55, 0xaa]);
}

#[test]
fn rom_off_hides_the_register_and_a_file_takes_its_place() {
    let probe = with_rom(0x4_0000);
    assert_eq!(sized(&mut machine(&probe, RomChoice::Hidden)), 0);
    assert_eq!(sized(&mut machine(&igb(), RomChoice::IfReadable)), 0);

    let choice = RomChoice::Image(image(5000));
    let mut machine = machine(&probe, choice);
    assert_eq!(sized(&mut machine), 0x2000);
    assert_eq!(read(&machine, 4998, 4), [0x77, 0x77, 0xff, 0xff]);
    assert_eq!(machine.host.state().rom_reads, []);
}

#[test]
fn a_rom_asked_for_must_be_there() {
    let error = planned(&igb(), RomChoice::Shown).unwrap_err();
    assert!(matches!(error, PlanError::NoRom(_)), "{error}");
    let mut unreadable = with_rom(0x800);
    unreadable.regions[4].flags = 0;
    assert!(planned(&unreadable, RomChoice::Shown).is_err());
    assert!(planned(&unreadable, RomChoice::IfReadable).is_ok());
    // What no register can describe.
    assert!(planned(&with_rom(1 << 25), RomChoice::Shown).is_err());
}

#[test]
fn bytes_that_are_no_rom_are_refused() {
    let error = |bytes: &[u8]| RomImage::new(bytes.to_vec()).unwrap_err().to_string();
    let expected = "an expansion ROM with 55 aa";
    assert_eq!(error(b""), format!("it begins with nothing, {expected}"));
    assert_eq!(error(&[0x55]), format!("it begins with 55, {expected}"));
    assert_eq!(
        error(b"\x7fELF"),
        format!("it begins with 7f 45, {expected}")
    );
    let mut large = vec![0; 0x100_0001];
    large[..2].copy_from_slice(&[0x55, 0xaa]);
    let error = RomImage::new(large).unwrap_err();
    assert_eq!(error, RomImageError::TooLarge(0x100_0001));
}
