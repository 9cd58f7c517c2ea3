//! Waiting for facts, never for time.

use std::thread;
use std::time::{Duration, Instant};

/// What a guest may take from Ferry's start to its shell. An idle machine needs a tenth of it; the
/// rest is for emulation on a machine that does something else as well.
pub const BOOT: Duration = Duration::from_secs(120);

/// What anything else may take.
pub const MOMENT: Duration = Duration::from_secs(30);

/// Between two looks at a fact that nothing announces.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Waits until `look` finds something.
///
/// # Panics
/// After `limit`, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "{what}: not within {} s",
            limit.as_secs()
        );
        thread::sleep(BETWEEN_LOOKS);
    }
}
