//! What a guest sees of a device: what the host sees, less what only the host may use.

use crate::guests::{DISK, EDU, NIC, large};
use tests::{Guest, HostDevice};

/// Extended capability ids (PCI Express Base Specification 6.0, section 7.9).
const ADVANCED_ERROR_REPORTING: u16 = 0x01;
const ARI: u16 = 0x0e;
const SR_IOV: u16 = 0x10;
const RESIZABLE_BAR: u16 = 0x15;

/// Capability ids.
const MSI: u8 = 0x05;
const PCI_EXPRESS: u8 = 0x10;
const MSI_X: u8 = 0x11;

/// PCI Express Capabilities, bits 7:4: Device/Port Type.
const ENDPOINT: u8 = 0b0000;
const ROOT_COMPLEX_INTEGRATED_ENDPOINT: u8 = 0b1001;

/// How much of configuration space a guest is asked for; all capabilities of the lab's devices are in
/// there. More would take seconds on a serial port.
const ASKED: usize = 512;

/// The configuration space of a function.
pub(crate) struct Function(Vec<u8>);

impl Function {
    /// As the host's kernel reads it.
    pub(crate) fn of_host(device: &HostDevice) -> Self {
        Self(device.config())
    }

    /// As a guest's kernel reads it.
    pub(crate) fn of_guest(guest: &mut Guest, address: &str) -> Self {
        let text = guest.ok(&format!(
            "head -c {ASKED} /sys/bus/pci/devices/{address}/config | xxd -p | tr -d '\\n'"
        ));
        let digits: Vec<_> = text.trim().chars().collect();
        let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
        Self(
            pairs
                .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
                .collect(),
        )
    }

    fn byte(&self, offset: usize) -> u8 {
        self.0[offset]
    }

    fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    /// Ids and offsets of the capabilities.
    fn capabilities(&self) -> Vec<(u8, usize)> {
        let mut found = Vec::new();
        let mut offset = usize::from(self.byte(0x34));
        while offset != 0 {
            assert!(found.len() < 48, "the chain has no end: {found:x?}");
            found.push((self.byte(offset), offset));
            offset = usize::from(self.byte(offset + 1));
        }
        found
    }

    /// Ids of the extended capabilities.
    fn extended_capabilities(&self) -> Vec<u16> {
        let mut found = Vec::new();
        let mut offset = 0x100;
        while offset != 0 && self.word(offset) != 0 {
            assert!(found.len() < 64, "the chain has no end: {found:x?}");
            found.push(self.word(offset));
            offset = usize::from(self.word(offset + 2) >> 4);
        }
        found
    }

    fn has(&self, id: u8) -> bool {
        self.capabilities().iter().any(|(found, _)| *found == id)
    }

    fn port_type(&self) -> u8 {
        let capabilities = self.capabilities();
        let (_, offset) = capabilities
            .iter()
            .find(|(id, _)| *id == PCI_EXPRESS)
            .unwrap();
        self.byte(offset + 2) >> 4
    }
}

#[test]
fn functions_are_where_addr_puts_them() {
    let functions: Vec<_> = large().functions.split_whitespace().collect();
    // edu is found only because function 0 of its slot says that there are more.
    assert_eq!(functions, ["0000:00:00.0", NIC, DISK, EDU]);
}

#[test]
fn only_a_slot_with_several_functions_says_so() {
    let multi_function = |name| large().guest[name].byte(0x0e) & 0x80 != 0;
    assert!(multi_function(DISK) && !multi_function(NIC));
    assert_eq!(large().host[DISK].byte(0x0e) & 0x80, 0);
}

#[test]
fn guest_sees_the_ids_and_class_of_the_devices() {
    for (name, guest) in &large().guest {
        let host = &large().host[name];
        // Vendor, device; revision, class.
        assert_eq!(guest.0[..4], host.0[..4], "{name}");
        assert_eq!(guest.0[8..12], host.0[8..12], "{name}");
        // Subsystem.
        assert_eq!(guest.0[0x2c..0x30], host.0[0x2c..0x30], "{name}");
    }
    assert_eq!(large().guest[NIC].0[..4], [0x86, 0x80, 0xc9, 0x10]);
    assert_eq!(large().guest[NIC].0[9..12], [0x00, 0x00, 0x02]);
    assert_eq!(large().guest[DISK].0[9..12], [0x02, 0x08, 0x01]);
}

#[test]
fn sr_iov_ari_and_resizable_bar_are_hidden() {
    let host = large().host[NIC].extended_capabilities();
    assert!(host.contains(&ARI) && host.contains(&SR_IOV), "{host:x?}");
    for (name, function) in [NIC, DISK].map(|name| (name, &large().guest[name])) {
        let guest = function.extended_capabilities();
        for hidden in [ARI, SR_IOV, RESIZABLE_BAR] {
            assert!(!guest.contains(&hidden), "{name}: {guest:x?}");
        }
    }
    let shown = large().guest[NIC].extended_capabilities();
    assert_eq!(shown, [ADVANCED_ERROR_REPORTING]);
}

#[test]
fn an_endpoint_becomes_a_root_complex_integrated_endpoint() {
    for name in [NIC, DISK] {
        assert_eq!(large().host[name].port_type(), ENDPOINT, "{name}");
        let shown = large().guest[name].port_type();
        assert_eq!(shown, ROOT_COMPLEX_INTEGRATED_ENDPOINT, "{name}");
    }
}

#[test]
fn a_conventional_device_has_no_extended_configuration_space() {
    assert_eq!(large().host[EDU].0.len(), 256);
    assert_eq!(large().guest[EDU].0.len(), 256);
}

#[test]
fn message_capabilities_stay_where_they_are() {
    for (name, guest) in &large().guest {
        for id in [MSI, MSI_X] {
            let place = |function: &Function| {
                let all = function.capabilities();
                all.into_iter().find(|(found, _)| *found == id)
            };
            assert_eq!(place(guest), place(&large().host[name]), "{name} {id:#x}");
        }
    }
    assert!(large().guest[NIC].has(MSI_X) && large().guest[EDU].has(MSI));
}
