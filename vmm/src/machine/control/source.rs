//! What wakes the control thread.

use devices::pci::GuestBdf;
use vmm_sys_util::epoll::EventSet;

/// What an event is about; the tag given to epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Mailbox,
    Input,
    Drained,
    StopSignal,
    TerminateSignal,
    StatsSignal,
    /// The guest has ejected slots.
    Ejected,
    /// The guest's time to eject a slot is over.
    Overdue,
    /// A device that is to be added is open, or can't be opened.
    Arrived,
    /// A device that has left the guest is back.
    Returned,
    /// A client of the API wants something.
    Api,
    /// Who reads events has read on.
    EventReader,
    /// A device's error interrupt.
    DeviceError(GuestBdf),
    /// The host wants a device back.
    DeviceRequest(GuestBdf),
}

/// Tags from here on are devices', two for each place on the guest's bus.
const FIRST_DEVICE_TAG: u32 = 16;

impl Source {
    /// Its tag.
    pub(super) fn tag(self) -> u32 {
        match self {
            Self::Mailbox => 0,
            Self::Input => 1,
            Self::Drained => 2,
            Self::StopSignal => 3,
            Self::StatsSignal => 4,
            Self::Ejected => 5,
            Self::Overdue => 6,
            Self::Api => 7,
            Self::TerminateSignal => 8,
            Self::Arrived => 9,
            Self::EventReader => 10,
            Self::Returned => 11,
            Self::DeviceError(guest) => FIRST_DEVICE_TAG + 2 * u32::from(guest.devfn()),
            Self::DeviceRequest(guest) => FIRST_DEVICE_TAG + 2 * u32::from(guest.devfn()) + 1,
        }
    }

    /// What of its descriptor wakes the control thread.
    pub(super) fn wakes_at(self) -> EventSet {
        match self {
            // Each time that there is room again, and not as long as there is.
            Self::EventReader => EventSet::OUT | EventSet::EDGE_TRIGGERED,
            _ => EventSet::IN,
        }
    }

    /// The source with this tag.
    pub(super) fn of(tag: u32) -> Option<Self> {
        let fixed = [
            Self::Mailbox,
            Self::Input,
            Self::Drained,
            Self::StopSignal,
            Self::StatsSignal,
            Self::Ejected,
            Self::Overdue,
            Self::Api,
            Self::TerminateSignal,
            Self::Arrived,
            Self::EventReader,
            Self::Returned,
        ];
        let Some(of_device) = tag.checked_sub(FIRST_DEVICE_TAG) else {
            return fixed.into_iter().find(|source| source.tag() == tag);
        };
        let devfn = u8::try_from(of_device / 2).ok()?;
        let guest = GuestBdf::new(devfn >> 3, devfn & 7)?;
        Some(match of_device % 2 {
            0 => Self::DeviceError(guest),
            _ => Self::DeviceRequest(guest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_of_one_source() {
        let mut found = 0;
        for tag in 0..FIRST_DEVICE_TAG + 512 {
            if let Some(source) = Source::of(tag) {
                assert_eq!(source.tag(), tag, "{source:?}");
                found += 1;
            }
        }
        assert!(found >= 12 + 2 * 255, "{found}");
    }
}
