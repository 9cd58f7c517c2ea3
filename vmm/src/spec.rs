//! What a user wants, proven valid: below here there is no text to parse and no second check.

use devices::host::HugePageSize;
use devices::pci::{GuestBdf, HostSbdf};
use devices::vfio::{PassedDescriptors, RomChoice};
use std::collections::BTreeMap;
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

/// Why the devices asked for can't be in one guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Two requests name one host function.
    #[error("{0} is given twice")]
    SameHostDevice(HostSbdf),
    /// A running guest has a device in that slot.
    #[error("slot {slot:#x} has {other} in it, and a slot is filled as a whole")]
    SlotTaken {
        /// The slot.
        slot: u8,
        /// The device that was to go there.
        host: HostSbdf,
        /// The one that is there.
        other: HostSbdf,
    },
    /// A running guest has not let go of what was in that slot.
    #[error("the guest has not let go of the device that was taken from slot {slot:#x}")]
    SlotLost {
        /// The slot.
        slot: u8,
        /// The device that was to go there.
        host: HostSbdf,
    },
    /// Two requests have one name.
    #[error("the id '{0}' is given twice")]
    SameId(String),
    /// Two requests want one place on the guest's bus.
    #[error("{first} and {second} both have the guest address {guest}")]
    SameGuestAddress {
        /// The earlier request.
        first: HostSbdf,
        /// The later request.
        second: HostSbdf,
        /// The place.
        guest: GuestBdf,
    },
    /// Slot 0 is the host bridge's.
    #[error("guest slot 0 is the host bridge's; {0} can't be there")]
    HostBridgeSlot(HostSbdf),
    /// A slot with functions lacks function 0, without which a guest does not look for others.
    #[error("guest slot {slot:#x} has function {function} ({host}) but no function 0")]
    NoFunctionZero {
        /// Slot number.
        slot: u8,
        /// A function in it.
        function: u8,
        /// The device there.
        host: HostSbdf,
    },
    /// All 31 slots are taken.
    #[error("no guest slot is left for {0}")]
    Full(HostSbdf),
}

/// Gives every request a name and a place.
///
/// # Errors
/// [`PlacementError`].
pub fn place(requests: &[DeviceRequest]) -> Result<Vec<DeviceSpec>, PlacementError> {
    place_beside(&Present::default(), requests)
}

/// What is on a guest's bus already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Present<'a> {
    /// The devices.
    pub devices: &'a [DeviceSpec],
    /// Slots whose devices are gone without the guest having let go of them, a bit each.
    pub lost: u32,
}

/// The same for a guest that runs: a slot is filled as a whole.
///
/// # Errors
/// [`PlacementError`].
pub fn place_beside(
    present: &Present<'_>,
    requests: &[DeviceRequest],
) -> Result<Vec<DeviceSpec>, PlacementError> {
    let mut taken = BTreeMap::new();
    for request in requests {
        let Some(guest) = request.guest else { continue };
        if guest.device() == 0 {
            return Err(PlacementError::HostBridgeSlot(request.host));
        }
        present.is_free(guest.device(), request.host)?;
        if let Some(first) = taken.insert(guest, request.host) {
            return Err(PlacementError::SameGuestAddress {
                first,
                second: request.host,
                guest,
            });
        }
    }
    let mut placed: Vec<DeviceSpec> = Vec::with_capacity(requests.len());
    for request in requests {
        let guest = match request.guest {
            Some(guest) => guest,
            None => first_free(present, &taken).ok_or(PlacementError::Full(request.host))?,
        };
        taken.insert(guest, request.host);
        let host = request.host;
        let id = request.id.clone().unwrap_or_else(|| host.to_string());
        let others = || placed.iter().chain(present.devices);
        if others().any(|other| other.host == host) {
            return Err(PlacementError::SameHostDevice(host));
        }
        if others().any(|other| other.id == id) {
            return Err(PlacementError::SameId(id));
        }
        let removal = request.removal.clone();
        placed.push(DeviceSpec {
            host,
            id,
            guest,
            rom: request.rom.clone(),
            removal,
        });
    }
    for (guest, host) in &taken {
        let zero = GuestBdf::new(guest.device(), 0);
        if !zero.is_some_and(|zero| taken.contains_key(&zero)) {
            return Err(PlacementError::NoFunctionZero {
                slot: guest.device(),
                function: guest.function(),
                host: *host,
            });
        }
    }
    Ok(placed)
}

impl Present<'_> {
    /// Whether `slot` can be filled, with `host` among others.
    fn is_free(&self, slot: u8, host: HostSbdf) -> Result<(), PlacementError> {
        let mut devices = self.devices.iter();
        if let Some(other) = devices.find(|other| other.guest.device() == slot) {
            let other = other.host;
            return Err(PlacementError::SlotTaken { slot, host, other });
        }
        match self.lost >> slot & 1 {
            0 => Ok(()),
            _ => Err(PlacementError::SlotLost { slot, host }),
        }
    }
}

/// The first slot without any function.
fn first_free(present: &Present<'_>, taken: &BTreeMap<GuestBdf, HostSbdf>) -> Option<GuestBdf> {
    let free = |slot: &u8| {
        let wanted = taken.keys().any(|guest| guest.device() == *slot);
        let lost = present.lost >> slot & 1 != 0;
        let filled = present
            .devices
            .iter()
            .any(|other| other.guest.device() == *slot);
        !wanted && !lost && !filled
    };
    (1..32).find(free).and_then(|slot| GuestBdf::new(slot, 0))
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
    fn a_device_without_address_goes_to_the_first_slot_nobody_asked_for() {
        let placed = place(&[
            request("01:00.0", None),
            request("02:00.0", Some((1, 0))),
            request("03:00.0", None),
        ])
        .unwrap();
        let slots: Vec<_> = placed.iter().map(|device| device.guest.device()).collect();
        assert_eq!(slots, [2, 1, 3]);
        assert_eq!(placed[0].id, "0000:01:00.0");
    }

    #[test]
    fn two_devices_with_one_address_are_refused() {
        let error = place(&[
            request("01:00.0", Some((6, 0))),
            request("02:00.0", Some((6, 0))),
        ]);
        assert!(matches!(
            error,
            Err(PlacementError::SameGuestAddress { .. })
        ));
        let error = place(&[request("01:00.0", None), request("0000:01:00.0", None)]);
        assert!(matches!(error, Err(PlacementError::SameHostDevice(_))));
    }

    #[test]
    fn a_device_joins_beside_what_is_there_and_what_was_lost() {
        let there = place(&[request("01:00.0", None), request("02:00.0", Some((3, 0)))]).unwrap();
        let present = Present {
            devices: &there,
            lost: 1 << 2,
        };
        let placed = place_beside(&present, &[request("03:00.0", None)]).unwrap();
        assert_eq!(placed[0].guest.device(), 4);
        let error = |host, guest| place_beside(&present, &[request(host, guest)]).unwrap_err();
        assert!(matches!(
            error("03:00.0", Some((3, 1))),
            PlacementError::SlotTaken { slot: 3, .. }
        ));
        assert!(matches!(
            error("03:00.0", Some((2, 0))),
            PlacementError::SlotLost { slot: 2, .. }
        ));
        assert!(matches!(
            error("01:00.0", None),
            PlacementError::SameHostDevice(_)
        ));
    }

    #[test]
    fn a_slot_without_function_zero_is_refused() {
        let error = place(&[request("01:00.0", Some((6, 1)))]);
        assert!(matches!(
            error,
            Err(PlacementError::NoFunctionZero { slot: 6, .. })
        ));
        assert!(
            place(&[
                request("01:00.0", Some((6, 1))),
                request("01:00.1", Some((6, 0)))
            ])
            .is_ok()
        );
    }

    #[test]
    fn the_bus_holds_31_slots() {
        let mut requests: Vec<_> = (1..32)
            .map(|n| request(&format!("{n:02x}:00.0"), None))
            .collect();
        assert_eq!(place(&requests).unwrap().len(), 31);
        requests.push(request("40:00.0", None));
        assert!(matches!(place(&requests), Err(PlacementError::Full(_))));
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
