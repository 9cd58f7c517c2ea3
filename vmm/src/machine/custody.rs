//! Devices between the drivers of the host and a machine.

use devices::host::Problem;
use devices::pci::HostSbdf;

/// Takes devices from their drivers for a machine, and gives them back one by one as they leave it.
///
/// All of it may wait for drivers, for seconds.
pub trait Custodian: Send + Sync {
    /// Binds `devices` to vfio-pci, all or none. One that is there already stays whose it is.
    ///
    /// # Errors
    /// Why they can't be bound. Nothing is changed then.
    fn take(&self, devices: &[HostSbdf]) -> Result<(), Vec<Problem>>;

    /// Gives `device` back to the driver that it had, if it was taken. It is closed. One whose IOMMU group the machine still has
    /// open, for another device in it, goes back with that.
    ///
    /// # Errors
    /// Why it does not have its driver again.
    fn give_back(&self, device: HostSbdf) -> Result<(), Vec<Problem>>;
}
