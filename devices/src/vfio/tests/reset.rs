use crate::host::ResetFacts;
use crate::pci::header::COMMAND;
use crate::pci::{HostSbdf, PciFunction, ResetError};
use crate::vfio::plan::{PassthroughPlan, PassthroughSpec};
use crate::vfio::probe::VfioProbe;
use crate::vfio::reset::AffectedFunction;
use crate::vfio::tests::support::{Machine, igb, sbdf, spec};
use vfio_bindings::bindings::vfio::VFIO_DEVICE_FLAGS_RESET;

/// A function that the kernel can't reset alone.
fn not_alone() -> VfioProbe {
    let mut probe = igb();
    probe.flags &= !VFIO_DEVICE_FLAGS_RESET;
    probe
}

fn neighbour() -> HostSbdf {
    "01:00.1".parse().unwrap()
}

/// The same on a bus with another one, of the same group.
fn on_a_bus() -> VfioProbe {
    let affected = |sbdf| AffectedFunction { sbdf, group: 9 };
    let mut probe = not_alone();
    probe.bus_reset = vec![affected(sbdf()), affected(neighbour())];
    probe
}

fn plan(probe: &VfioProbe, methods: &[&str], others: &[&str]) -> PassthroughPlan {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let resets = ResetFacts {
        methods: owned(methods),
        others: owned(others),
    };
    let spec = PassthroughSpec { resets, ..spec() };
    PassthroughPlan::new(probe, &spec).unwrap()
}

fn machine(probe: &VfioProbe, methods: &[&str], others: &[&str]) -> Machine {
    Machine::with_plan(probe, plan(probe, methods, others))
}

fn described(probe: &VfioProbe, methods: &[&str], others: &[&str]) -> String {
    let mut lines = plan(probe, methods, others).describe();
    lines.retain(|line| line.starts_with("  reset: "));
    lines.join("\n").trim_start().to_owned()
}

#[test]
fn a_function_that_can_be_reset_alone_is() {
    // Even if its bus could be, too.
    let mut probe = on_a_bus();
    probe.flags |= VFIO_DEVICE_FLAGS_RESET;
    let machine = machine(&probe, &["flr", "bus"], &["somebody"]);
    machine.device.reset().unwrap();
    assert!(machine.device.shares_reset_with().is_empty());
    assert_eq!(machine.host.state().resets, 1);
    let text = described(&probe, &["flr", "bus"], &[]);
    assert_eq!(text, "reset: of the function, by flr, bus");
}

#[test]
fn a_function_on_a_bus_of_ours_is_reset_with_it_when_all_are_quiet() {
    let mut machine = machine(&on_a_bus(), &[], &[]);
    machine.write(COMMAND, 2, 7);
    let steps = machine.device.stop_decoding();
    machine.carry_out(&steps);
    machine.device.reset().unwrap();
    assert_eq!(machine.host.state().bus_resets, Vec::<Vec<u32>>::new());
    let shared: Vec<_> = machine
        .device
        .shares_reset_with()
        .iter()
        .map(|f| f.sbdf)
        .collect();
    assert_eq!(shared, [sbdf(), neighbour()]);
    machine.device.reset_bus().unwrap();
    // Each group is named once.
    assert_eq!(machine.host.state().bus_resets, [[9]]);
    assert_eq!(machine.host.state().resets, 0);
    assert_eq!(
        described(&on_a_bus(), &[], &[]),
        "reset: of its bus, with all on it: 0000:01:00.0, 0000:01:00.1"
    );
}

#[test]
fn a_bus_with_others_on_it_is_left_alone_and_they_are_named() {
    let others = ["NIC 0000:01:00.1 (of driver igb)"];
    let machine = machine(&on_a_bus(), &[], &others);
    let Err(ResetError::Unsupported(why)) = machine.device.reset() else {
        panic!("was reset");
    };
    assert_eq!(
        why,
        "it can't be reset alone, and a reset of its bus would hit NIC 0000:01:00.1 (of driver igb)"
    );
    assert!(machine.device.shares_reset_with().is_empty());
    assert!(machine.host.state().bus_resets.is_empty());
    assert_eq!(
        described(&on_a_bus(), &[], &others),
        format!("reset: none: {why}")
    );
}

#[test]
fn a_function_without_any_reset_says_so() {
    let text = described(&not_alone(), &[], &[]);
    assert_eq!(
        text,
        "reset: none: the host knows no way to reset it, alone or with its bus"
    );
}

#[test]
fn a_bus_that_has_lost_a_function_to_the_host_is_not_reset_and_its_functions_are_named() {
    let machine = machine(&on_a_bus(), &[], &[]);
    machine.device.reset().unwrap();
    machine.host.state().group_has_left = true;
    let error = machine.device.reset_bus().unwrap_err();
    assert_eq!(
        error.to_string(),
        "not all of 0000:01:00.0, 0000:01:00.1 are this guest's any longer"
    );
    assert!(machine.host.state().bus_resets.is_empty());
}
