//! The port and memory buses, with the names that figures and messages use.

use crate::stats::Access;
use devices::bus::{Bus, BusConflict, BusDevice};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Which address space a device is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// I/O ports.
    Port,
    /// Memory.
    Memory,
}

/// The machine's two buses.
#[derive(Default)]
pub(super) struct Buses {
    port: Bus,
    memory: Bus,
    /// Names stay after removal: figures speak of the past.
    names: Mutex<BTreeMap<(Space, u64), String>>,
}

impl Buses {
    /// The bus of `space`.
    #[must_use]
    pub(super) fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Port => &self.port,
            Space::Memory => &self.memory,
        }
    }

    /// Puts `device` at `base..base + len`.
    ///
    /// # Errors
    /// [`BusConflict`].
    pub(super) fn insert(
        &self,
        space: Space,
        (base, len): (u64, u64),
        name: &str,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusConflict> {
        self.bus(space).insert(base, len, device)?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert((space, base), name.to_owned());
        Ok(())
    }

    /// What figures call the range that starts at `base`.
    #[must_use]
    pub(super) fn name(&self, access: Access, base: u64) -> String {
        let space = match access {
            Access::PortRead | Access::PortWrite => Space::Port,
            Access::MmioRead | Access::MmioWrite => Space::Memory,
        };
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(&(space, base)) {
            Some(name) => format!("{name} {base:#x}"),
            None => format!("unclaimed {base:#x}"),
        }
    }
}
