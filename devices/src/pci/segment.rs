//! The guest's PCI segment: the functions on bus 0 and the ways to their configuration space.

use super::access::{ConfigAddress, ConfigTarget};
use super::header::{self, HeaderType};
use super::{ConfigStep, GuestBdf, HostBridge, PciFunction};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A function sits at the address already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bdf} is taken by {by}")]
pub struct Occupied {
    /// The address.
    pub bdf: GuestBdf,
    /// Name of the function there.
    pub by: String,
}

/// What a guest's config write asks of the machine.
pub struct ConfigWrite {
    /// Where the function sits.
    pub bdf: GuestBdf,
    /// The function, to give [`ConfigStep::Commit`] back to and to ask for its BARs.
    pub function: Arc<dyn PciFunction>,
    /// What is to be done, in this order, before the guest goes on.
    pub steps: Vec<ConfigStep>,
}

type Functions = BTreeMap<GuestBdf, Arc<dyn PciFunction>>;

/// The functions on bus 0, which always holds a host bridge at 00:00.0.
///
/// Invariant: no function is called while the table is locked.
pub struct PciSegment {
    functions: RwLock<Functions>,
    config_address: ConfigAddress,
}

impl Default for PciSegment {
    fn default() -> Self {
        Self::new()
    }
}

impl PciSegment {
    /// A segment with nothing but the host bridge.
    #[must_use]
    pub fn new() -> Self {
        let mut functions = Functions::new();
        if let Some(bdf) = GuestBdf::new(0, 0) {
            functions.insert(bdf, Arc::new(HostBridge::new()));
        }
        Self {
            functions: RwLock::new(functions),
            config_address: ConfigAddress::new(),
        }
    }

    fn read_table<T>(&self, look: impl FnOnce(&Functions) -> T) -> T {
        look(
            &self
                .functions
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Puts `function` at `bdf`, where the guest's next scan finds it. A scan looks at functions 1
    /// to 7 of a slot only if function 0 is there.
    ///
    /// # Errors
    /// [`Occupied`]; the segment is as before then.
    pub fn insert(&self, bdf: GuestBdf, function: Arc<dyn PciFunction>) -> Result<(), Occupied> {
        use std::collections::btree_map::Entry;
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let there = match functions.entry(bdf) {
            Entry::Vacant(vacant) => {
                vacant.insert(function);
                return Ok(());
            }
            Entry::Occupied(occupied) => Arc::clone(occupied.get()),
        };
        drop(functions);
        Err(Occupied {
            bdf,
            by: there.name().to_owned(),
        })
    }

    /// Takes the function at `bdf` off the segment. An access in flight may still end in it; who
    /// tears the function down waits for the last `Arc`.
    pub fn remove(&self, bdf: GuestBdf) -> Option<Arc<dyn PciFunction>> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.remove(&bdf)
    }

    /// The function at `bdf`.
    #[must_use]
    pub fn find(&self, bdf: GuestBdf) -> Option<Arc<dyn PciFunction>> {
        self.read_table(|functions| functions.get(&bdf).cloned())
    }

    /// The functions now, by ascending address.
    #[must_use]
    pub fn functions(&self) -> Vec<(GuestBdf, Arc<dyn PciFunction>)> {
        let entry = |(bdf, function): (&GuestBdf, &Arc<_>)| (*bdf, Arc::clone(function));
        self.read_table(|functions| functions.iter().map(entry).collect())
    }

    /// Function 0 of the lowest slot that holds no function at all; `None` when every slot is taken.
    #[must_use]
    pub fn free_slot(&self) -> Option<GuestBdf> {
        self.read_table(|functions| {
            let taken = |device| functions.keys().any(|bdf| bdf.device() == device);
            let free = (0..32).find(|device| !taken(*device))?;
            GuestBdf::new(free, 0)
        })
    }

    /// Whether the slot holds a function other than function 0.
    #[must_use]
    pub fn is_multi_function(&self, device: u8) -> bool {
        let further = |bdf: &GuestBdf| bdf.device() == device && bdf.function() > 0;
        self.read_table(|functions| functions.keys().any(further))
    }

    /// Puts the CONFIG_ADDRESS latch back to power-on; the functions are reset by the caller.
    pub fn reset(&self) {
        self.config_address.reset();
    }

    /// A guest's read at port CF8 + `port`. What is not a configuration access reads as ones.
    pub fn port_read(&self, port: u64, data: &mut [u8]) {
        match self.config_address.read(port, data.len()) {
            Some(latch) => data.copy_from_slice(&latch.to_le_bytes()),
            None => self.config_read(self.config_address.target(port, data.len()), data),
        }
    }

    /// A guest's write at port CF8 + `port`. What is not a configuration access is ignored.
    #[must_use]
    pub fn port_write(&self, port: u64, data: &[u8]) -> Option<ConfigWrite> {
        if self.config_address.write(port, data) {
            return None;
        }
        self.config_write(self.config_address.target(port, data.len()), data)
    }

    /// [`PciFunction::starts_dma`] of what [`PciSegment::port_write`] would write.
    #[must_use]
    pub fn port_write_starts_dma(&self, port: u64, data: &[u8]) -> bool {
        self.starts_dma(self.config_address.target(port, data.len()), data)
    }

    /// [`PciFunction::starts_dma`] of what [`PciSegment::ecam_write`] would write.
    #[must_use]
    pub fn ecam_write_starts_dma(&self, offset: u64, data: &[u8]) -> bool {
        self.starts_dma(ConfigTarget::of_ecam(offset, data.len()), data)
    }

    /// A guest's read at `offset` into the ECAM window.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        self.config_read(ConfigTarget::of_ecam(offset, data.len()), data);
    }

    /// A guest's write at `offset` into the ECAM window.
    #[must_use]
    pub fn ecam_write(&self, offset: u64, data: &[u8]) -> Option<ConfigWrite> {
        self.config_write(ConfigTarget::of_ecam(offset, data.len()), data)
    }

    /// All ones where no function is: that is how a scan finds an empty slot. The multi-function bit is
    /// the segment's, whatever the function has there.
    fn config_read(&self, target: Option<ConfigTarget>, data: &mut [u8]) {
        data.fill(0xff);
        let Some((target, bdf)) = target.and_then(|t| Some((t, t.bdf()?))) else {
            return;
        };
        let Some(function) = self.find(bdf) else {
            return;
        };
        function.config_read(target.offset, data);
        // Which functions share a slot is the segment's to know: an assigned function's neighbours on
        // the host are not its neighbours here.
        let header_type = usize::from(header::HEADER_TYPE)
            .checked_sub(usize::from(target.offset.get()))
            .and_then(|index| data.get_mut(index));
        if let Some(byte) = header_type {
            let several = self.is_multi_function(bdf.device());
            *byte = HeaderType(*byte).with_multi_function(several).0;
        }
    }

    fn starts_dma(&self, target: Option<ConfigTarget>, data: &[u8]) -> bool {
        target.is_some_and(|target| {
            let function = target.bdf().and_then(|bdf| self.find(bdf));
            function.is_some_and(|function| function.starts_dma(target.offset, data))
        })
    }

    fn config_write(&self, target: Option<ConfigTarget>, data: &[u8]) -> Option<ConfigWrite> {
        let target = target?;
        let bdf = target.bdf()?;
        let function = self.find(bdf)?;
        let steps = function.config_write(target.offset, data);
        Some(ConfigWrite {
            bdf,
            function,
            steps,
        })
    }
}

#[cfg(test)]
mod tests;
