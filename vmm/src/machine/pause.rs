//! A guest that stands still: no vCPU runs, and its clock does not either. Assigned devices go on by themselves: what they write
//! by DMA is in guest RAM, and interrupts that they raise wait in KVM's local APICs.

use super::MachineError;
use super::builder::Machine;
use super::vcpu_loop::VcpuThread;

/// When the guest was paused, by its own clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paused {
    /// In nanoseconds; `None` if it could not be read.
    clock: Option<u64>,
}

impl Machine {
    /// Notes the guest's time. Its vCPUs have stopped.
    pub(super) fn pause(&self) -> Paused {
        let clock = self.vm.clock();
        let clock = clock.inspect_err(|error| log::warn!("the guest's clock goes on: {error}"));
        Paused { clock: clock.ok() }
    }

    /// Lets the vCPUs go on, at the time at which they stopped.
    ///
    /// # Errors
    /// [`MachineError::Process`] when a thread can't be made.
    pub(super) fn resume(&mut self, paused: Paused) -> Result<Vec<VcpuThread>, MachineError> {
        if let Some(Err(error)) = paused.clock.map(|clock| self.vm.set_clock(clock)) {
            log::warn!("the guest's clock has gone on: {error}");
        }
        for vcpu in &self.vcpus {
            if let Err(error) = vcpu.tell_paused() {
                log::warn!("vCPU {}: {error}", vcpu.index());
            }
        }
        self.context.mailbox.resume();
        self.enter()
    }
}
