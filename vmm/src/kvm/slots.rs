//! The guest-physical memory map as KVM memslots.

use super::sys;
use super::vm::Vm;
use devices::memory::{MemoryListener, MemoryRegion};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps KVM's memslots equal to the memory map that it listens to.
pub struct MemorySlots {
    vm: Arc<Vm>,
    taken: Mutex<BTreeMap<u32, MemoryRegion>>,
}

impl MemorySlots {
    /// No slot is taken at first.
    #[must_use]
    pub fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            taken: Mutex::default(),
        }
    }

    /// How many slots are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.len()
    }

    /// Whether no slot is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl MemoryListener for MemorySlots {
    fn region_added(&self, region: &MemoryRegion) -> io::Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (0..self.vm.slot_count())
            .find(|slot| !taken.contains_key(slot))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        sys::set_slot(self.vm.fd(), slot, region.guest_address, &region.host)?;
        taken.insert(slot, region.clone());
        Ok(())
    }

    fn region_removed(&self, region: &MemoryRegion) -> io::Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken
            .iter()
            .find(|(_, present)| present.guest_address == region.guest_address)
            .map(|(slot, _)| *slot)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        sys::remove_slot(self.vm.fd(), slot, region.guest_address)?;
        taken.remove(&slot);
        Ok(())
    }
}
