//! Why functions share an IOMMU group: which bridge, port or function does not keep them apart.
//!
//! The kernel's rules are those of `pci_device_group` (drivers/iommu/iommu.c) and `pci_acs_enabled` (drivers/pci/pci.c)
//! of Linux 6.12; its lists of devices that are better than their registers say, or worse, are not here.

use super::function::HostFunction;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;
use crate::pci::access_control::AccessControl;
use crate::pci::capability::{self, CapabilityId, ExtendedCapabilityId};
use crate::pci::express::{self, PortType};
use crate::pci::header::{self, HeaderType};

impl HostRoot {
    /// Why a function shares its group with the other `members`, as one line.
    ///
    /// # Errors
    /// When a function of the host can't be read.
    pub(super) fn why_shared(
        &self,
        sbdf: HostSbdf,
        members: &[HostFunction],
    ) -> Result<String, HostError> {
        let above = self.above(sbdf)?;
        let function = Registers::of(self, sbdf);
        if above.iter().chain([&function]).any(|one| !one.is_whole()) {
            return Ok("only root can read why its members are not kept apart".to_owned());
        }
        if let Some(bridge) = above.iter().find(|bridge| bridge.is_to_conventional()) {
            return Ok(format!(
                "{} leads to a conventional PCI bus, and all behind it have one requester ID for the IOMMU",
                bridge.sbdf
            ));
        }
        let others = || members.iter().map(|member| member.sbdf);
        let mut reasons = Vec::new();
        if others().any(|other| !sbdf.is_beside(other)) {
            reasons.extend(above.iter().filter_map(|port| {
                let lack = port.lack(self)?;
                Some(format!("{} {} {lack}", port.kind(), port.sbdf))
            }));
        }
        if others().any(|other| other != sbdf && sbdf.is_beside(other)) {
            let lack = function.lack(self);
            reasons.extend(lack.map(|lack| format!("{sbdf}, one of several functions, {lack}")));
        }
        if reasons.is_empty() {
            return Ok("no register tells why; the kernel may know of a flaw".to_owned());
        }
        let reasons = reasons.join("; ");
        Ok(format!(
            "they may reach each other past the IOMMU: {reasons}"
        ))
    }

    /// The bridges above a function, the nearest first. That a bridge leads to a bus is told by its bus numbers.
    fn above(&self, sbdf: HostSbdf) -> Result<Vec<Registers>, HostError> {
        let mut bridges = Vec::new();
        for function in self.functions()? {
            if function.class >> 16 == PCI_BRIDGE {
                bridges.push(Registers::of(self, function.sbdf));
            }
        }
        // A virtual function may have a bus number beyond that of its physical one.
        let mut at = self.physical_function(sbdf)?.unwrap_or(sbdf);
        let mut above = Vec::new();
        // A bridge leads to higher numbers only, so this ends.
        while let Some(index) = bridges.iter().position(|bridge| bridge.leads_to(at)) {
            let bridge = bridges.swap_remove(index);
            at = bridge.sbdf;
            above.push(bridge);
        }
        Ok(above)
    }
}

/// Base class of bridges.
const PCI_BRIDGE: u32 = 0x06;

/// Configuration space of a function, as far as it can be read.
struct Registers {
    sbdf: HostSbdf,
    config: Vec<u8>,
}

impl Registers {
    fn of(root: &HostRoot, sbdf: HostSbdf) -> Self {
        let config = root.config(sbdf).unwrap_or_default();
        Self { sbdf, config }
    }

    /// Whether there is more than the header, which is what a user other than root gets.
    fn is_whole(&self) -> bool {
        self.config.len() > usize::from(header::END)
    }

    /// Whether it is the bridge to the bus of a function.
    fn leads_to(&self, below: HostSbdf) -> bool {
        const BRIDGE: u8 = 1;
        let byte = |offset: u16| self.config.get(usize::from(offset)).copied();
        let layout = byte(header::HEADER_TYPE).map(|byte| HeaderType(byte).layout());
        let secondary = byte(header::SECONDARY_BUS).filter(|bus| *bus > self.sbdf.bus());
        layout == Some(BRIDGE)
            && self.sbdf.segment() == below.segment()
            && secondary == Some(below.bus())
    }

    fn express(&self) -> Option<PortType> {
        let at = capability::find(&self.config, CapabilityId::PCI_EXPRESS)?.offset;
        express::port_type(&self.config, at)
    }

    fn is_to_conventional(&self) -> bool {
        matches!(self.express(), None | Some(PortType::PCI_BRIDGE))
    }

    fn kind(&self) -> &'static str {
        match self.express() {
            Some(PortType::ROOT_PORT) => "root port",
            Some(PortType::UPSTREAM_PORT | PortType::DOWNSTREAM_PORT) => "switch port",
            _ => "bridge",
        }
    }

    /// What it lacks to send up to the IOMMU all that comes from it or from below it, if anything.
    fn lack(&self, root: &HostRoot) -> Option<String> {
        const NONE: &str = "has no Access Control Services";
        let port = matches!(
            self.express(),
            Some(PortType::ROOT_PORT | PortType::DOWNSTREAM_PORT)
        );
        let end = matches!(
            self.express(),
            Some(
                PortType::ENDPOINT
                    | PortType::LEGACY_ENDPOINT
                    | PortType::UPSTREAM_PORT
                    | PortType::INTEGRATED_ENDPOINT
            )
        );
        // By its link alone it reaches nobody but what is above.
        if end && !self.is_one_of_several(root) {
            return None;
        }
        let found = capability::find_extended(&self.config, ExtendedCapabilityId::ACS);
        let Some(found) = found.filter(|_| port || end) else {
            return Some(NONE.to_owned());
        };
        let off = AccessControl::off(&self.config, found.offset)?.names();
        (!off.is_empty())
            .then(|| format!("has {} of its Access Control Services off", off.join(", ")))
    }

    /// Whether its device has more functions. Virtual ones count as alone.
    fn is_one_of_several(&self, root: &HostRoot) -> bool {
        let header_type = self.config.get(usize::from(header::HEADER_TYPE));
        let several = header_type.is_some_and(|byte| HeaderType(*byte).multi_function());
        let is_virtual = matches!(root.physical_function(self.sbdf), Ok(Some(_)));
        (several || self.sbdf.function() > 0) && !is_virtual
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{GPU, GPU_AUDIO, ROOT_PORT, SavedHost, sbdf};

    const ENDPOINT: u8 = 0;
    const ROOT: u8 = 4;
    const UP: u8 = 5;
    const DOWN: u8 = 6;
    const TO_PCI: u8 = 7;
    const EVENT_COLLECTOR: u8 = 0xa;
    /// Source Validation, Request Redirect, Completion Redirect, Upstream Forwarding.
    const ALL: u8 = 0x1d;

    /// A PCI Express function, of several; with `acs`, what it has and what of it is on.
    fn express(port_type: u8, acs: Option<(u8, u8)>) -> Vec<u8> {
        let mut config = vec![0_u8; 4096];
        config[0x06] = 0x10;
        config[0x0e] = 0x80;
        config[0x34] = 0x40;
        config[0x40] = 0x10;
        config[0x42] = 0x02 | port_type << 4;
        if let Some((has, on)) = acs {
            config[0x100..0x104].copy_from_slice(&[0x0d, 0x00, 0x01, 0x00]);
            (config[0x104], config[0x106]) = (has, on);
        }
        config
    }

    /// The same as a bridge to bus `secondary`.
    fn bridge(port_type: u8, secondary: u8, acs: Option<(u8, u8)>) -> Vec<u8> {
        let mut config = express(port_type, acs);
        config[0x0e] = 0x01;
        config[0x19] = secondary;
        config
    }

    fn put(host: &SavedHost, address: &str, config: impl AsRef<[u8]>) {
        host.file(&format!("sys/bus/pci/devices/{address}/config"), config);
    }

    /// The GPU and its audio function below a port with `acs`, as `endpoints` themselves.
    fn host(port: Vec<u8>, endpoints: &[u8]) -> SavedHost {
        let host = SavedHost::intel();
        put(&host, ROOT_PORT.0, port);
        put(&host, GPU.0, endpoints);
        put(&host, GPU_AUDIO.0, endpoints);
        host
    }

    fn why(host: &SavedHost, address: &str, group: u32) -> String {
        let root = host.root();
        let members = root.group(group).unwrap().members;
        root.why_shared(sbdf(address), &members).unwrap()
    }

    #[test]
    fn root_port_without_acs_is_named() {
        let endpoint = express(ENDPOINT, Some((ALL, ALL)));
        let host = host(bridge(ROOT, 1, None), &endpoint);
        assert_eq!(
            why(&host, GPU.0, 14),
            "they may reach each other past the IOMMU: root port 0000:00:01.0 has no Access Control Services"
        );
    }

    #[test]
    fn service_that_is_off_is_named() {
        let endpoint = express(ENDPOINT, Some((ALL, ALL)));
        let host = host(bridge(ROOT, 1, Some((ALL, ALL & !0x14))), &endpoint);
        let text = why(&host, GPU.0, 14);
        let end = "root port 0000:00:01.0 has Request Redirect, Upstream Forwarding of its Access Control Services off";
        assert!(text.ends_with(end), "{text}");
        // What it does not have at all the kernel does not ask for.
        put(&host, ROOT_PORT.0, bridge(ROOT, 1, Some((0x05, 0x05))));
        assert!(why(&host, GPU.0, 14).starts_with("no register tells why"));
    }

    #[test]
    fn functions_of_one_device_are_the_cause_where_the_port_is_not() {
        let host = host(bridge(ROOT, 1, Some((ALL, ALL))), &express(ENDPOINT, None));
        let text = why(&host, GPU_AUDIO.0, 14);
        let end = "past the IOMMU: 0000:01:00.1, one of several functions, has no Access Control Services";
        assert!(text.ends_with(end), "{text}");
        // What is conventional has none.
        put(&host, GPU_AUDIO.0, [0; 256]);
        assert!(why(&host, GPU_AUDIO.0, 14).ends_with(end));
        put(&host, GPU_AUDIO.0, express(EVENT_COLLECTOR, None));
        assert!(why(&host, GPU_AUDIO.0, 14).ends_with(end));
    }

    #[test]
    fn each_port_of_a_switch_that_lacks_acs_is_named_the_nearest_first() {
        let endpoint = express(ENDPOINT, None);
        let host = host(bridge(ROOT, 1, Some((ALL, ALL))), &endpoint);
        for (address, config) in [
            ("0000:01:00.0", bridge(UP, 2, None)),
            ("0000:02:00.0", bridge(DOWN, 3, None)),
            ("0000:03:00.0", endpoint),
        ] {
            let class = if address == "0000:03:00.0" {
                "0x020000"
            } else {
                "0x060400"
            };
            host.function((address, "8086:1234", class), None, Some(20));
            put(&host, address, config);
        }
        let text = why(&host, "0000:03:00.0", 20);
        // A single upstream port has nobody beside it.
        let end = "past the IOMMU: switch port 0000:02:00.0 has no Access Control Services";
        assert!(text.ends_with(end), "{text}");
        put(&host, ROOT_PORT.0, bridge(ROOT, 1, None));
        let end = format!("{end}; root port 0000:00:01.0 has no Access Control Services");
        assert!(why(&host, "0000:03:00.0", 20).ends_with(&end));
    }

    #[test]
    fn bridge_to_a_conventional_bus_is_named_alone() {
        let mut without_express = bridge(ROOT, 1, None);
        without_express[0x06] = 0;
        for port in [without_express, bridge(TO_PCI, 1, None)] {
            let host = host(port, &[0; 256]);
            assert_eq!(
                why(&host, GPU.0, 14),
                "0000:00:01.0 leads to a conventional PCI bus, and all behind it have one requester ID for the IOMMU"
            );
        }
    }

    #[test]
    fn who_may_not_read_so_far_is_told() {
        let host = host(
            bridge(ROOT, 1, None)[..64].to_vec(),
            &express(ENDPOINT, None),
        );
        assert!(why(&host, GPU.0, 14).starts_with("only root can read"));
    }

    #[test]
    fn virtual_function_is_below_the_ports_of_its_physical_one() {
        let host = host(bridge(ROOT, 1, None), &express(ENDPOINT, None));
        host.function(("0000:02:10.0", "10de:0001", "0x030000"), None, Some(14));
        put(&host, "0000:02:10.0", express(ENDPOINT, None));
        host.link("sys/bus/pci/devices/0000:02:10.0/physfn", "../0000:01:00.0");
        assert!(why(&host, "0000:02:10.0", 14).contains("root port 0000:00:01.0"));
    }
}
