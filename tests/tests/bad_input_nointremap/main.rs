//! A host whose IOMMU can't remap interrupts.

use std::fs;
use tests::site::{self, Kernel};
use tests::{Attempt, Checked, Run, Terminal};

const HOST_SET_UP: i32 = 4;
/// Makes VFIO do without.
const ALLOW: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";

#[test]
fn missing_interrupt_remapping_names_the_unit_and_the_risk() {
    let nic = site::device("nic").assign();
    let terminal = Terminal::open();
    let before = terminal.modes();
    let device = format!("host={}", nic.address());
    let run = Attempt::run(&["--device", &device]).on(&terminal);
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        &format!(
            "{} can't be assigned: the host has no interrupt remapping",
            nic.address()
        ),
        "IOMMU dmar0 doesn't support it (its ecap lacks bit 3); without it a guest can make its \
         device raise any interrupt on the host",
        "allow_unsafe_interrupts=1 of vfio_iommu_type1",
    );
    assert!(
        problem.fix.contains("-device intel-iommu,intremap=on"),
        "{problem:?}"
    );
    assert_eq!(terminal.modes(), before);
}

#[test]
fn it_is_told_once_beside_the_device_on_its_host_driver() {
    let hosts = ["nic", "peer"].map(|role| format!("host={}", site::device(role).address()));
    let words = ["--device", &hosts[0], "--device", &hosts[1]];
    let problems = Attempt::run(&words).refused(HOST_SET_UP);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    problems[0].tells("is not bound to vfio-pci", "its driver is", "ferry bind");
    problems[1].tells("is not bound to vfio-pci", "its driver is", "ferry bind");
    problems[2].tells("no interrupt remapping", "dmar0", "");
}

/// Puts the parameter back.
struct Allowed(String);

impl Drop for Allowed {
    fn drop(&mut self) {
        let _ = fs::write(ALLOW, &self.0);
    }
}

#[test]
fn user_who_accepts_the_risk_is_not_stopped() {
    let nic = site::device("nic").assign();
    let _allowed = Allowed(fs::read_to_string(ALLOW).unwrap());
    fs::write(ALLOW, "1").unwrap();
    Run::new(Kernel::Elf)
        .without_input()
        .device(&nic, "")
        .command("true")
        .start()
        .finish();
}

#[test]
fn check_marks_interrupt_remapping_and_warns_of_going_without() {
    let checked = Checked::by(Attempt::ferry(&["check"]));
    assert_eq!(checked.bad(), ["interrupt remapping"]);
    let _allowed = Allowed(fs::read_to_string(ALLOW).unwrap());
    fs::write(ALLOW, "1").unwrap();
    let checked = Checked::by(Attempt::ferry(&["check"]));
    assert_eq!(checked.bad(), <[&str; 0]>::default());
    let (fact, _) = checked.on("interrupt remapping");
    assert!(fact.contains("can send the host any interrupt"), "{fact}");
}
