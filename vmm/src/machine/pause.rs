//! A guest that stands still: no vCPU runs, and its clocks do not either. Assigned devices go on by themselves: what they write
//! by DMA is in guest RAM, and interrupts that they raise wait in KVM's local APICs.

use super::MachineError;
use super::builder::{Machine, chain};
use super::vcpu_loop::VcpuThread;
use crate::kvm::{KvmError, Vcpu};

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

    /// Notes the guest's time. Its vCPUs have stopped. `None` when it can't be read: then the guest's clocks go on.
    pub(super) fn pause(&self) -> Option<Paused> {
        self.time().unwrap_or_else(|error| {
            log::warn!("the guest's clocks go on: {}", chain(&error));
            None
        })
    }

    /// Lets the vCPUs go on, at the time at which they stopped.
    ///
    /// # Errors
    /// [`MachineError::Process`] when a thread can't be made.
    pub(super) fn resume(
        &mut self,
        paused: Option<Paused>,
    ) -> Result<Vec<VcpuThread>, MachineError> {
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
