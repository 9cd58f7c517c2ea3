use super::*;
use crate::host::Verdict;
use crate::host::saved::{FakeLimits, GIB, GPU, NIC, ROOT_PORT, SavedHost, sbdf};

fn findings(host: &SavedHost, devices: &[&str], limits: &FakeLimits) -> Vec<Finding> {
    let devices: Vec<_> = devices.iter().map(|text| sbdf(text)).collect();
    let request = CheckRequest {
        devices: &devices,
        guest_ram: Some(8 * GIB),
        huge_pages: None,
    };
    check(&host.root(), &request, limits)
}

/// What is not as it has to be: topic, mark, fact.
fn complaints(host: &SavedHost, devices: &[&str]) -> Vec<(&'static str, Mark, String)> {
    findings(host, devices, &FakeLimits::generous())
        .into_iter()
        .filter(|finding| finding.mark != Mark::Good)
        .map(|finding| (finding.topic, finding.mark, finding.fact))
        .collect()
}

/// A host on which nothing is to be said against the NIC.
fn host() -> SavedHost {
    let host = SavedHost::intel();
    let directory = "sys/bus/pci/devices/0000:03:00.0";
    host.file(&format!("{directory}/reset_method"), "flr bus\n");
    host.file(&format!("{directory}/config"), [0; 256]);
    host
}

fn only(host: &SavedHost, devices: &[&str]) -> (&'static str, Mark, String) {
    let mut all = complaints(host, devices);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn every_fact_of_a_healthy_host_is_told_once() {
    let all = findings(&host(), &[NIC.0], &FakeLimits::generous());
    let topics: Vec<_> = all.iter().map(|finding| finding.topic).collect();
    assert_eq!(
        topics,
        [
            "KVM",
            "IOMMU",
            "interrupt remapping",
            "VFIO",
            "iommufd",
            "locked memory",
            "driver",
            "group",
            "node",
            "reset",
            "interrupts"
        ]
    );
    assert!(
        all.iter().all(|finding| finding.mark == Mark::Good),
        "{all:?}"
    );
    let of_device = all
        .iter()
        .filter(|finding| finding.device == Some(sbdf(NIC.0)));
    assert_eq!(of_device.count(), 5);
}

#[test]
fn the_same_causes_stop_a_run_and_are_marked_bad() {
    type Spoil = fn(&SavedHost);
    let causes: [(&str, Spoil); 5] = [
        ("driver", |host| {
            host.link(
                "sys/bus/pci/devices/0000:03:00.0/driver",
                "../../../bus/pci/drivers/igb",
            )
        }),
        ("interrupt remapping", |host| {
            host.file("sys/kernel/irq/9/chip_name", "IO-APIC\n");
        }),
        ("VFIO", |host| host.remove("dev/vfio/vfio")),
        ("node", |host| host.remove("dev/vfio/16")),
        ("KVM", |host| host.remove("dev/kvm")),
    ];
    for (topic, spoil) in causes {
        let host = host();
        spoil(&host);
        let (found, mark, _) = only(&host, &[NIC.0]);
        assert_eq!((found, mark), (topic, Mark::Bad));
        assert_eq!(
            host.problems(&[NIC.0], &FakeLimits::generous()).len(),
            1,
            "{topic}"
        );
    }
}

#[test]
fn what_the_host_uses_is_marked_bad_until_vfio_pci_has_it() {
    let host = host();
    let directory = "sys/bus/pci/devices/0000:03:00.0";
    host.file(&format!("{directory}/boot_vga"), "1\n");
    assert_eq!(complaints(&host, &[NIC.0]), []);
    host.link(
        &format!("{directory}/driver"),
        "../../../bus/pci/drivers/igb",
    );
    let bad: Vec<_> = complaints(&host, &[NIC.0])
        .into_iter()
        .map(|(topic, ..)| topic)
        .collect();
    assert_eq!(bad, ["driver", "in use"]);
}

#[test]
fn a_low_limit_and_a_closed_node_are_this_users_problem() {
    let mut limits = FakeLimits::denying("16", "root", 0o600, Verdict::DeniedByMode);
    limits.exempt = false;
    limits.memlock.soft = Some(64 << 10);
    let all = findings(&host(), &[NIC.0], &limits);
    let bad: Vec<_> = all
        .iter()
        .filter(|finding| finding.mark == Mark::Bad)
        .map(|finding| finding.topic)
        .collect();
    assert_eq!(bad, ["locked memory", "node"]);
    assert!(
        all.iter()
            .all(|finding| (finding.mark == Mark::Bad) == finding.remedy.is_some())
    );
}

#[test]
fn without_an_iommu_nothing_is_said_of_what_follows() {
    let host = SavedHost::intel_without_iommu();
    host.function(NIC, Some("vfio-pci"), None);
    let bad: Vec<_> = complaints(&host, &[])
        .into_iter()
        .map(|(topic, ..)| topic)
        .collect();
    assert_eq!(bad, ["IOMMU"]);
}

#[test]
fn allowing_unsafe_interrupts_is_told_with_what_it_gives_away() {
    let host = host();
    host.file("sys/kernel/irq/9/chip_name", "IO-APIC\n");
    let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    host.file(parameter, "Y\n");
    let (topic, mark, fact) = only(&host, &[NIC.0]);
    assert_eq!((topic, mark), ("interrupt remapping", Mark::Caution));
    assert!(fact.contains("send the host any interrupt"), "{fact}");
}

#[test]
fn why_a_group_is_large_is_told_of_one_with_several_members() {
    let host = host();
    let isolation = |address| {
        let all = complaints(&host, &[address]);
        let found = all.into_iter().find(|(topic, ..)| *topic == "isolation");
        found.map(|(.., fact)| fact)
    };
    assert_eq!(isolation(NIC.0), None);
    assert!(isolation(GPU.0).unwrap().starts_with("only root can read"));
}

#[test]
fn iommufd_is_told_of_and_never_missed() {
    let host = host();
    let fact = |host: &SavedHost| {
        let all = findings(host, &[], &FakeLimits::generous());
        let found = all.into_iter().find(|finding| finding.topic == "iommufd");
        let found = found.unwrap();
        assert_eq!(found.mark, Mark::Good);
        found.fact
    };
    assert!(fact(&host).starts_with("not there"));
    host.file("sys/class/misc/iommu/dev", "10:125\n");
    assert!(fact(&host).starts_with("there"));
}

#[test]
fn a_bridge_is_not_looked_at_further() {
    let (topic, mark, _) = only(&host(), &[ROOT_PORT.0]);
    assert_eq!((topic, mark), ("driver", Mark::Bad));
}

#[test]
fn a_device_without_reset_or_with_a_shared_line_is_worth_knowing() {
    let host = host();
    let directory = "sys/bus/pci/devices/0000:03:00.0";
    host.remove(&format!("{directory}/reset_method"));
    let (topic, mark, _) = only(&host, &[NIC.0]);
    assert_eq!((topic, mark), ("reset", Mark::Caution));
    host.file(&format!("{directory}/reset_method"), "flr\n");
    let mut config = [0; 256];
    config[0x3d] = 1;
    host.file(&format!("{directory}/config"), config);
    assert_eq!(complaints(&host, &[NIC.0]), []);
    host.file(&format!("{directory}/irq"), "21\n");
    host.file("sys/kernel/irq/21/actions", "ehci_hcd:usb1\n");
    let (topic, mark, fact) = only(&host, &[NIC.0]);
    assert_eq!((topic, mark), ("interrupts", Mark::Caution));
    assert!(fact.contains("IRQ 21 with ehci_hcd:usb1"), "{fact}");
}

#[test]
fn bars_that_the_cpu_has_no_addresses_for_are_bad() {
    let host = host();
    let bar = |size: u64| {
        format!(
            "{:#x} {:#x} {:#x}\n",
            1_u64 << 40,
            (1_u64 << 40) + size - 1,
            0x14_220c
        )
    };
    host.file(
        "proc/cpuinfo",
        "vendor_id\t: GenuineIntel\naddress sizes\t: 39 bits physical, 48 bits virtual\n",
    );
    let resource = "sys/bus/pci/devices/0000:03:00.0/resource";
    host.file(resource, bar(128 * GIB));
    assert_eq!(complaints(&host, &[NIC.0]), []);
    host.file(resource, bar(512 * GIB));
    let (topic, mark, fact) = only(&host, &[NIC.0]);
    assert_eq!((topic, mark), ("BARs", Mark::Bad));
    assert!(fact.contains("39 bits"), "{fact}");
}

#[test]
fn virtual_functions_are_told_from_physical_ones() {
    let host = host();
    let sriov = |host: &SavedHost| {
        let all = findings(host, &[NIC.0], &FakeLimits::generous());
        let found = all.into_iter().find(|finding| finding.topic == "SR-IOV");
        found.map(|finding| finding.fact)
    };
    assert_eq!(sriov(&host), None);
    let directory = "sys/bus/pci/devices/0000:03:00.0";
    host.link(&format!("{directory}/physfn"), "../0000:02:00.0");
    assert_eq!(sriov(&host).unwrap(), "a virtual function of 0000:02:00.0");
    host.file(&format!("{directory}/sriov_totalvfs"), "7\n");
    host.file(&format!("{directory}/sriov_numvfs"), "2\n");
    assert_eq!(sriov(&host).unwrap(), "2 of 7 virtual functions");
}
