//! A virtual function of the host's network card, made for a guest.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tests::{Assigned, HostDevice, MOMENT, site, until};

/// What the host gives the VF as its address, since it has none of its own.
pub(crate) const MAC: &str = "52:54:00:00:11:00";

/// One VF, on vfio-pci. Dropping it takes it away.
pub(crate) struct VirtualFunction {
    /// `None` only while it is dropped.
    assigned: Option<Assigned>,
    count: PathBuf,
}

impl VirtualFunction {
    /// Makes the first VF of the host's card.
    ///
    /// The order matters: a VF that is reset while its PF's driver is not up never hears that the reset is done, and the
    /// driver in the guest gives up. And the host's own driver for VFs must not take it first.
    pub(crate) fn make() -> Self {
        let physical = site::device("nic");
        let interface = physical.interface();
        ip(&["link", "set", &interface, "up"]);
        let carrier = format!("/sys/class/net/{interface}/carrier");
        until("a link of the physical function", MOMENT, || {
            let up = fs::read_to_string(&carrier).is_ok_and(|text| text.trim() == "1");
            up.then_some(())
        });
        let folder = physical.folder();
        let count = folder.join("sriov_numvfs");
        fs::write(folder.join("sriov_drivers_autoprobe"), "0").unwrap();
        fs::write(&count, "1").unwrap();
        ip(&["link", "set", &interface, "vf", "0", "mac", MAC]);
        let link = fs::read_link(folder.join("virtfn0")).unwrap();
        let address = link.file_name().unwrap().to_str().unwrap();
        Self {
            assigned: Some(HostDevice::at(address).assign()),
            count,
        }
    }

    /// The VF.
    pub(crate) fn assigned(&self) -> &Assigned {
        self.assigned.as_ref().unwrap()
    }
}

impl Drop for VirtualFunction {
    fn drop(&mut self) {
        drop(self.assigned.take());
        let _ = fs::write(&self.count, "0");
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}
