//! Whatever a guest writes, to whatever device.

use super::support::{PAGE, run_guest_program, run_on, saved_probes};
use crate::vfio::probe::VfioProbe;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_guest_harms_its_host(program in prop::collection::vec(any::<u8>(), 0..400)) {
        run_guest_program(&program);
    }

    #[test]
    fn a_broken_device_is_refused_or_harms_nobody(
        probe in broken_probe(),
        program in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        // Refusing it is all right, too.
        let _ = run_on(&probe, &program);
    }
}

/// A saved probe with damage: bytes of configuration space, sizes of regions and counts of vectors are anything.
fn broken_probe() -> impl Strategy<Value = VfioProbe> {
    let probes = saved_probes();
    const SIZES: &[u64] = &[0, 1, 0x18, 0x80, PAGE, 3 * PAGE, 1 << 20, 1 << 40, u64::MAX];
    const COUNTS: &[u32] = &[0, 1, 3, 32, 2048, u32::MAX];
    (
        0..probes.len(),
        prop::collection::vec((0_usize..0x200, any::<u8>()), 0..40),
        prop::collection::vec((0_usize..7, prop::sample::select(SIZES)), 0..3),
        prop::collection::vec((0_usize..5, prop::sample::select(COUNTS)), 0..2),
    )
        .prop_map(move |(which, bytes, sizes, counts)| {
            let mut probe = probes[which].1.clone();
            for (offset, byte) in bytes {
                if let Some(place) = probe.config.get_mut(offset) {
                    *place = byte;
                }
            }
            for (region, size) in sizes {
                probe.regions[region].size = size;
            }
            for (index, count) in counts {
                if let Some(irq) = probe.irqs.get_mut(index) {
                    irq.count = count;
                }
            }
            probe
        })
}

#[test]
fn saved_probes_are_those_of_eleven_devices_and_read_back_as_they_are() {
    let probes = saved_probes();
    assert_eq!(probes.len(), 11);
    for (name, mut probe) in probes {
        // None of these shares a line that it can't mask.
        assert!(!probe.intx_busy, "{name}");
        probe.intx_busy = true;
        let again: VfioProbe = probe.to_string().parse().unwrap();
        assert_eq!(again, probe, "{name}");
        assert!(probe.config.len() >= 256, "{name}");
    }
}

#[test]
fn what_is_no_probe_is_told_with_its_line() {
    let error = "device 0000:01:00.0 flags 0x2\nirq one\n"
        .parse::<VfioProbe>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2 of a saved probe is not understood: irq one"
    );
    for text in ["", "# nothing\n", "irq 0 flags 0x7 count 1\n"] {
        assert!(text.parse::<VfioProbe>().is_err(), "{text}");
    }
}
