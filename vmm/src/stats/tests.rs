//! What programs read in figures and counters.

use super::*;
use serde_json::json;
use std::sync::Arc;

/// Figures with something in each place, with KVM's own statistics or without.
pub(crate) fn report(kvm: bool) -> Report {
    let counters = Arc::new(ExitCounters::default());
    counters.access(Access::PortWrite, 0x3f8);
    counters.access(Access::PortWrite, 0x3f8);
    counters.other("interrupted");
    let statistics = |exits| kvm.then(|| Statistics::from([("exits".to_owned(), exits)]));
    let dma = DmaReport {
        mappings: 2,
        bytes: 512 << 20,
    };
    let trap = |offset: &str, reads, writes| BarTrapReport {
        bar: "BAR 3".to_owned(),
        offset: offset.to_owned(),
        reads,
        writes,
    };
    Report {
        uptime: 1,
        boots: 1,
        startup: StartupTimes::default(),
        vcpus: vcpu_reports(&[counters], vec![statistics(77)], &|_, base| {
            format!("serial {base:#x}")
        }),
        devices: vec![DeviceReport {
            id: "nic0".to_owned(),
            host: "0000:01:00.0".to_owned(),
            guest: "0000:00:01.0".to_owned(),
            errors: 0,
            armed_vectors: vec![0, 1],
            interrupts: BTreeMap::from([("msix", BTreeMap::from([(0, 4), (1, 5)]))]),
            dma,
            bar_traps: vec![trap("0xc", 1, 2), trap("others", 0, 3)],
        }],
        removed: vec![RemovedReport {
            id: "disk0".to_owned(),
            host: "0000:03:00.0".to_owned(),
            guest: "0000:00:02.0".to_owned(),
            errors: 1,
            how: Departure::Ejected,
        }],
        departures: 1,
        kvm: KvmReport {
            memslots: 3,
            gsis: 2,
            vm: statistics(0),
        },
        dma,
        memory: MemoryReport {
            guest_ram: 512 << 20,
            peer_to_peer: 0,
            peak_rss_without_guest_ram: 1,
        },
    }
}

#[test]
fn counters_are_numbers_in_two_levels_of_names() {
    let counters = serde_json::to_value(report(true).counters()).unwrap();
    assert_eq!(
        counters,
        json!({
            "_vcpu0": {"exits": 3, "port_write serial 0x3f8": 2, "interrupted": 1},
            "_kvm_vcpu0": {"exits": 77},
            "_kvm_vm": {"exits": 0},
            "_kvm": {"memslots": 3, "gsis": 2, "boots": 1},
            "_dma": {"mappings": 2, "bytes": 512 << 20, "peer to peer bytes": 0},
            "nic0": {
                "errors": 0, "armed vectors": 2, "interrupts": 9, "msix 0": 4, "msix 1": 5,
                "dma mappings": 2, "dma bytes": 512 << 20, "bar traps": 6,
                "BAR 3 0xc reads": 1, "BAR 3 0xc writes": 2,
                "BAR 3 others reads": 0, "BAR 3 others writes": 3,
            },
        })
    );
}

#[test]
fn a_kernel_without_statistics_has_no_such_groups() {
    let report = report(false);
    let counters = report.counters();
    let groups: Vec<_> = counters.keys().collect();
    assert_eq!(groups, ["_dma", "_kvm", "_vcpu0", "nic0"]);
    let figures = serde_json::to_value(&report).unwrap();
    assert!(figures["kvm"].get("vm").is_none());
    assert!(figures["vcpus"][0].get("kvm").is_none());
}

#[test]
fn a_guest_that_touches_every_address_takes_a_bounded_number_of_counts() {
    let counters = Arc::new(ExitCounters::default());
    for address in 0..10_000 {
        counters.access(Access::MmioRead, address);
    }
    counters.access(Access::MmioRead, 7);
    let reports = vcpu_reports(&[counters], Vec::new(), &|_, base| base.to_string());
    let report = serde_json::to_value(&reports).unwrap();
    let accesses = report[0]["accesses"].as_array().unwrap();
    assert_eq!(accesses.len(), 513);
    assert!(accesses.contains(&json!({"access": "mmio_read", "range": "7", "count": 2})));
    let others = json!({"access": "mmio_read", "range": "others", "count": 10_000 - 512});
    assert!(accesses.contains(&others));
    assert_eq!(report[0]["exits"], 10_001);
}
