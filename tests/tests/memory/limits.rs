//! What can't work is refused before anything is opened.

use std::fs;
use tests::{Attempt, site};

const USAGE: i32 = 2;
const HOST_SET_UP: i32 = 4;

const ENTRY_LIMIT: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

/// Puts the limit back.
struct Limit(String);

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = fs::write(ENTRY_LIMIT, &self.0);
    }
}

#[test]
fn ram_that_is_no_multiple_of_its_pages_is_refused_with_what_to_write() {
    let words = ["--memory", "size=1500M,hugepages=1G"];
    let problem = Attempt::run(&words).refused_for_one(USAGE);
    problem.tells(
        "size=1500M,hugepages=1G",
        "1500 MiB are no multiple of huge pages of 1 GiB",
        "write --memory size=2G,hugepages=1G, or hugepages=2M",
    );
}

#[test]
fn more_ranges_of_ram_than_the_iommu_context_may_map_are_refused() {
    let edu = site::device("edu").assign();
    let _limit = Limit(fs::read_to_string(ENTRY_LIMIT).unwrap());
    fs::write(ENTRY_LIMIT, "1").unwrap();
    let device = format!("host={}", edu.address());
    // Below the hole at 3 GiB, and above it.
    let words = ["--memory", "3074M", "--device", &device];
    let problem = Attempt::run(&words).refused_for_one(HOST_SET_UP);
    problem.tells(
        "it takes 2 mappings, and 1 are left",
        "dma_entry_limit",
        ENTRY_LIMIT,
    );
}

#[test]
fn peer_to_peer_is_on_or_off() {
    let problem = Attempt::run(&["--p2p", "maybe"]).refused_for_one(USAGE);
    problem.tells("--p2p maybe", "neither on nor off", "--p2p off");
}
