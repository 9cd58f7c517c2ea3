//! How a guest addresses configuration space: ports CF8/CFC (PCI 3.0 section 3.2.2.3.2) and ECAM
//! (PCI Express 5.0 section 7.2.2).

use super::{ConfigOffset, GuestBdf};
use std::sync::atomic::{AtomicU32, Ordering};

/// First port of the configuration mechanism.
pub const CONFIG_PORTS_BASE: u16 = 0xcf8;
/// How many ports it takes. CF9, a reset register on some chipsets, is not decoded.
pub const CONFIG_PORTS_LEN: u16 = 8;
/// Size of one bus in an ECAM window.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;

/// Port offset of CONFIG_ADDRESS.
const CONFIG_ADDRESS: u64 = 0;
/// Port offset of CONFIG_DATA.
const CONFIG_DATA: u64 = 4;

/// CONFIG_ADDRESS: an access to CONFIG_DATA is a configuration cycle.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the bits that hold something; the others read as zero.
const ADDRESS_IMPLEMENTED: u32 = ADDRESS_ENABLE | 0x00ff_fffc;
const ADDRESS_BUS_SHIFT: u32 = 16;
const ADDRESS_DEVFN_SHIFT: u32 = 8;
/// CONFIG_ADDRESS: dword-aligned register number.
const ADDRESS_REGISTER: u32 = 0xfc;

const ECAM_BUS_SHIFT: u32 = 20;
const ECAM_DEVFN_SHIFT: u32 = 12;
const ECAM_REGISTER: u64 = 0xfff;
/// The largest ECAM window: 256 buses.
const ECAM_SIZE: u64 = ECAM_BUS_SIZE << 8;

/// A register of a function, as an access names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigTarget {
    /// Bus number.
    pub bus: u8,
    /// Device in the upper five bits, function in the lower three.
    pub devfn: u8,
    /// First byte of the access.
    pub offset: ConfigOffset,
}

impl ConfigTarget {
    /// The function's address when it is on bus 0, the only one.
    #[must_use]
    pub fn bdf(self) -> Option<GuestBdf> {
        (self.bus == 0).then(|| GuestBdf::new(self.devfn >> 3, self.devfn & 7))?
    }

    /// What an ECAM access of `len` bytes at `offset` into the window addresses. `None` when it
    /// crosses a dword or is not 1, 2 or 4 bytes long: reads are all ones then, writes have no effect.
    #[must_use]
    pub fn of_ecam(offset: u64, len: usize) -> Option<Self> {
        if offset >= ECAM_SIZE || !within_dword(offset, len) {
            return None;
        }
        Some(Self {
            bus: low_byte(offset >> ECAM_BUS_SHIFT),
            devfn: low_byte(offset >> ECAM_DEVFN_SHIFT),
            offset: u16::try_from(offset & ECAM_REGISTER)
                .ok()
                .and_then(ConfigOffset::new)?,
        })
    }
}

/// Whether an access is 1, 2 or 4 bytes long and lies inside one dword.
#[must_use]
pub fn within_dword(offset: u64, len: usize) -> bool {
    let len_fits = matches!(len, 1 | 2 | 4);
    len_fits && (offset & 3) + len as u64 <= 4
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// The CONFIG_ADDRESS latch in front of CONFIG_DATA.
#[derive(Debug, Default)]
pub struct ConfigAddress(AtomicU32);

impl ConfigAddress {
    /// The latch after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Back to power-on.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A read at port CF8 + `port`, if it is one of the latch: only a dword access at CF8 is.
    #[must_use]
    pub fn read(&self, port: u64, len: usize) -> Option<u32> {
        (port == CONFIG_ADDRESS && len == 4).then(|| self.0.load(Ordering::Relaxed))
    }

    /// A write at port CF8 + `port`. Anything but a dword at CF8 leaves the latch as it is: bytes and
    /// words there belong to other devices. Returns whether the write was the latch's.
    pub fn write(&self, port: u64, data: &[u8]) -> bool {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return false;
        };
        if port != CONFIG_ADDRESS {
            return false;
        }
        let value = u32::from_le_bytes(bytes) & ADDRESS_IMPLEMENTED;
        self.0.store(value, Ordering::Relaxed);
        true
    }

    /// What an access of `len` bytes at port CF8 + `port` addresses: `None` outside CFC to CFF, with
    /// the enable bit clear, across a dword or with an odd width.
    #[must_use]
    pub fn target(&self, port: u64, len: usize) -> Option<ConfigTarget> {
        let latch = self.0.load(Ordering::Relaxed);
        let in_data = (CONFIG_DATA..CONFIG_DATA + 4).contains(&port);
        if latch & ADDRESS_ENABLE == 0 || !in_data || !within_dword(port, len) {
            return None;
        }
        let register = u64::from(latch & ADDRESS_REGISTER) + (port - CONFIG_DATA);
        Some(ConfigTarget {
            bus: low_byte(u64::from(latch >> ADDRESS_BUS_SHIFT)),
            devfn: low_byte(u64::from(latch >> ADDRESS_DEVFN_SHIFT)),
            offset: u16::try_from(register).ok().and_then(ConfigOffset::new)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn latched(value: u32) -> ConfigAddress {
        let address = ConfigAddress::new();
        assert!(address.write(0, &value.to_le_bytes()));
        address
    }

    #[test]
    fn config_address_selects_bus_device_function_and_register() {
        let target = latched(0x8000_0000 | 0x12 << 16 | 0x1d << 11 | 5 << 8 | 0x3c)
            .target(4 + 2, 2)
            .unwrap();
        assert_eq!(target.bus, 0x12);
        assert_eq!(target.devfn, 0x1d << 3 | 5);
        assert_eq!(target.offset.get(), 0x3e);
        assert_eq!(target.bdf(), None);
    }

    #[test]
    fn config_data_is_dead_while_the_enable_bit_is_clear() {
        assert_eq!(latched(0x0000_0810).target(4, 4), None);
        assert_eq!(ConfigAddress::new().target(4, 1), None);
    }

    #[test]
    fn only_a_dword_write_at_cf8_latches() {
        let address = latched(0x8000_1234);
        assert!(!address.write(0, &[0xff]));
        assert!(!address.write(0, &[0xff, 0xff]));
        assert!(!address.write(1, &[0x06]));
        assert!(!address.write(1, &[0xff; 4]));
        assert!(!address.write(4, &[0xff; 4]));
        assert_eq!(address.read(0, 4), Some(0x8000_1234));
        assert_eq!(address.read(0, 1), None);
        assert_eq!(address.read(1, 1), None);
    }

    #[test]
    fn reserved_bits_of_config_address_read_as_zero() {
        assert_eq!(latched(u32::MAX).read(0, 4), Some(0x80ff_fffc));
    }

    #[test]
    fn ecam_offset_names_bus_function_and_register() {
        let target = ConfigTarget::of_ecam(0x0003_1ffe, 2).unwrap();
        assert_eq!((target.bus, target.devfn), (0, 0x31));
        assert_eq!(target.offset.get(), 0xffe);
        assert_eq!(target.bdf(), GuestBdf::new(6, 1));
        assert_eq!(ConfigTarget::of_ecam(0x0ff0_0000, 4).unwrap().bus, 0xff);
        assert_eq!(ConfigTarget::of_ecam(0x1000_0000, 4), None);
    }

    #[test]
    fn accesses_across_a_dword_or_of_odd_width_address_nothing() {
        for (offset, len) in [(0, 0), (0, 3), (0, 8), (1, 4), (2, 4), (3, 2), (0, 16)] {
            assert_eq!(ConfigTarget::of_ecam(offset, len), None, "{offset} {len}");
            assert_eq!(latched(0x8000_0000).target(4 + offset, len), None);
        }
        // An unaligned word inside a dword is a valid set of byte enables.
        assert!(ConfigTarget::of_ecam(1, 2).is_some());
    }

    proptest! {
        #[test]
        fn both_mechanisms_name_the_same_register(
            devfn: u8, dword in 0u16..64, byte in 0u64..4, shift in 0u32..3,
        ) {
            let len = 1usize << shift;
            let register = u64::from(dword) * 4;
            let address = latched(
                0x8000_0000 | u32::from(devfn) << 8 | u32::from(dword) << 2,
            );
            let ports = address.target(4 + byte, len);
            let ecam = ConfigTarget::of_ecam(u64::from(devfn) << 12 | (register + byte), len);
            prop_assert_eq!(ports, ecam);
            prop_assert_eq!(ports.is_some(), byte + len as u64 <= 4);
        }

        #[test]
        fn no_access_panics(latch: u32, offset: u64, port: u64, len in 0usize..20) {
            let _ = ConfigTarget::of_ecam(offset, len);
            let address = latched(latch);
            let _ = address.target(port, len);
            let _ = address.read(port, len);
            let _ = address.write(port, &vec![0xa5; len]);
        }
    }
}
