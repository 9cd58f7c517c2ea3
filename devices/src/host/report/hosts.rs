//! What is said of the saved hosts (`reports/README.md` tells which machines they are).

use super::*;
use crate::host::inventory::{Hindrance, Standing, Vectors, VirtualFunctions};
use crate::host::saved::sbdf;
use crate::host::{CpuVendor, Finding, HostUse, InterruptRemapping, ListedFunction, Mark};
use crate::pci::capability::{self, ExtendedCapabilityId};

const SERVER: &str = include_str!("../reports/server.report");
const AMD: &str = include_str!("../reports/amd.report");
const DESKTOP: &str = include_str!("../reports/desktop.report");
const NO_IOMMU: &str = include_str!("../reports/no-iommu.report");
const VM: &str = include_str!("../reports/vm.report");

fn host(text: &str) -> HostReport {
    HostReport::parse(text).unwrap()
}

fn checked(report: &HostReport, devices: &[&str]) -> Vec<Finding> {
    let devices: Vec<_> = devices.iter().map(|text| sbdf(text)).collect();
    let request = CheckRequest {
        devices: &devices,
        guest_ram: Some(1 << 30),
        huge_pages: None,
    };
    check(&report.root(), &request, &report.process())
}

/// Topics of what stands in the way.
fn bad(findings: &[Finding]) -> Vec<&str> {
    let bad = findings.iter().filter(|one| one.mark == Mark::Bad);
    bad.map(|one| one.topic).collect()
}

/// The last fact on a topic.
#[track_caller]
fn fact<'a>(findings: &'a [Finding], topic: &str) -> &'a str {
    match findings.iter().rfind(|one| one.topic == topic) {
        Some(finding) => &finding.fact,
        None => panic!("nothing on {topic}: {findings:#?}"),
    }
}

#[track_caller]
fn listed(report: &HostReport, address: &str) -> ListedFunction {
    let all = report.root().inventory().unwrap();
    let found = all
        .into_iter()
        .find(|one| one.function.sbdf == sbdf(address));
    found.unwrap()
}

#[test]
fn server_has_virtual_functions_and_one_can_be_given_at_once() {
    let server = host(SERVER);
    let physical = listed(&server, "01:00.0");
    let some = VirtualFunctions {
        enabled: 4,
        total: 7,
    };
    assert_eq!(physical.virtual_functions, Some(some));
    assert_eq!(physical.standing, Standing::AfterBind);
    let first = listed(&server, "01:10.0");
    assert_eq!((first.standing, first.members), (Standing::Now, vec![]));
    let vectors = Vectors {
        msix: 3,
        msi: 0,
        intx: false,
    };
    assert_eq!(first.vectors, Some(vectors));
    let findings = checked(&server, &["01:10.0"]);
    assert_eq!(bad(&findings), [""; 0], "{findings:#?}");
    assert_eq!(
        fact(&findings, "SR-IOV"),
        "a virtual function of 0000:01:00.0"
    );
    assert_eq!(
        fact(&findings, "IOMMU"),
        "VT-d: 1 unit, 17 groups; the host's own domains: identity"
    );
}

#[test]
fn two_cards_behind_the_servers_pci_bridge_share_a_group_because_of_it() {
    let server = host(SERVER);
    let card = listed(&server, "05:01.0");
    assert_eq!(card.members, [sbdf("04:00.0"), sbdf("05:02.0")]);
    let findings = checked(&server, &["05:01.0", "05:02.0"]);
    assert_eq!(bad(&findings), ["driver", "driver"]);
    assert!(
        fact(&findings, "isolation").starts_with("0000:04:00.0 leads to a conventional PCI bus")
    );
}

#[test]
fn amd_host_has_remapping_units_of_its_own_kind() {
    let amd = host(AMD);
    assert!(amd.root().has_amd_vi());
    assert_eq!(
        amd.root().interrupt_remapping().unwrap(),
        InterruptRemapping::On
    );
    assert_eq!(amd.root().cpu_vendor(), CpuVendor::Amd);
    let findings = checked(&amd, &["01:00.0"]);
    assert_eq!(bad(&findings), [""; 0], "{findings:#?}");
    assert_eq!(
        fact(&findings, "IOMMU"),
        "AMD-Vi: 1 unit, 13 groups; the host's own domains: identity"
    );
    assert_eq!(listed(&amd, "01:00.0").standing, Standing::Now);
}

#[test]
fn desktops_graphics_card_is_its_screen_and_shares_a_group_with_its_audio_function() {
    let desktop = host(DESKTOP);
    let screen = vec![HostUse::BootVga];
    assert_eq!(
        listed(&desktop, "01:00.0").standing,
        Standing::InUse(screen)
    );
    let audio = listed(&desktop, "01:00.1");
    let card = vec![sbdf("01:00.0")];
    assert_eq!(audio.standing, Standing::AfterBindOfGroup(card));
    let findings = checked(&desktop, &["01:00.0"]);
    assert_eq!(bad(&findings), ["driver", "in use", "group"]);
    assert!(fact(&findings, "group").contains("audio device 0000:01:00.1"));
    let both = checked(&desktop, &["01:00.0", "01:00.1"]);
    assert_eq!(bad(&both), ["driver", "in use", "driver"]);
    assert!(
        fact(&both, "isolation")
            .ends_with("one of several functions, has no Access Control Services")
    );
}

#[test]
fn desktops_disk_shares_a_group_with_a_card_because_of_the_switch() {
    let desktop = host(DESKTOP);
    let disk = listed(&desktop, "04:00.0");
    assert_eq!(disk.members, ["03:00.0", "03:00.1", "05:00.0"].map(sbdf));
    assert_eq!(
        disk.standing,
        Standing::AfterBindOfGroup(vec![sbdf("05:00.0")])
    );
    let findings = checked(&desktop, &["04:00.0"]);
    assert!(fact(&findings, "group").contains("0000:05:00.0 [8086:10d3] is on driver e1000e"));
    assert!(
        fact(&findings, "isolation").contains("switch port 0000:03:00.0 has no Access Control")
    );
    // The switch's upper port is alone: it leads up.
    assert_eq!(listed(&desktop, "02:00.0").members, []);
}

#[test]
fn serial_number_of_the_desktops_card_stayed_there() {
    let config = host(DESKTOP).root().config(sbdf("05:00.0")).unwrap();
    let number = capability::find_extended(&config, ExtendedCapabilityId::DEVICE_SERIAL_NUMBER);
    let at = usize::from(number.unwrap().offset);
    assert_eq!(config[at + 4..at + 12], [0; 8]);
}

#[test]
fn host_without_iommu_is_told_the_argument_that_turned_it_off() {
    let off = host(NO_IOMMU);
    let findings = checked(&off, &["01:00.0"]);
    assert_eq!(bad(&findings), ["IOMMU", "driver", "group"]);
    assert_eq!(
        fact(&findings, "IOMMU"),
        "the kernel was started with intel_iommu=off"
    );
    let all = off.root().inventory().unwrap();
    let never = |one: &ListedFunction| {
        matches!(
            one.standing,
            Standing::Never(Hindrance::Bridge | Hindrance::NoIommu)
        )
    };
    assert!(all.len() > 10 && all.iter().all(never));
}

#[test]
fn virtual_machine_is_told_to_ask_for_an_iommu() {
    let vm = host(VM);
    let findings = checked(&vm, &["00:02.0", "00:03.0"]);
    assert_eq!(fact(&findings, "KVM"), "VT-x, /dev/kvm can be opened");
    assert_eq!(
        fact(&findings, "IOMMU"),
        "this host is a virtual machine that was given none"
    );
    assert_eq!(fact(&findings, "VFIO"), "the vfio-pci module is not loaded");
    let uses = |address: &str| vm.root().host_uses(sbdf(address)).unwrap();
    assert_eq!(
        uses("00:02.0")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["vda is mounted at /"]
    );
    assert_eq!(
        uses("00:03.0")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["eth0 carries the default route"]
    );
}

#[test]
fn report_of_a_report_is_that_report() {
    let entries = |text: &str| text.split_once("\n\n").unwrap().1.to_owned();
    for text in [SERVER, AMD, DESKTOP, NO_IOMMU, VM] {
        let first = host(text);
        let second = HostReport::of(&first.root(), &first.process(), true, |root| {
            let records = crate::driver::BoundRecords::of(root);
            records.and_then(|records| records.stale(root)).unwrap();
        });
        let second = entries(&second.to_string());
        for (line, (one, other)) in entries(text).lines().zip(second.lines()).enumerate() {
            assert_eq!(one, other, "entry line {line}");
        }
        assert_eq!(second.len(), entries(text).len());
    }
}
