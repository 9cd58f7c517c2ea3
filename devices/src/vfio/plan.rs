//! What a guest gets of a device: decided once, from plain data.

use super::probe::VfioProbe;
use crate::pci::{GuestBdf, HostSbdf};

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughSpec {
    /// The user's name for the device, or its host address.
    pub name: String,
    /// The device on the host.
    pub sbdf: HostSbdf,
    /// Its place on the guest's bus 0.
    pub guest: GuestBdf,
    /// The guest's slot holds further functions.
    pub multifunction: bool,
    /// The GSI that the slot's INTx pin is wired to; `None` leaves INTx out.
    pub intx_gsi: Option<u32>,
    /// The host's page size in bytes.
    pub page_size: u64,
}

/// Why a device can't be passed through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The probe is another device's.
    #[error("the probe is of {probed}, not of {wanted}")]
    OtherDevice {
        /// The probe's.
        probed: HostSbdf,
        /// The spec's.
        wanted: HostSbdf,
    },
}

/// What a guest gets of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughPlan {
    pub(super) name: String,
    pub(super) sbdf: HostSbdf,
}

impl PassthroughPlan {
    /// Decides what the guest gets of the device that `probe` describes.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(probe: &VfioProbe, spec: &PassthroughSpec) -> Result<Self, PlanError> {
        if probe.sbdf != spec.sbdf {
            return Err(PlanError::OtherDevice {
                probed: probe.sbdf,
                wanted: spec.sbdf,
            });
        }
        Ok(Self {
            name: spec.name.clone(),
            sbdf: spec.sbdf,
        })
    }

    /// The plan in words, a line each.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        vec![format!("{} is {}", self.name, self.sbdf)]
    }
}
