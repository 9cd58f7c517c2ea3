//! Names of devices, and their places on the guest's bus.

use super::{DeviceRequest, DeviceSpec};
use devices::host::Problem;
use devices::pci::{GuestBdf, HostSbdf};
use std::collections::BTreeMap;

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
    /// A running guest has the function already.
    #[error("the guest has {host} already, with the id '{id}'")]
    HostDeviceThere {
        /// The function.
        host: HostSbdf,
        /// What it is called.
        id: String,
    },
    /// A device of a running guest has the name.
    #[error("the id '{id}' is that of {host}, which the guest has")]
    IdThere {
        /// The name.
        id: String,
        /// The device.
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

impl PlacementError {
    /// The error in three lines.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let remedy = match self {
            Self::SameHostDevice(host) => format!("leave one --device host={host} out"),
            Self::SlotTaken { .. } => {
                "give another addr=, or none; functions of one slot are added together".to_owned()
            }
            Self::SlotLost { .. } => "give another addr=, or none".to_owned(),
            Self::HostDeviceThere { .. } => "see what the guest has: ferry info".to_owned(),
            Self::IdThere { .. } => "give another id=, or none".to_owned(),
            Self::SameId(_) => "give each device an id= of its own, or none".to_owned(),
            Self::SameGuestAddress { second, .. } => {
                format!("give {second} another addr=, or none: then it gets a free slot")
            }
            Self::HostBridgeSlot(host) => {
                format!(
                    "give {host} a slot from addr=0x1 to addr=0x1f, or none: then it gets a free one"
                )
            }
            Self::NoFunctionZero { slot, host, .. } => {
                format!("give a device addr={slot:#x}, or {host} another addr=")
            }
            Self::Full(_) => {
                "put up to eight devices into one slot, as its functions: addr=0x1.0, addr=0x1.1"
                    .to_owned()
            }
        };
        Problem::new(
            "these devices can't be in one guest",
            self.to_string(),
            remedy,
        )
    }
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
        present.is_new(host, &id)?;
        if placed.iter().any(|other| other.host == host) {
            return Err(PlacementError::SameHostDevice(host));
        }
        if placed.iter().any(|other| other.id == id) {
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
    fn is_new(&self, host: HostSbdf, id: &str) -> Result<(), PlacementError> {
        for other in self.devices {
            let id = id.to_owned();
            if other.host == host {
                let id = other.id.clone();
                return Err(PlacementError::HostDeviceThere { host, id });
            }
            if other.id == id {
                let host = other.host;
                return Err(PlacementError::IdThere { id, host });
            }
        }
        Ok(())
    }

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
mod tests {
    use super::*;
    use crate::spec::tests::request;

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
            PlacementError::HostDeviceThere { .. }
        ));
        let named = DeviceRequest {
            id: Some(there[0].id.clone()),
            ..request("03:00.0", None)
        };
        let error = place_beside(&present, &[named]);
        assert!(matches!(error, Err(PlacementError::IdThere { .. })));
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
}
