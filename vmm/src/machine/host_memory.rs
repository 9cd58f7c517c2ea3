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

/// Refuses to pin `ram` bytes of guest RAM when what is not there yet is more than the host has left.
///
/// # Errors
/// [`MachineError::HostMemory`].
pub(super) fn check_pinnable(ram: u64) -> Result<(), MachineError> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    check_rest(&read("/proc/meminfo"), &read("/proc/self/status"), ram)
}

/// Guest RAM is the only shared memory of this process.
fn check_rest(meminfo: &str, status: &str, ram: u64) -> Result<(), MachineError> {
    let there = bytes(status, "RssShmem:").unwrap_or_default();
    check_against(meminfo, ram.saturating_sub(there), true)
}

/// The figure of `name` in a file of procfs that has one in each line.
fn bytes(file: &str, name: &str) -> Option<u64> {
    let line = file.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn check_against(meminfo: &str, asked: u64, pinned: bool) -> Result<(), MachineError> {
    let name = if pinned { "MemAvailable:" } else { "MemTotal:" };
    match bytes(meminfo, name) {
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

    #[test]
    fn what_is_there_of_guest_ram_needs_no_more_memory() {
        let meminfo = "MemTotal:  2097152 kB\nMemAvailable:  1048576 kB\n";
        let status = "VmHWM: 1 kB\nRssShmem:\t  524288 kB\n";
        assert!(check_rest(meminfo, status, 3 << 29).is_ok());
        assert!(check_rest(meminfo, status, (3 << 29) + 1).is_err());
        assert!(check_rest(meminfo, "", 3 << 29).is_err());
    }
}
