//! Whether the host has the memory that a guest asks for, before any of it is taken.

use super::MachineError;
use crate::spec::MachineSpec;
use std::fs;

/// Refuses a guest that can't ever have its RAM. With a device all of it is pinned at start, so it
/// must be free now; without one it only has to exist.
///
/// # Errors
/// [`MachineError::HostMemory`].
pub(super) fn check(spec: &MachineSpec) -> Result<(), MachineError> {
    // Huge pages are counted apart, before this.
    if spec.huge_pages.is_some() {
        return Ok(());
    }
    // Without /proc the kernel itself has to say no, later.
    let Ok(meminfo) = fs::read_to_string("/proc/meminfo") else {
        return Ok(());
    };
    check_against(&meminfo, spec.memory.bytes(), !spec.devices.is_empty())
}

fn check_against(meminfo: &str, asked: u64, pinned: bool) -> Result<(), MachineError> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    };
    let name = if pinned { "MemAvailable:" } else { "MemTotal:" };
    match bytes(name) {
        Some(present) if present < asked => Err(MachineError::HostMemory {
            asked,
            present,
            pinned,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_ram_must_be_available_and_other_ram_only_exist() {
        let meminfo = "MemTotal:  2097152 kB\nMemFree: 1 kB\nMemAvailable:  1048576 kB\n";
        assert!(check_against(meminfo, 1 << 30, true).is_ok());
        assert!(check_against(meminfo, (1 << 30) + 1, true).is_err());
        assert!(check_against(meminfo, 2 << 30, false).is_ok());
        assert!(check_against(meminfo, (2 << 30) + 1, false).is_err());
        assert!(check_against("", u64::MAX, true).is_ok());
    }
}
