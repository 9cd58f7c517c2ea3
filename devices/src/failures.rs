//! Failures that a guest can bring about again and again.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts failures, and logs the first, the second, the fourth and so on: a guest can't fill the
/// log, and none goes unseen.
#[derive(Debug, Default)]
pub struct Failures(AtomicU64);

impl Failures {
    /// Counts one more, and says `message` if it is its turn.
    pub fn report(&self, message: fmt::Arguments<'_>) {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        if count == 1 {
            log::warn!("{message}");
        } else if count.is_power_of_two() {
            log::warn!("{message} (failure number {count} of its kind)");
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
