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

/// So many names are kept: more than there can be devices and BARs at one time, and fewer than places to which a guest can
/// move a BAR.
const MOST_NAMES: usize = 4096;

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
        self.forget_old_names();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert((space, base), name.to_owned());
        Ok(())
    }

    /// Makes room when there are [`MOST_NAMES`]: those without a device go.
    fn forget_old_names(&self) {
        let places: Vec<_> = {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.len() < MOST_NAMES {
                return;
            }
            names.keys().copied().collect()
        };
        let mut gone = places;
        gone.retain(|(space, base)| self.bus(*space).find(*base).is_none());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for place in gone {
            names.remove(&place);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl BusDevice for Nothing {
        fn read(&self, _: u64, _: &mut [u8]) {}
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn a_bar_that_is_moved_for_ever_leaves_a_bounded_number_of_names() {
        let buses = Buses::default();
        let put = |base, name| buses.insert(Space::Memory, (base, 1), name, Arc::new(Nothing));
        put(0, "stays").unwrap();
        for base in 1..3 * MOST_NAMES as u64 {
            put(base, "moves").unwrap();
            let name = buses.name(Access::MmioRead, base);
            assert_eq!(name, format!("moves {base:#x}"));
            buses.bus(Space::Memory).remove(base);
        }
        assert!(buses.names.lock().unwrap().len() <= MOST_NAMES);
        assert_eq!(buses.name(Access::MmioWrite, 0), "stays 0x0");
    }
}
