//! Devices that stand still while their guest does, as far as their drivers on the host can make them: by the states of VFIO's
//! migration protocol (`include/uapi/linux/vfio.h`, "Device migration"), of which nothing else is used. Variants of vfio-pci
//! for some devices have it. vfio-pci itself has not, and a device on it goes on with what it was told to do.

use super::function::VfioPciDevice;
use super::sys;
use std::io;
use std::os::fd::BorrowedFd;

/// What a device may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Nothing: no DMA, no interrupts, and no answer to other devices.
    Stopped,
    /// It begins nothing, and answers other devices.
    Passive,
    /// Everything.
    Running,
}

/// What of that the driver on the host can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MotionSupport {
    pub(super) passive: bool,
}

/// `VFIO_DEVICE_FEATURE_MIGRATION` and `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`.
const MIGRATION: u32 = 1;
const MIG_DEVICE_STATE: u32 = 2;
/// `VFIO_DEVICE_FEATURE_GET` and `VFIO_DEVICE_FEATURE_SET`.
const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
/// Flags of `struct vfio_device_feature_migration`.
const STOP_COPY: u64 = 1 << 0;
const P2P: u64 = 1 << 1;

/// What the driver of `device` can do; `None` if it can't stop it.
pub(super) fn support(device: BorrowedFd<'_>) -> Option<MotionSupport> {
    let flags = sys::feature(device, GET | MIGRATION, [0; 8]).ok()?;
    of_flags(u64::from_ne_bytes(flags))
}

fn of_flags(flags: u64) -> Option<MotionSupport> {
    (flags & STOP_COPY != 0).then_some(MotionSupport {
        passive: flags & P2P != 0,
    })
}

/// Has the driver of `device` do it.
pub(super) fn set(device: BorrowedFd<'_>, motion: Motion) -> io::Result<()> {
    sys::feature(device, SET | MIG_DEVICE_STATE, argument(motion)).map(|_| ())
}

/// `struct vfio_device_feature_mig_state`: the state, and a descriptor, of which these states have none.
fn argument(motion: Motion) -> [u8; 8] {
    let state: u32 = match motion {
        Motion::Stopped => 1,
        Motion::Running => 2,
        Motion::Passive => 5,
    };
    let [a, b, c, d] = state.to_ne_bytes();
    [a, b, c, d, 0xff, 0xff, 0xff, 0xff]
}

impl VfioPciDevice {
    /// Lets the device do no more, or no less, than `motion`. All devices that reach each other become passive before the first
    /// of them is stopped, and before the first goes on. `false`: it does not depend on Ferry.
    ///
    /// # Errors
    /// The errno of `VFIO_DEVICE_FEATURE`.
    pub fn set_motion(&self, motion: Motion) -> io::Result<bool> {
        match self.host.motion() {
            Some(MotionSupport { passive: false }) if motion == Motion::Passive => Ok(false),
            Some(_) => self.host.set_motion(motion).map(|()| true),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_can_stop_its_device_says_so() {
        assert_eq!(of_flags(0), None);
        assert_eq!(of_flags(P2P), None);
        assert_eq!(of_flags(STOP_COPY), Some(MotionSupport { passive: false }));
        assert_eq!(
            of_flags(STOP_COPY | P2P | 4),
            Some(MotionSupport { passive: true })
        );
    }

    #[test]
    fn states_are_those_of_the_kernel_without_a_descriptor() {
        let of = |motion| {
            let [a, b, c, d, fd @ ..] = argument(motion);
            (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes(fd))
        };
        assert_eq!(of(Motion::Stopped), (1, -1));
        assert_eq!(of(Motion::Running), (2, -1));
        assert_eq!(of(Motion::Passive), (5, -1));
    }
}
