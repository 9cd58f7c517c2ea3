//! Whether guest RAM may be pinned.

use super::limits::{Memlock, ProcessLimits};
use super::problem::Problem;

/// Pinned beside guest RAM: the firmware's and the boot data's mappings. BARs mapped for
/// peer-to-peer don't count (`is_invalid_reserved_pfn` of drivers/vfio/vfio_iommu_type1.c).
const BESIDE_RAM: u64 = 1 << 20;

/// RLIMIT_MEMLOCK is below what VFIO pins.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the locked-memory limit is too low for {} of guest RAM", Size(*.guest_ram))]
pub struct MemlockObstacle {
    /// Bytes of guest RAM.
    pub guest_ram: u64,
    /// Bytes to be pinned.
    pub needed: u64,
    /// The limit.
    pub limit: Memlock,
}

/// Bytes in the largest binary unit, one digit after the point where it isn't whole.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, name) = match self.0 {
            bytes if bytes >= 1 << 30 => (1 << 30, "GiB"),
            bytes if bytes >= 1 << 20 => (1 << 20, "MiB"),
            _ => (1 << 10, "KiB"),
        };
        let (whole, tenth) = (self.0 / unit, self.0 % unit * 10 / unit);
        match tenth {
            0 => write!(f, "{whole} {name}"),
            _ => write!(f, "{whole}.{tenth} {name}"),
        }
    }
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |bytes| Size(bytes).to_string())
}

/// Compares the limit with the RAM; the kernel holds it against all but CAP_IPC_LOCK.
pub(super) fn check(guest_ram: u64, limits: &dyn ProcessLimits) -> Option<MemlockObstacle> {
    let needed = guest_ram.saturating_add(BESIDE_RAM);
    let limit = limits.memlock();
    let enough = limit.soft.is_none_or(|soft| soft >= needed);
    (!enough && !limits.exempt_from_memlock()).then_some(MemlockObstacle {
        guest_ram,
        needed,
        limit,
    })
}

impl MemlockObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let Self { needed, limit, .. } = self;
        let kib = needed.div_ceil(1 << 10);
        let bytes = kib << 10;
        let why = format!(
            "a device's DMA can hit any page, so all are pinned: {kib} KiB; the limit is {} (hard \
             limit {})",
            limit_text(limit.soft),
            limit_text(limit.hard)
        );
        let remedy = if limit.hard.is_none_or(|hard| hard >= *needed) {
            format!("in a systemd unit LimitMEMLOCK={bytes}, in a shell: ulimit -S -l {kib}")
        } else {
            format!(
                "for good 'USER - memlock {kib}' in /etc/security/limits.d/ferry.conf or, in a \
                 systemd unit, LimitMEMLOCK={bytes}; for this shell: sudo prlimit --pid $$ \
                 --memlock={bytes}:{bytes}"
            )
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Memlock;
    use crate::host::saved::{FakeLimits, GIB, NIC, SavedHost};

    fn limits(soft: u64, hard: Option<u64>) -> FakeLimits {
        FakeLimits {
            memlock: Memlock {
                soft: Some(soft),
                hard,
            },
            ..FakeLimits::generous()
        }
    }

    #[test]
    fn low_soft_limit_is_raised_by_ulimit() {
        assert_eq!(
            SavedHost::intel().problem(&[NIC.0], &limits(8 << 20, None)),
            "the locked-memory limit is too low for 8 GiB of guest RAM\n  \
             why: a device's DMA can hit any page, so all are pinned: 8389632 KiB; the limit is 8 MiB \
             (hard limit unlimited)\n  \
             fix: in a systemd unit LimitMEMLOCK=8590983168, in a shell: ulimit -S -l 8389632"
        );
    }

    #[test]
    fn low_hard_limit_needs_privilege() {
        let limits = limits(64 << 10, Some(GIB + GIB / 2));
        let text = SavedHost::intel().problem(&[NIC.0], &limits);
        assert!(text.contains("the limit is 64 KiB (hard limit 1.5 GiB)"));
        assert!(
            text.ends_with("for this shell: sudo prlimit --pid $$ --memlock=8590983168:8590983168"),
            "{text}"
        );
        assert!(text.contains("'USER - memlock 8389632' in /etc/security/limits.d"));
    }

    #[test]
    fn limit_is_not_held_against_cap_ipc_lock_nor_a_run_without_devices() {
        let host = SavedHost::intel();
        let mut limits = limits(0, Some(0));
        assert_eq!(host.problems(&[], &limits), []);
        limits.exempt = true;
        assert_eq!(host.problems(&[NIC.0], &limits), []);
    }

    #[test]
    fn exact_limit_is_enough() {
        let limits = limits(8 * GIB + (1 << 20), None);
        assert_eq!(SavedHost::intel().problems(&[NIC.0], &limits), []);
    }
}
