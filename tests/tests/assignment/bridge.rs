//! Conventional PCI devices behind a bridge, which the IOMMU can't tell apart: all of them leave the host, some of them go
//! to a guest.

use crate::guest::{CONVENTIONAL, answers};
use tests::{Assigned, Attempt, Guest, HostDevice, Problem};

/// The host can't run this guest.
const HOST_SET_UP: i32 = 4;

/// Bus Master Enable.
const BUS_MASTER: u8 = 1 << 2;

/// The device that was left out, and its group.
pub(crate) struct Neighbour {
    /// Devices of its kind in the guest, which has one from elsewhere.
    kinds: usize,
    /// What another Ferry was told that wanted it.
    refusal: Problem,
    pid: u32,
    group: String,
    /// Low byte of its Command register while the guest had its neighbour master the bus, and at the end.
    commands: Vec<u8>,
    driver: Option<String>,
}

fn command(device: &HostDevice) -> u8 {
    device.config()[4]
}

/// Looks at the device that was left out while the guest has the given one.
pub(crate) fn look(guest: &mut Guest, given: &Assigned, left: &Assigned) -> Neighbour {
    assert_eq!(given.group(), left.group());
    guest.ok(&format!(
        "printf '\\7' | dd of=/sys/bus/pci/devices/{CONVENTIONAL}/config bs=1 seek=4 conv=notrunc 2>/dev/null"
    ));
    assert_eq!(command(given) & BUS_MASTER, BUS_MASTER, "of the given one");
    let kinds = guest.ok("cat /sys/bus/pci/devices/*/vendor");
    let wanted = format!("host={}", left.address());
    Neighbour {
        kinds: kinds.lines().filter(|line| *line == "0x10ec").count(),
        commands: vec![command(left)],
        refusal: Attempt::run(&["--device", &wanted]).refused_for_one(HOST_SET_UP),
        pid: guest.ferry().pid(),
        group: left.group(),
        driver: None,
    }
}

impl Neighbour {
    /// Looks once more after the guest has ended.
    pub(crate) fn after(mut self, left: &Assigned) -> Self {
        self.commands.push(command(left));
        self.driver = left.driver();
        self
    }
}

#[test]
fn a_guest_gets_what_it_was_given_of_a_group() {
    assert_eq!(answers().neighbour.kinds, 1);
}

#[test]
fn what_is_left_of_a_group_is_nobodys() {
    let Neighbour {
        refusal,
        pid,
        group,
        ..
    } = &answers().neighbour;
    refusal.tells(
        &format!("IOMMU group {group} is already in use"),
        &format!("ferry (pid {pid}) has /dev/vfio/{group} open"),
        &format!("kill {pid}"),
    );
}

#[test]
fn what_is_left_of_a_group_is_quiet() {
    let neighbour = &answers().neighbour;
    for command in &neighbour.commands {
        assert_eq!(command & BUS_MASTER, 0);
    }
    assert_eq!(neighbour.driver.as_deref(), Some("vfio-pci"));
}
