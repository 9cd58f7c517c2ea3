//! Address → device dispatch for port and memory accesses that left the guest.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::sync::{Arc, PoisonError, RwLock};

/// A device that decodes a range of addresses. Offsets count from the start of the range.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes; what the device doesn't implement reads as ones.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Two ranges of a [`Bus`] overlap, or a range is empty or wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address range {base:#x}+{len:#x} overlaps another or is no range")]
pub struct BusConflict {
    /// First address.
    pub base: u64,
    /// Length.
    pub len: u64,
}

struct Entry {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// An address space with devices in it.
///
/// A look-up clones the device's `Arc` and drops the lock before the device is entered, so that a
/// device may change the bus that called it.
#[derive(Default)]
pub struct Bus {
    entries: RwLock<BTreeMap<u64, Entry>>,
}

/// A device found on a [`Bus`].
pub struct Found {
    /// First address of the device's range.
    pub base: u64,
    /// Offset of the looked-up address in that range.
    pub offset: u64,
    /// The device.
    pub device: Arc<dyn BusDevice>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + len`.
    ///
    /// # Errors
    /// [`BusConflict`]; the bus is as before then.
    pub fn insert(
        &self,
        base: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusConflict> {
        let conflict = BusConflict { base, len };
        let last = len
            .checked_sub(1)
            .and_then(|l| base.checked_add(l))
            .ok_or(conflict)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let before = entries.range((Unbounded, Included(last))).next_back();
        if before.is_some_and(|(start, entry)| start + (entry.len - 1) >= base) {
            return Err(conflict);
        }
        entries.insert(base, Entry { len, device });
        Ok(())
    }

    /// Takes the device at exactly `base` off the bus. An access in flight may still end in it; who
    /// tears the device down waits for the last `Arc`.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn BusDevice>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&base).map(|entry| entry.device)
    }

    /// The device that decodes `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Found> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (base, entry) = entries.range((Unbounded, Included(address))).next_back()?;
        let offset = address - base;
        (offset < entry.len).then(|| Found {
            base: *base,
            offset,
            device: Arc::clone(&entry.device),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl BusDevice for Nothing {
        fn read(&self, _: u64, _: &mut [u8]) {}
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn an_address_is_decoded_by_the_range_that_holds_it() {
        let bus = Bus::new();
        bus.insert(0x1000, 0x10, Arc::new(Nothing)).unwrap();
        bus.insert(u64::MAX, 1, Arc::new(Nothing)).unwrap();
        assert!(bus.find(0xfff).is_none());
        assert_eq!(
            bus.find(0x100f).map(|f| (f.base, f.offset)),
            Some((0x1000, 0xf))
        );
        assert!(bus.find(0x1010).is_none());
        assert!(bus.find(u64::MAX).is_some());
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let bus = Bus::new();
        bus.insert(0x1000, 0x1000, Arc::new(Nothing)).unwrap();
        for (base, len) in [
            (0x1fff, 1),
            (0x0, 0x1001),
            (0x1800, 0x10),
            (0, 0x10000),
            (5, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(
                bus.insert(base, len, Arc::new(Nothing)),
                Err(BusConflict { base, len })
            );
        }
        bus.insert(0x2000, 1, Arc::new(Nothing)).unwrap();
        bus.insert(0xfff, 1, Arc::new(Nothing)).unwrap();
    }
}
