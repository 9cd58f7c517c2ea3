//! What the guest finds: processors, memory, clocks, tables; and the ends of a run.

use crate::guests::{Answers, large, many, older, small};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn all() -> [&'static Answers; 4] {
    [small(), older(), large(), many()]
}

#[test]
fn one_vcpu_is_online() {
    assert_eq!(small().cpus, "0");
}

#[test]
fn two_vcpus_are_online() {
    assert_eq!(older().cpus, "0-1");
}

#[test]
fn four_vcpus_are_online() {
    assert_eq!(large().cpus, "0-3");
}

#[test]
fn sixteen_vcpus_are_online() {
    assert_eq!(many().cpus, "0-15");
}

/// Bytes of RAM in the guest's memory map.
fn ram(answers: &Answers) -> u64 {
    answers
        .ram
        .iter()
        .map(|(first, last)| last - first + 1)
        .sum()
}

#[test]
fn guest_has_the_memory_it_was_given() {
    for (answers, size) in [
        (small(), 128 * MIB),
        (older(), 512 * MIB),
        (large(), 5 * GIB),
    ] {
        // The page at 0 and the hole below 1 MiB are no RAM.
        let lost = size - ram(answers);
        assert!(
            lost < MIB,
            "{lost} bytes of {size} are missing: {:x?}",
            answers.ram
        );
        // The kernel itself and its page structures are left out of MemTotal.
        let total = answers.memory << 10;
        assert!(
            total < size && total > size / 2,
            "MemTotal {total} of {size}"
        );
    }
}

#[test]
fn ram_above_the_hole_starts_at_4_gib() {
    let ram = &large().ram;
    let above: Vec<_> = ram.iter().filter(|(_, last)| *last >= 3 * GIB).collect();
    assert_eq!(above.len(), 1, "{ram:x?}");
    assert_eq!(above[0].0, 4 * GIB, "{ram:x?}");
    assert!(older().ram.iter().all(|(_, last)| *last < 4 * GIB));
}

#[test]
fn clocksource_is_kvm_clock() {
    for answers in all() {
        assert_eq!(answers.clocksource, "kvm-clock");
    }
}

#[test]
fn no_clock_is_calibrated() {
    for answers in all() {
        let calibrated: Vec<_> = answers
            .log
            .lines()
            .filter(|line| line.to_ascii_lowercase().contains("calibrat"))
            // Not calibrated: computed from the frequency that KVM tells.
            .filter(|line| !line.contains("Calibrating delay loop (skipped)"))
            .collect();
        assert!(calibrated.is_empty(), "{calibrated:#?}");
    }
}

#[test]
fn acpi_tables_raise_no_complaint() {
    for answers in all() {
        let complaints: Vec<_> = answers
            .log
            .lines()
            .filter(|line| {
                let line = line.to_ascii_lowercase();
                line.contains("acpi") || line.contains("firmware")
            })
            // Every kernel that takes the windows from ACPI says so, and whom to tell if they are wrong.
            .filter(|line| !line.contains("PCI: Using host bridge windows from ACPI"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

#[test]
fn memory_is_write_back_by_default() {
    assert!(
        small().log.contains("MTRR default type: write-back"),
        "{}",
        small().log
    );
}

#[test]
fn vcpus_do_not_stall() {
    for answers in all() {
        for word in ["stall", "lockup"] {
            assert!(!answers.log.contains(word), "{}", answers.log);
        }
    }
}

#[test]
fn rtc_tells_the_date() {
    for answers in all() {
        let error = answers.clock_error;
        assert!((-5..=5).contains(&error), "{error} s off");
    }
}

#[test]
fn power_off_ends_with_0() {
    assert_eq!(small().exit, 0);
    assert_eq!(large().exit, 0);
}

#[test]
fn debug_exit_port_hands_back_a_status() {
    assert_eq!(older().exit, (42 << 1) | 1);
}
