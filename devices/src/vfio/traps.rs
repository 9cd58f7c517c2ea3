//! Counts of a guest's accesses to what of BARs is not mapped.

use crate::pci::BarIndex;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many offsets of a BAR have counts of their own: a guest can touch as many as the BAR has bytes.
const MOST_OFFSETS: usize = 64;

/// Where accesses went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrapPlace {
    /// Which BAR.
    pub bar: BarIndex,
    /// Where in it, or any of those that came when 64 others had been there.
    pub offset: Option<u64>,
}

/// Accesses to one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapCounts {
    /// Loads, or `in`.
    pub reads: u64,
    /// Stores, or `out`.
    pub writes: u64,
}

/// Places in the order of BARs and offsets, those without an offset last, with their counts.
pub type BarTraps = Vec<(TrapPlace, TrapCounts)>;

/// The counters of one device. An access that traps has left the guest and costs microseconds; the lock is a leaf and held for
/// an addition.
#[derive(Debug, Default)]
pub(super) struct TrapCounters {
    bars: Mutex<BTreeMap<BarIndex, BarCounters>>,
}

#[derive(Debug, Default)]
struct BarCounters {
    offsets: BTreeMap<u64, TrapCounts>,
    others: TrapCounts,
}

impl BarCounters {
    fn at(&mut self, offset: u64) -> &mut TrapCounts {
        if self.offsets.len() < MOST_OFFSETS || self.offsets.contains_key(&offset) {
            self.offsets.entry(offset).or_default()
        } else {
            &mut self.others
        }
    }
}

impl TrapCounters {
    pub(super) fn read(&self, bar: BarIndex, offset: u64) {
        self.count(bar, offset, |counts| &mut counts.reads);
    }

    pub(super) fn write(&self, bar: BarIndex, offset: u64) {
        self.count(bar, offset, |counts| &mut counts.writes);
    }

    fn count(&self, bar: BarIndex, offset: u64, which: impl Fn(&mut TrapCounts) -> &mut u64) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let count = which(bars.entry(bar).or_default().at(offset));
        *count = count.saturating_add(1);
    }

    /// All of them.
    pub(super) fn counts(&self) -> BarTraps {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BarTraps::new();
        for (&bar, counters) in bars.iter() {
            let place = |offset| TrapPlace { bar, offset };
            let offsets = counters.offsets.iter();
            all.extend(offsets.map(|(&offset, &counts)| (place(Some(offset)), counts)));
            if counters.others != TrapCounts::default() {
                all.push((place(None), counters.others));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_own_counts_in_order() {
        let counters = TrapCounters::default();
        let bar = |index| BarIndex::new(index).unwrap();
        counters.write(bar(3), 0x10);
        counters.write(bar(3), 0xc);
        counters.read(bar(0), 0x10);
        counters.write(bar(3), 0xc);
        counters.read(bar(3), 0xc);
        let told = |index, offset, reads, writes| {
            let offset = Some(offset);
            let bar = bar(index);
            (TrapPlace { bar, offset }, TrapCounts { reads, writes })
        };
        assert_eq!(
            counters.counts(),
            [told(0, 0x10, 1, 0), told(3, 0xc, 1, 2), told(3, 0x10, 0, 1)]
        );
    }

    #[test]
    fn a_guest_that_touches_every_byte_of_a_bar_takes_no_more_memory_for_it() {
        let counters = TrapCounters::default();
        (0..0x4000).for_each(|offset| counters.write(BarIndex::ROM, offset));
        // One that was there before the rest goes on.
        counters.read(BarIndex::ROM, 5);
        let counts = counters.counts();
        assert_eq!(counts.len(), MOST_OFFSETS + 1);
        let (place, others) = counts[MOST_OFFSETS];
        assert_eq!((place.bar, place.offset), (BarIndex::ROM, None));
        assert_eq!((others.reads, others.writes), (0, 0x4000 - 64));
        assert_eq!(
            counts[5].1,
            TrapCounts {
                reads: 1,
                writes: 1
            }
        );
    }
}
