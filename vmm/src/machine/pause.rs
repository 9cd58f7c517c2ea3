//! A guest that stands still: no vCPU runs, and its clocks do not either. Assigned devices that the host can stop are stopped.
//! Others go on by themselves: what they write by DMA is in guest RAM, and interrupts that they raise wait in KVM's local APICs.

use super::MachineError;
use super::builder::{Machine, chain};
use super::vcpu_loop::VcpuThread;
use crate::kvm::{KvmError, Vcpu};
use devices::vfio::Motion;

/// When the guest was paused, by its own clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paused {
    /// KVM's paravirtual clock, in nanoseconds.
    clock: u64,
    /// The first vCPU's time stamp counter.
    tsc: u64,
}

impl Machine {
    fn time(&self) -> Result<Option<Paused>, KvmError> {
        let Some(first) = self.vcpus.first() else {
            return Ok(None);
        };
        Ok(Some(Paused {
            clock: self.vm.clock()?,
            tsc: first.tsc()?,
        }))
    }

    /// Stops the devices as far as the host can, and notes the guest's time. Its vCPUs have stopped. `None` when the time can't be
    /// read: then the guest's clocks go on.
    pub(super) fn pause(&self) -> Option<Paused> {
        self.move_devices([Motion::Passive, Motion::Stopped]);
        self.time().unwrap_or_else(|error| {
            log::warn!("the guest's clocks go on: {}", chain(&error));
            None
        })
    }

    /// Lets devices that were stopped go on.
    pub(super) fn start_devices(&self) {
        self.move_devices([Motion::Passive, Motion::Running]);
    }

    /// Each step is done by all of them before the next: they reach each other.
    fn move_devices(&self, steps: [Motion; 2]) {
        for motion in steps {
            for assigned in self.assigned.iter().flat_map(|all| &all.devices) {
                let host = assigned.spec.host;
                match assigned.device.set_motion(motion) {
                    Ok(true) => log::debug!("{host}: {motion:?}"),
                    Ok(false) => {}
                    Err(error) => log::warn!("{host} can't be made {motion:?}: {error}"),
                }
            }
        }
    }

    /// Lets the devices and the vCPUs go on, at the time at which these stopped.
    ///
    /// # Errors
    /// [`MachineError::Process`] when a thread can't be made.
    pub(super) fn resume(
        &mut self,
        paused: Option<Paused>,
    ) -> Result<Vec<VcpuThread>, MachineError> {
        self.start_devices();
        if let Some(Err(error)) = paused.map(|paused| self.set_time(paused)) {
            log::warn!("a clock of the guest's has gone on: {}", chain(&error));
        }
        for vcpu in &self.vcpus {
            if let Err(error) = vcpu.tell_paused() {
                log::warn!("vCPU {}: {}", vcpu.index(), chain(&error));
            }
        }
        self.context.mailbox.resume();
        self.enter()
    }

    fn set_time(&self, paused: Paused) -> Result<(), KvmError> {
        let passed = self.vcpus.first().map(Vcpu::tsc).transpose()?;
        // By the same number of ticks for all, so that they stay as they were to each other.
        let back = passed.map_or(0, |now| paused.tsc.wrapping_sub(now));
        let moved = self.vcpus.iter().try_for_each(|vcpu| vcpu.move_tsc(back));
        self.vm.set_clock(paused.clock)?;
        moved
    }
}
