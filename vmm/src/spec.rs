//! What a user wants, proven valid: below here there is no text to parse and no second check.

mod placement;

pub use placement::{PlacementError, Present, place, place_beside};

use devices::host::HugePageSize;
use devices::pci::{GuestBdf, HostSbdf};
use devices::vfio::{PassedDescriptors, RomChoice};
use std::path::PathBuf;
use std::time::Duration;

/// A machine that can be built, as far as can be told without the host.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The guest's kernel: bzImage or ELF vmlinux.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub cpus: CpuCount,
    /// Size of guest RAM.
    pub memory: MemorySize,
    /// The pages that it is made of, if not of the smallest; its size is a multiple of theirs.
    pub huge_pages: Option<HugePageSize>,
    /// The devices to assign, each at its own place on the guest's bus.
    pub devices: Vec<DeviceSpec>,
    /// What of VFIO was opened for this process.
    pub passed: PassedDescriptors,
    /// Whether they reach each other's BARs.
    pub peer_to_peer: bool,
    /// Where the guest's serial console goes.
    pub serial: SerialSpec,
    /// Where figures are written at exit and on SIGUSR1.
    pub stats: Option<StatsSpec>,
    /// A reset of the guest ends Ferry instead of booting it again.
    pub no_reboot: bool,
    /// What follows when the guest tells that it has panicked.
    pub on_panic: PanicPolicy,
    /// How long the guest may take to power itself off on SIGTERM.
    pub stop_timeout: Duration,
}

/// What follows when a guest panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicPolicy {
    /// The guest ends.
    #[default]
    Stop,
    /// It is booted again.
    Reboot,
    /// It is reported, and the guest's kernel does what it was told to.
    Report,
}

/// Number of vCPUs, 1 to 254: an xAPIC id is one byte and 255 is the broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCount(u8);

impl CpuCount {
    /// The most vCPUs that a guest may have.
    pub const MAX: u8 = 254;

    /// `None` for 0 and above 254.
    #[must_use]
    pub fn new(count: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// Size of guest RAM in bytes: at least 128 MiB, a multiple of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(u64);

impl MemorySize {
    /// A stock kernel with its initramfs does not boot in less.
    pub const MIN: u64 = 128 << 20;
    /// The size of a huge page, so that no page is half RAM.
    pub const UNIT: u64 = 2 << 20;
    /// The most that 52 address bits leave room for beside the PCI windows.
    pub const MAX: u64 = 1 << 51;

    /// `None` when `bytes` is too small, too large or no multiple of the unit.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let fits = (Self::MIN..=Self::MAX).contains(&bytes);
        (fits && bytes.is_multiple_of(Self::UNIT)).then_some(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// A host function and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Address on the host.
    pub host: HostSbdf,
    /// Name in messages and figures.
    pub id: String,
    /// Address on the guest's bus.
    pub guest: GuestBdf,
    /// Its expansion ROM.
    pub rom: RomChoice,
    /// When Ferry takes it away.
    pub removal: RemovalSpec,
}

/// What Ferry does when a device fails or the host wants it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalSpec {
    /// What follows an uncorrectable error.
    pub on_error: ErrorPolicy,
    /// How long the guest has to eject a device that the host wants back.
    pub request_timeout: Duration,
}

impl Default for RemovalSpec {
    fn default() -> Self {
        Self {
            on_error: ErrorPolicy::Stop,
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// What follows when a device reports an uncorrectable error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// The guest is stopped: what the device last did to its memory is not known.
    Stop,
    /// The guest loses the device and goes on.
    Unplug,
    /// It is reported, and the guest goes on with the device.
    Report,
}

/// A device as a user asks for it; what is absent is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Address on the host.
    pub host: HostSbdf,
    /// Name; the host address if absent.
    pub id: Option<String>,
    /// Address on the guest's bus; the first free slot if absent.
    pub guest: Option<GuestBdf>,
    /// Its expansion ROM.
    pub rom: RomChoice,
    /// When Ferry takes it away.
    pub removal: RemovalSpec,
}

/// Where the guest's serial console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialSpec {
    /// Standard input and output.
    Terminal,
    /// The guest has no serial port.
    Absent,
    /// Output is written to a file; there is no input.
    File(PathBuf),
}

/// Where figures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatsSpec {
    /// Standard output.
    Stdout,
    /// A file, replaced each time.
    File(PathBuf),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request(host: &str, guest: Option<(u8, u8)>) -> DeviceRequest {
        DeviceRequest {
            host: host.parse().unwrap(),
            id: None,
            guest: guest.map(|(slot, function)| GuestBdf::new(slot, function).unwrap()),
            rom: RomChoice::default(),
            removal: RemovalSpec::default(),
        }
    }

    #[test]
    fn sizes_and_counts_out_of_range_are_no_values() {
        assert!(CpuCount::new(0).is_none() && CpuCount::new(255).is_none());
        assert!(CpuCount::new(254).is_some());
        assert!(MemorySize::new((128 << 20) - (2 << 20)).is_none());
        assert!(MemorySize::new((128 << 20) + 4096).is_none());
        assert!(MemorySize::new(5 << 30).is_some());
    }
}
