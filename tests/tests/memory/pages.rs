//! The pages that RAM and BARs are mapped by.

use crate::guests::{VALUES, peers, strangers};

#[test]
fn too_few_huge_pages_are_told_with_the_command_that_makes_them() {
    // The guests could not have been booted if the commands did not.
    peers().refusal.tells(
        "guest RAM needs 1 huge pages of 1 GiB, and 0 are free",
        "the host has set 0 aside",
        "hugepagesz=1G hugepages=1 ",
    );
    strangers().refusal.tells(
        "guest RAM needs 128 huge pages of 2 MiB, and 0 are free",
        "the host has set 0 aside",
        "echo 128 ",
    );
}

#[test]
fn devices_reach_ram_of_huge_pages() {
    assert_eq!(peers().ram, VALUES[0]);
    assert_eq!(strangers().ram, VALUES[0]);
}

#[test]
fn kvm_maps_ram_by_the_pages_it_is_made_of() {
    assert_eq!(peers().pages[0].of_1g, 1);
    assert_eq!(strangers().pages[0].of_1g, 0);
    assert!(strangers().pages[0].of_2m > 10, "{:?}", strangers().pages);
}

/// Start, middle and end of 16 GiB.
#[test]
fn kvm_maps_a_huge_bar_by_the_largest_pages() {
    for shown in [peers(), strangers()] {
        let [before, after] = shown.pages;
        assert_eq!(after.of_1g - before.of_1g, 3, "{before:?}, then {after:?}");
    }
}
