//! RAM lies around what an IOMMU can't map.

use crate::guests::{VALUES, covering, peers, reserving, strangers};
use tests::{Attempt, site};

const HOST_SET_UP: i32 = 4;

/// 4 KiB cost a page of 2 MiB. 4 KiB at 0xe8000, where firmware would be, cost nothing.
#[test]
fn ram_goes_around_a_range_that_the_group_of_a_device_reserves() {
    let ranges = &strangers().ranges;
    // What the kernel leaves alone at 64 MiB is told apart.
    assert_eq!(
        ranges,
        &[
            "00100000-03ffffff",
            "04100000-07ffffff",
            "08200000-101fffff"
        ]
    );
    assert_eq!(strangers().ram, VALUES[0], "written by a device");
}

/// There is memory, but it is not mapped for DMA where the IOMMU can't.
#[test]
fn reserved_range_where_firmware_would_be_is_kept_from_devices() {
    assert_eq!(peers().firmware, VALUES[0], "without a reserved range");
    assert_eq!(strangers().firmware, 0);
}

#[test]
fn range_that_ram_can_not_avoid_is_named_with_its_device_and_group() {
    let edu = site::device("edu").assign();
    let device = format!("host={}", edu.address());
    let words = reserving(&edu, "0x3000 0x3fff reserved\\n");
    let attempt = Attempt::run(&["--device", &device]);
    let attempt = attempt.through(&words.each_ref().map(String::as_str));
    let problem = attempt.refused_for_one(HOST_SET_UP);
    problem.tells(
        "guest RAM can't lie where an IOMMU reaches it",
        &format!(
            "0x3000-0x3fff is a reserved region (reserved) of group {}, {}; it lies in the first 2 MiB of RAM",
            edu.group(),
            edu.address()
        ),
        &format!("don't assign {}", edu.address()),
    );
}

#[test]
fn iommu_that_is_too_narrow_for_ram_is_named_with_its_address_width() {
    let edu = site::device("edu").assign();
    let device = format!("host={}", edu.address());
    // Of 30 bits, which none is (VT-d specification, section 11.4.2: MGAW is 29).
    let words = covering(&edu.folder().join("iommu/intel-iommu/cap"), "1d0000");
    let attempt = Attempt::run(&["--memory", "1026M", "--device", &device]);
    let attempt = attempt.through(&words.each_ref().map(String::as_str));
    let problem = attempt.refused_for_one(HOST_SET_UP);
    problem.tells(
        "guest RAM has no room in the guest's address space",
        &format!(
            "the IOMMU of {} (group {}) has 30 address bits",
            edu.address(),
            edu.group()
        ),
        "give --memory 1024M or less",
    );
}
