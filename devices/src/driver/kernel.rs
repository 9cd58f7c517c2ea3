//! The kernel's part for tests: it answers writes to the attributes of a saved host.

use super::{Attributes, Binder, BoundRecords, LinkSetting, VFIO_PCI, VirtualLink, VirtualLinks};
use crate::host::HostRoot;
use crate::host::saved::{SavedHost, sbdf};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

pub(super) const BOOT_ID: &str = "5f0f5e0c-0000-4000-8000-000000000001";

const BUS: &str = "sys/bus/pci";

/// The Intel host of [`SavedHost`], alive.
pub(super) struct Kernel {
    host: SavedHost,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    writes: Vec<String>,
    /// Attributes that fail, and how often.
    failures: BTreeMap<String, u32>,
    /// The driver that probing finds.
    defaults: BTreeMap<String, String>,
    /// Functions that vfio-pci does not want.
    refused: BTreeSet<String>,
    no_nodes: bool,
    look_at_records: bool,
    records_seen: Option<Vec<String>>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        let host = SavedHost::intel();
        let file = "proc/sys/kernel/random/boot_id";
        host.file(file, format!("{BOOT_ID}\n"));
        Self {
            host,
            state: RefCell::default(),
        }
    }

    pub(super) fn root(&self) -> HostRoot {
        self.host.root()
    }

    pub(super) fn records(&self) -> BoundRecords {
        BoundRecords::of(&self.root()).unwrap()
    }

    /// Names in the folder of records.
    pub(super) fn record_names(&self) -> Vec<String> {
        self.root().names("run/ferry/bound").unwrap()
    }

    pub(super) fn with_binder<T>(&self, act: impl FnOnce(&Binder<'_>) -> T) -> T {
        act(&Binder {
            root: &self.root(),
            attributes: self,
            links: self,
            records: &self.records(),
            patience: Duration::from_millis(20),
        })
    }

    /// What was written since the last call, below `sys/bus/pci`.
    pub(super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().writes)
    }

    pub(super) fn driver(&self, address: &str) -> Option<String> {
        self.root().function(sbdf(address)).unwrap().driver
    }

    pub(super) fn set_default(&self, address: &str, driver: &str) {
        let mut state = self.state.borrow_mut();
        state.defaults.insert(address.to_owned(), driver.to_owned());
    }

    pub(super) fn set_override(&self, address: &str, driver: &str) {
        self.host.file(
            &format!("{BUS}/devices/{address}/driver_override"),
            format!("{driver}\n"),
        );
    }

    /// Takes a function from its driver.
    pub(super) fn leave(&self, address: &str) {
        self.host.remove(&format!("{BUS}/devices/{address}/driver"));
    }

    /// Takes a function from the host.
    pub(super) fn pull(&self, address: &str) {
        self.host.remove(&format!("{BUS}/devices/{address}"));
    }

    pub(super) fn refuse(&self, address: &str) {
        self.state.borrow_mut().refused.insert(address.to_owned());
    }

    pub(super) fn fail(&self, attribute: &str, times: u32) {
        let mut state = self.state.borrow_mut();
        state.failures.insert(attribute.to_owned(), times);
    }

    pub(super) fn withhold_nodes(&self) {
        self.host.remove("dev/vfio");
        self.state.borrow_mut().no_nodes = true;
    }

    pub(super) fn look_at_records_on_write(&self) {
        self.state.borrow_mut().look_at_records = true;
    }

    /// The records that there were at the first write.
    pub(super) fn records_seen(&self) -> Option<Vec<String>> {
        self.state.borrow().records_seen.clone()
    }

    /// Makes `address` the one virtual function of `physical`, whose interface is eth0.
    pub(super) fn make_virtual(&self, address: &str, physical: &str) {
        let directory = format!("{BUS}/devices/{physical}");
        self.host
            .file(&format!("{directory}/net/eth0/ifindex"), "2\n");
        let target = format!("../{address}");
        self.host.link(&format!("{directory}/virtfn0"), &target);
        let target = format!("../{physical}");
        let link = format!("{BUS}/devices/{address}/physfn");
        self.host.link(&link, &target);
    }

    fn take(&self, address: &str, driver: &str) {
        let link = format!("{BUS}/devices/{address}/driver");
        let target = format!("../../../../bus/pci/drivers/{driver}");
        self.host.link(&link, &target);
        let group = self.root().function(sbdf(address)).unwrap().group;
        if let Some(group) = group.filter(|_| driver == VFIO_PCI && !self.state.borrow().no_nodes) {
            self.host.file(&format!("dev/vfio/{group}"), "");
        }
    }

    fn probe(&self, address: &str) {
        if self.driver(address).is_some() {
            return;
        }
        let file = format!("{BUS}/devices/{address}/driver_override");
        let preferred = self.root().text(file).unwrap().unwrap_or_default();
        let refused = self.state.borrow().refused.contains(address);
        if preferred == VFIO_PCI && refused {
            return;
        }
        let default = self.state.borrow().defaults.get(address).cloned();
        let preferred = Some(preferred).filter(|name| !name.is_empty() && name != "(null)");
        if let Some(driver) = preferred.or(default) {
            self.take(address, &driver);
        }
    }
}

impl Attributes for Kernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let attribute = path.strip_prefix(BUS).unwrap().to_str().unwrap();
        let text = text.trim();
        let mut state = self.state.borrow_mut();
        state.writes.push(format!("{attribute} < {text}"));
        if state.look_at_records && state.records_seen.is_none() {
            state.records_seen = Some(self.record_names());
        }
        if let Some(times) = state
            .failures
            .get_mut(attribute)
            .filter(|times| **times > 0)
        {
            *times -= 1;
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(state);
        match attribute.split('/').collect::<Vec<_>>().as_slice() {
            ["devices", address, "driver_override"] => self.set_override(address, text),
            ["drivers", _, "unbind"] => self.leave(text),
            ["drivers", driver, "bind"] => self.take(text, driver),
            ["drivers_probe"] => self.probe(text),
            other => panic!("no such attribute: {other:?}"),
        }
        Ok(())
    }
}

/// One virtual function of eth0 that has its spoof check on.
impl VirtualLinks for Kernel {
    fn read(&self, _: &str) -> io::Result<BTreeMap<u32, VirtualLink>> {
        let link = VirtualLink {
            spoof_check: true,
            ..VirtualLink::default()
        };
        Ok([(0, link)].into())
    }

    fn change(&self, interface: &str, index: u32, setting: LinkSetting) -> io::Result<()> {
        let written = format!("{interface} vf {index}: {setting}");
        self.state.borrow_mut().writes.push(written);
        Ok(())
    }
}
