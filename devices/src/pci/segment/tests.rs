use super::*;
use crate::pci::{BarIndex, BarLayout, ConfigOffset, HardwareWrite, ResetError};
use proptest::prelude::*;
use std::sync::{Mutex, Weak};

/// A function of which each config byte reads as the low byte of its offset, header type 0xff.
#[derive(Default)]
struct Ramp {
    written: Mutex<Vec<(u16, Vec<u8>)>>,
    segment: Weak<PciSegment>,
}

impl PciFunction for Ramp {
    fn name(&self) -> &str {
        "ramp"
    }
    fn config_read(&self, offset: ConfigOffset, data: &mut [u8]) {
        for (at, byte) in (offset.get()..).zip(data) {
            *byte = match at {
                header::HEADER_TYPE => 0xff,
                _ => at.to_le_bytes()[0],
            };
        }
    }
    fn config_write(&self, offset: ConfigOffset, data: &[u8]) -> Vec<ConfigStep> {
        self.written
            .lock()
            .unwrap()
            .push((offset.get(), data.to_vec()));
        if let Some(segment) = self.segment.upgrade() {
            // Would block forever if the table were locked during the call.
            segment.remove(bdf(5, 0));
        }
        let bar = BarIndex::new(0).unwrap();
        vec![ConfigStep::UnmapBar { bar, base: 0x1000 }]
    }
    fn commit(&self, _: HardwareWrite) {}
    fn bars(&self) -> &[BarLayout] {
        &[]
    }
    fn assign_bar(&self, _: BarIndex, _: u64) {}
    fn bar_read(&self, _: BarIndex, _: u64, _: &mut [u8]) {}
    fn bar_write(&self, _: BarIndex, _: u64, _: &[u8]) {}
    fn stop_decoding(&self) -> Vec<ConfigStep> {
        Vec::new()
    }
    fn reset(&self) -> Result<(), ResetError> {
        Ok(())
    }
}

fn bdf(device: u8, function: u8) -> GuestBdf {
    GuestBdf::new(device, function).unwrap()
}

fn ecam(bdf: GuestBdf, register: u16) -> u64 {
    u64::from(bdf.devfn()) << 12 | u64::from(register)
}

fn read<const N: usize>(segment: &PciSegment, bdf: GuestBdf, register: u16) -> [u8; N] {
    let mut data = [0xa5; N];
    segment.ecam_read(ecam(bdf, register), &mut data);
    data
}

#[test]
fn a_scan_finds_the_host_bridge_and_empty_slots() {
    let segment = PciSegment::new();
    assert_eq!(read(&segment, bdf(0, 0), 0), [0x86, 0x80, 0x57, 0x0d]);
    assert_eq!(read(&segment, bdf(0, 1), 0), [0xff; 4]);
    assert_eq!(read(&segment, bdf(31, 7), 0), [0xff; 4]);
}

#[test]
fn other_buses_are_empty() {
    let segment = PciSegment::new();
    let mut data = [0; 4];
    segment.ecam_read(1 << 20, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert!(segment.ecam_write(1 << 20, &[0; 4]).is_none());
}

#[test]
fn ports_and_ecam_reach_the_same_function() {
    let segment = PciSegment::new();
    segment
        .insert(bdf(3, 2), Arc::new(Ramp::default()))
        .unwrap();
    assert!(
        segment
            .port_write(0, &0x8000_1a40_u32.to_le_bytes())
            .is_none()
    );
    let mut latch = [0; 4];
    segment.port_read(0, &mut latch);
    assert_eq!(u32::from_le_bytes(latch), 0x8000_1a40);
    let mut word = [0; 2];
    segment.port_read(6, &mut word);
    assert_eq!(word, [0x42, 0x43]);
    assert_eq!(read(&segment, bdf(3, 2), 0x42), word);
    assert_eq!(segment.port_write(7, &[9]).unwrap().bdf, bdf(3, 2));
    segment.reset();
    segment.port_read(6, &mut word);
    assert_eq!(word, [0xff; 2]);
}

#[test]
fn an_address_holds_one_function() {
    let segment = PciSegment::new();
    let taken = segment.insert(bdf(0, 0), Arc::new(Ramp::default()));
    let taken = taken.unwrap_err();
    assert_eq!(taken.to_string(), "0000:00:00.0 is taken by host bridge");
    assert!(segment.remove(bdf(1, 0)).is_none());
    segment
        .insert(bdf(1, 0), Arc::new(Ramp::default()))
        .unwrap();
    assert_eq!(segment.remove(bdf(1, 0)).unwrap().name(), "ramp");
    assert_eq!(read(&segment, bdf(1, 0), 0), [0xff; 4]);
    assert_eq!(segment.functions().len(), 1);
}

#[test]
fn the_lowest_slot_without_any_function_is_free() {
    let segment = PciSegment::new();
    assert_eq!(segment.free_slot(), Some(bdf(1, 0)));
    segment
        .insert(bdf(1, 3), Arc::new(Ramp::default()))
        .unwrap();
    assert_eq!(segment.free_slot(), Some(bdf(2, 0)));
    for device in 2..32 {
        segment
            .insert(bdf(device, 0), Arc::new(Ramp::default()))
            .unwrap();
    }
    assert_eq!(segment.free_slot(), None);
}

#[test]
fn multi_function_bit_tells_of_neighbours_in_the_slot() {
    let segment = PciSegment::new();
    segment
        .insert(bdf(4, 0), Arc::new(Ramp::default()))
        .unwrap();
    // The device's own bit is set, but it is alone here.
    assert_eq!(read(&segment, bdf(4, 0), header::HEADER_TYPE), [0x7f]);
    assert!(!segment.is_multi_function(4));
    segment
        .insert(bdf(4, 1), Arc::new(Ramp::default()))
        .unwrap();
    assert!(segment.is_multi_function(4));
    assert_eq!(read(&segment, bdf(4, 0), header::HEADER_TYPE), [0xff]);
    assert_eq!(read(&segment, bdf(4, 0), 0x0c), [0x0c, 0x0d, 0xff, 0x0f]);
    // An access beside the register is left alone.
    assert_eq!(read(&segment, bdf(4, 0), 0x0c), [0x0c, 0x0d]);
    assert_eq!(read(&segment, bdf(4, 0), 0x0f), [0x0f]);
    assert_eq!(read(&segment, bdf(4, 0), 0x10), [0x10]);
}

#[test]
fn a_write_returns_the_function_and_its_steps() {
    let segment = PciSegment::new();
    let ramp = Arc::new(Ramp::default());
    segment.insert(bdf(3, 0), ramp.clone()).unwrap();
    let write = segment.ecam_write(ecam(bdf(3, 0), 0x10), &[1, 2]).unwrap();
    assert_eq!((write.bdf, write.steps.len()), (bdf(3, 0), 1));
    assert_eq!(write.function.name(), "ramp");
    assert!(segment.ecam_write(ecam(bdf(3, 1), 0x10), &[1, 2]).is_none());
    assert!(segment.ecam_write(ecam(bdf(3, 0), 0x13), &[1, 2]).is_none());
    assert_eq!(*ramp.written.lock().unwrap(), [(0x10, vec![1, 2])]);
}

#[test]
fn a_function_is_called_with_the_table_unlocked() {
    let segment = Arc::new(PciSegment::new());
    let ramp = Ramp {
        segment: Arc::downgrade(&segment),
        ..Ramp::default()
    };
    segment.insert(bdf(5, 0), Arc::new(ramp)).unwrap();
    assert!(segment.ecam_write(ecam(bdf(5, 0), 4), &[0]).is_some());
    assert!(segment.find(bdf(5, 0)).is_none());
}

proptest! {
    #[test]
    fn no_access_panics_and_what_is_not_there_reads_as_ones(
        latch: u32, port in 0u64..10, offset: u64, len in 0usize..20,
    ) {
        let segment = PciSegment::new();
        segment.insert(bdf(1, 0), Arc::new(Ramp::default())).unwrap();
        let _ = segment.port_write(0, &latch.to_le_bytes());
        let mut data = vec![0; len];
        segment.port_read(port, &mut data);
        let _ = segment.port_write(port, &data);
        let _ = segment.ecam_write(offset, &data);
        segment.ecam_read(offset, &mut data);
        if offset >= 2 << 15 || !matches!(len, 1 | 2 | 4) {
            prop_assert!(data.iter().all(|byte| *byte == 0xff));
        }
    }
}
