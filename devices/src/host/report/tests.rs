use super::*;
use crate::host::saved::{FakeLimits, GPU, NIC, SavedHost, sbdf};
use crate::host::{Finding, ListedFunction};
use proptest::prelude::*;

const HEAD: &str = "ferry host report 1\n# A comment.\nmade-by ferry 0.1.0\nprocess user=other memlock-soft=8388608 memlock-hard=unlimited memlock-exempt=no\n";

fn report(host: &SavedHost, process: &dyn ProcessLimits) -> HostReport {
    HostReport::of(&host.root(), process, true, |_| ())
}

fn checked(root: &HostRoot, process: &dyn ProcessLimits, devices: &[HostSbdf]) -> Vec<Finding> {
    let request = CheckRequest {
        devices,
        guest_ram: Some(8 << 30),
        huge_pages: Some(HugePageSize::Gib1),
    };
    check(root, &request, process)
}

fn inventory(root: &HostRoot) -> Result<Vec<ListedFunction>, String> {
    root.inventory().map_err(|error| error.to_string())
}

#[test]
fn what_is_said_of_a_report_is_what_was_said_of_the_host() {
    let low = FakeLimits {
        memlock: crate::host::Memlock {
            soft: Some(8 << 20),
            hard: None,
        },
        ..FakeLimits::denying("16", "kvm", 0o660, crate::host::Verdict::DeniedByMode)
    };
    for (host, process) in [
        (SavedHost::intel(), FakeLimits::generous()),
        (SavedHost::amd(), low),
        (SavedHost::intel_without_iommu(), FakeLimits::generous()),
        (SavedHost::empty(), FakeLimits::generous()),
    ] {
        host.file(
            "usr/share/misc/pci.ids",
            "8086  Intel\n\t10c9  A card\n\t10ca  Another\nC 02  Net\n\t00  Ethernet\n",
        );
        let live = host.root();
        let functions = live.functions().unwrap();
        let text = report(&host, &process).to_string();
        let saved = HostReport::parse(&text).unwrap();
        let all = live.addresses().unwrap();
        for devices in [vec![], vec![sbdf("77:00.0")], all.clone()]
            .into_iter()
            .chain(all.chunks(1).map(<[_]>::to_vec))
        {
            assert_eq!(
                checked(&saved.root(), &saved.process(), &devices),
                checked(&live, &process, &devices),
                "{devices:?} in\n{text}"
            );
        }
        assert_eq!(inventory(&saved.root()), inventory(&live));
        let title = |root: &HostRoot| {
            let names = root.pci_names(&functions);
            functions
                .iter()
                .map(|one| names.kind(one) + &names.title(one))
                .collect::<Vec<_>>()
        };
        assert_eq!(title(&saved.root()), title(&live));
        assert!(!text.contains("Another"), "{text}");
    }
}

#[test]
fn what_could_not_be_read_of_the_host_can_not_be_read_of_its_report() {
    let host = SavedHost::intel();
    // A folder in the place of a file.
    host.remove("sys/bus/pci/devices/0000:03:00.0/vendor");
    host.file("sys/bus/pci/devices/0000:03:00.0/vendor/x", "");
    let text = report(&host, &FakeLimits::generous()).to_string();
    let line = "\nfails file /sys/bus/pci/devices/0000:03:00.0/vendor\n  21 Is a directory (os error 21)\n";
    assert!(text.contains(line), "{text}");
    let saved = HostReport::parse(&text).unwrap();
    let error = saved.root().function(sbdf(NIC.0)).unwrap_err().problem();
    assert_eq!(error.why, "Is a directory (os error 21)");
    assert_eq!(
        error.what,
        "can't read /sys/bus/pci/devices/0000:03:00.0/vendor"
    );
}

#[test]
fn report_is_read_as_it_was_written() {
    let first = report(&SavedHost::intel(), &FakeLimits::generous());
    let second = HostReport::parse(&first.to_string()).unwrap();
    assert_eq!(first.to_string(), second.to_string());
    assert_eq!(first.answers, second.answers);
    // As a mail may have it.
    let mailed = first.to_string().replace('\n', "\r\n");
    assert_eq!(HostReport::parse(&mailed).unwrap().answers, first.answers);
}

#[test]
fn nothing_of_this_machine_is_in_the_place_of_what_a_report_lacks() {
    let empty = HostReport::parse(HEAD).unwrap();
    assert!(empty.is_empty() && empty.root().is_report());
    let root = empty.root();
    assert!(!root.exists("proc/self"));
    assert_eq!(root.text("proc/self/status").unwrap(), None);
    assert_eq!(root.names("proc").unwrap(), [""; 0]);
    assert_eq!(root.link_name("proc/self/exe").unwrap(), None);
    assert_eq!(root.subfolders("proc".as_ref()), [""; 0]);
    assert!(root.bytes("proc/version".as_ref(), 9).is_err());
    let null = empty.process().access("/dev/null".as_ref()).unwrap();
    assert_eq!(null, None);
    assert!(!empty.process().is_root());
    let written = crate::driver::Attributes::write(&root, "dev/null".as_ref(), "x");
    assert_eq!(
        written.unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
}

/// What is said of a report that goes on with an entry.
fn fault(entry: &str) -> String {
    let report = HostReport::parse(&format!("{HEAD}{entry}\n"));
    report.unwrap_err().to_string()
}

#[test]
fn path_that_no_host_can_have_is_refused() {
    let (deep, long) = ("/a".repeat(49), "a".repeat(1024));
    for path in [
        "sys/x",
        "/",
        "/sys/../etc/passwd",
        "/sys/..",
        "/sys//x",
        "/sys/./x",
        "/sys/x\u{202e}y",
        &deep,
        &format!("/{long}"),
    ] {
        let fault = fault(&format!("file {path}"));
        assert_eq!(fault, "line 5 has no path that a host can have", "{path}");
    }
}

#[test]
fn answer_that_no_host_can_give_is_refused() {
    let names = "  x\n".repeat(4097);
    for entry in [
        "link /sys/x",
        "link /sys/x\n  ..",
        "link /sys/x\n  /etc/passwd",
        "folder /sys/x\n  ../y",
        &format!("folder /sys/x\n{names}"),
        "there /sys/x\n  y",
        "node /dev/kvm\n  open=granted",
        "bytes /sys/x",
        "bytes /sys/x\n  99999999999 bytes",
        "bytes /sys/x\n  4097 bytes",
        "bytes /sys/x\n  2 bytes\n  1: 00 00",
        "bytes /sys/x\n  2 bytes\n  ffffffffffffffff: 00",
    ] {
        assert_eq!(
            fault(entry),
            "line 5 has nothing that can be there",
            "{entry}"
        );
    }
    for entry in ["fails file /sys/x\n  0", "fails file /sys/x"] {
        assert_eq!(fault(entry), "line 5 has no errno");
    }
}

#[test]
fn line_that_is_no_reports_is_refused() {
    for entry in ["nonsense", "  indented", "device /sys/x", "fails x"] {
        assert_eq!(fault(entry), "line 5 is no entry of a report");
    }
    assert_eq!(
        fault("file /sys/x\n  y\nfile /sys/x\n  z"),
        "line 7 is there twice"
    );
    // Such a line would be obeyed by a terminal.
    assert_eq!(
        fault("file /sys/x\n  \u{1b}[2J"),
        "line 6 has letters that can't be seen"
    );
    let entries: String = (0..200_001)
        .map(|number| format!("there /{number}\n"))
        .collect();
    assert!(fault(&entries).ends_with("is one entry too many"));
    let head = |text: &str| HostReport::parse(text).unwrap_err().to_string();
    assert_eq!(head(""), "it doesn't begin with 'ferry host report 1'");
    let no_process = "ferry host report 1\nmade-by ferry 2\nprocess user=me\n";
    assert_eq!(head(no_process), "line 3 does not tell of the process");
}

/// Lines that say something else than any kernel would.
fn hostile() -> impl Strategy<Value = Vec<(usize, String)>> {
    let value = prop_oneof![
        Just("18446744073709551615".to_owned()),
        Just("-1".to_owned()),
        Just("0x0000000000000000 0xffffffffffffffff 0x0000000000140204".to_owned()),
        Just("0000:03:00.0".to_owned()),
        Just("4096 bytes".to_owned()),
        Just("00: 86 80 c9 10 ff ff ff ff 00 00 00 02 00 00 01 00".to_owned()),
        Just("30: 00 00 00 00 ff 00 00 00 00 00 00 00 00 00 00 ff".to_owned()),
        "[ -~]{0,40}",
    ];
    prop::collection::vec(
        (
            any::<prop::sample::Index>().prop_map(|at| at.index(1 << 20)),
            value,
        ),
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_report_is_refused_or_judged_and_never_more(changes in hostile()) {
        let host = SavedHost::intel();
        host.function(GPU, Some("vfio-pci"), Some(14));
        host.file("sys/bus/pci/devices/0000:03:00.0/resource", "0x0 0x1000 0x200\n");
        host.file("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n");
        host.file("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
        host.file("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_overcommit_hugepages", "1\n");
        let text = report(&host, &FakeLimits::generous()).to_string();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let contents: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with("  ")).collect();
        for (at, value) in changes {
            lines[contents[at % contents.len()]] = format!("  {value}");
        }
        if let Ok(report) = HostReport::parse(&lines.join("\n")) {
            let root = report.root();
            let _ = root.inventory();
            let all = root.addresses().unwrap_or_default();
            let _ = checked(&root, &report.process(), &all);
        }
    }
}
