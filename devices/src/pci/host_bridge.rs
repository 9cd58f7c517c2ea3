//! The host bridge at 00:00.0: a function that a guest expects to find and has nothing to do with.

use super::{
    BarIndex, BarLayout, ConfigOffset, ConfigStep, HardwareWrite, PciFunction, ResetError, header,
};

const VENDOR_INTEL: u16 = 0x8086;
/// A device id that no Linux driver, quirk or EDAC table names, and that other virtual machines use
/// for the same purpose.
const DEVICE_VIRTUAL_HOST_BRIDGE: u16 = 0x0d57;
/// Class 06 (bridge), sub-class 00 (host bridge), interface 00.
const CLASS_HOST_BRIDGE: [u8; 3] = [0x00, 0x00, 0x06];

const IMAGE_LEN: usize = header::END as usize;

/// A host bridge without BARs, capabilities or writable registers.
pub struct HostBridge {
    image: [u8; IMAGE_LEN],
}

impl HostBridge {
    /// The host bridge.
    #[must_use]
    pub fn new() -> Self {
        let mut image = [0; IMAGE_LEN];
        let mut put = |offset: u16, bytes: &[u8]| {
            let start = usize::from(offset);
            image[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(header::VENDOR_ID, &VENDOR_INTEL.to_le_bytes());
        put(header::DEVICE_ID, &DEVICE_VIRTUAL_HOST_BRIDGE.to_le_bytes());
        put(header::CLASS_CODE, &CLASS_HOST_BRIDGE);
        Self { image }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn name(&self) -> &str {
        "host bridge"
    }

    fn config_read(&self, offset: ConfigOffset, data: &mut [u8]) {
        let start = usize::from(offset.get());
        for (at, byte) in (start..).zip(data) {
            *byte = self.image.get(at).copied().unwrap_or(0);
        }
    }

    fn config_write(&self, _: ConfigOffset, _: &[u8]) -> Vec<ConfigStep> {
        Vec::new()
    }

    fn commit(&self, _: HardwareWrite) {}

    fn bars(&self) -> &[BarLayout] {
        &[]
    }

    fn assign_bar(&self, _: BarIndex, _: u64) {}

    fn bar_read(&self, _: BarIndex, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: BarIndex, _: u64, _: &[u8]) {}

    fn stop_decoding(&self) -> Vec<ConfigStep> {
        Vec::new()
    }

    fn reset(&self) -> Result<(), ResetError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(offset: u16) -> [u8; N] {
        let mut data = [0xa5; N];
        HostBridge::new().config_read(ConfigOffset::new(offset).unwrap(), &mut data);
        data
    }

    #[test]
    fn host_bridge_has_its_class_and_nothing_else() {
        assert_eq!(read(header::VENDOR_ID), [0x86, 0x80, 0x57, 0x0d]);
        assert_eq!(read(header::REVISION_ID), [0, 0x00, 0x00, 0x06]);
        assert_eq!(read(header::BAR0), [0; 4]);
        assert_eq!(read(header::STATUS), [0; 2]);
        // No extended capabilities either.
        assert_eq!(read(0x100), [0; 4]);
    }
}
