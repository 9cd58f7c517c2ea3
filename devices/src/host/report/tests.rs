use super::*;
use crate::host::saved::{FakeLimits, GPU, NIC, SavedHost, sbdf};
use crate::host::{Finding, ListedFunction, Problem};
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

/// Counts how often it is asked for its right to /dev/kvm.
struct Counting(FakeLimits, std::cell::Cell<u32>);

impl ProcessLimits for Counting {
    fn memlock(&self) -> crate::host::Memlock {
        self.0.memlock()
    }

    fn exempt_from_memlock(&self) -> bool {
        self.0.exempt_from_memlock()
    }

    fn access(&self, node: &std::path::Path) -> std::io::Result<Option<crate::host::NodeAccess>> {
        self.1.set(self.1.get() + u32::from(node.ends_with("kvm")));
        self.0.access(node)
    }
}

#[test]
fn report_asks_the_host_once_for_pages_of_each_size_and_no_process() {
    let host = with_disk_of("", "dd");
    host.link("proc/20/fd/1", "/dev/nvme0n1");
    host.file("proc/20/fdinfo/1", "flags:\t0100002\nmnt_id:\t2\n");
    let process = Counting(FakeLimits::generous(), 0.into());
    let _ = report(&host, &process);
    assert_eq!(process.1.get(), 2);
    let disk = sbdf("0000:04:00.0");
    let uses = |root: &HostRoot| root.host_uses_by_processes(disk).unwrap().len();
    assert_eq!(uses(&host.root()), 3);
    // Whoever looks for a report sees what is in it.
    assert_eq!(uses(&host.root().recording()), 1);
}

/// All that is said of devices of a host, and what `ferry bind` says.
fn said(root: &HostRoot, process: &dyn ProcessLimits) -> Vec<String> {
    let all = root.addresses().unwrap_or_default();
    let mut said = Vec::new();
    for finding in checked(root, process, &all) {
        said.push(finding.fact);
        said.extend(finding.remedy);
    }
    for listed in root.inventory().unwrap_or_default() {
        if let crate::host::Standing::InUse(uses) = listed.standing {
            said.extend(uses.iter().map(ToString::to_string));
        }
    }
    let request = crate::host::BindRequest {
        functions: &all,
        groups: true,
        force: false,
    };
    for refusal in crate::host::bindable(root, &request)
        .err()
        .unwrap_or_default()
    {
        let Problem { what, why, remedy } = refusal.problem();
        said.extend([what, why, remedy]);
    }
    said
}

/// A host with a disk that is mounted here, mounted in another namespace and open in a process of that name.
fn with_disk_of(place: &str, comm: &str) -> SavedHost {
    let host = SavedHost::intel();
    host.function(
        ("0000:04:00.0", "1b36:0010", "0x010802"),
        Some("nvme"),
        Some(17),
    );
    host.file(
        "sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/nvme0n1/nsid",
        "1\n",
    );
    host.file("sys/class/block/nvme0n1/dev", "259:0\n");
    host.file("sys/class/block/nvme0n1/nvme0n1p1/partition", "1\n");
    host.file("sys/class/block/nvme0n1p1/dev", "259:1\n");
    let mount = |partition: u32| format!("22 1 259:{partition} / /x{place} rw - ext4 /dev/x rw\n");
    host.file("proc/self/mountinfo", mount(1));
    host.link("proc/self/ns/mnt", "mnt:[1]");
    host.file("proc/20/comm", comm);
    host.link("proc/20/ns/mnt", "mnt:[2]");
    host.file("proc/20/mountinfo", mount(0));
    host
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_others_chose_is_obeyed_by_a_terminal(
        place in "(\\\\0[0-3][0-7]|\\\\342\\\\200\\\\256|[!-~]){1,9}",
        comm in "([a-z]|\u{1b}\\[2J|\n|\u{202e}){0,9}",
    ) {
        let host = with_disk_of(&place, &comm);
        let process = FakeLimits::generous();
        let live = said(&host.root(), &process);
        prop_assert!(live.iter().any(|line| line.contains("is mounted at /")), "{live:#?}");
        prop_assert!(live.iter().any(|line| line.contains("in the mount namespace of")));
        let text = report(&host, &process).to_string();
        let masked = "/mount-1 rw";
        prop_assert!(text.contains(masked), "{text}");
        let told = said(&HostReport::parse(&text).unwrap().root(), &process);
        prop_assert!(told.iter().any(|line| line.contains("processes do with its disks is not in a report")));
        prop_assert!(!live.iter().any(|line| line.contains("is not in a report")));
        // What its sender has put back.
        let text = text.replace(masked, &format!("/x{place} rw"));
        let sent = HostReport::parse(&text).unwrap();
        for line in live.into_iter().chain(said(&sent.root(), &sent.process())) {
            prop_assert!(!line.contains(is_invisible), "{line:?}");
        }
    }
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
