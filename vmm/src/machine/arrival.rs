//! Devices on their way into a running machine.
//!
//! Opening a device waits for its reset, and the first one of a guest has all RAM pinned. That is done on a thread of its own,
//! one arrival at a time; the control thread goes on, and the guest sees nothing until all of it has been done.

use super::assigned::{Probed, check_reachable, probe};
use super::{MachineError, process};
use crate::kvm::Vm;
use crate::memory::{MemoryMap, populate};
use crate::spec::DeviceSpec;
use devices::host::{
    CurrentProcess, HostRoot, HugePageSize, Obstacle, Problem, RunRequirements, obstacles,
};
use devices::memory::{MemoryListener, MemoryRegion};
use devices::pci::HostSbdf;
use devices::vfio::{PassedDescriptors, VfioContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use vmm_sys_util::eventfd::EventFd;

/// What a machine gives the thread.
pub(super) struct Preparer {
    /// Those that are to come.
    pub(super) specs: Vec<DeviceSpec>,
    /// Those that are there already.
    pub(super) present: Vec<HostSbdf>,
    /// The IOMMU context, if there was a device before.
    pub(super) context: Option<Arc<VfioContext>>,
    pub(super) vm: Arc<Vm>,
    pub(super) peer_to_peer: bool,
    pub(super) passed: PassedDescriptors,
    pub(super) memory: Arc<MemoryMap>,
    /// Guest RAM.
    pub(super) regions: Vec<MemoryRegion>,
    pub(super) huge_pages: Option<HugePageSize>,
}

/// Devices that are open, with guest RAM mapped for them.
pub(super) struct Prepared {
    pub(super) context: Arc<VfioContext>,
    /// In the order of the specs.
    pub(super) probed: Vec<Probed>,
}

/// Why nothing came of it; the machine keeps a context that was made.
pub(super) struct Unprepared {
    pub(super) context: Option<Arc<VfioContext>>,
    pub(super) problems: Vec<Problem>,
}

/// The thread. Dropping it waits for its end.
pub(super) struct Arrival {
    pub(super) specs: Vec<DeviceSpec>,
    result: Receiver<Result<Prepared, Unprepared>>,
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Arrival {
    /// Starts; `arrived` is written to when there is a result.
    ///
    /// # Errors
    /// [`MachineError::Process`].
    pub(super) fn start(preparer: Preparer, arrived: EventFd) -> Result<Self, MachineError> {
        let (sender, result) = mpsc::channel();
        let specs = preparer.specs.clone();
        let cancelled = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&cancelled);
        let work = move || {
            let _ = sender.send(preparer.prepare(&stop));
            if let Err(error) = arrived.write(1) {
                log::error!("the control thread can't be told of an arrival: {error}");
            }
        };
        let thread = thread::Builder::new()
            .name("arrival".to_owned())
            .spawn(work)
            .map_err(process("starting the thread that opens a device"))?;
        Ok(Self {
            specs,
            result,
            cancelled,
            thread: Some(thread),
        })
    }

    /// What came of it; `None` when the thread has not ended as it should.
    pub(super) fn result(&self) -> Option<Result<Prepared, Unprepared>> {
        self.result.recv().ok()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed.
            let _ = thread.join();
        }
    }
}

impl Preparer {
    fn prepare(mut self, cancelled: &AtomicBool) -> Result<Prepared, Unprepared> {
        let found = self.obstacles();
        if !found.is_empty() {
            return Err(Unprepared {
                context: self.context,
                problems: found.iter().map(Obstacle::problem).collect(),
            });
        }
        match self.open(cancelled) {
            Ok(prepared) => Ok(prepared),
            Err(error) => Err(Unprepared {
                context: self.context.take(),
                problems: vec![error.problem()],
            }),
        }
    }

    /// What is known without opening anything.
    fn obstacles(&self) -> Vec<Obstacle> {
        let coming = self.specs.iter().map(|spec| spec.host);
        let devices: Vec<_> = coming.chain(self.present.iter().copied()).collect();
        let passed: Vec<_> = self
            .passed
            .groups
            .iter()
            .map(|group| group.number)
            .collect();
        let requirements = RunRequirements {
            devices: &devices,
            guest_ram: self.regions.iter().map(|r| r.host.len() as u64).sum(),
            // The pages are there.
            huge_pages: None,
            passed_groups: &passed,
            passed_container: self.passed.container.is_some() || self.context.is_some(),
        };
        obstacles(&HostRoot::system(), &requirements, &CurrentProcess)
    }

    fn open(&mut self, cancelled: &AtomicBool) -> Result<Prepared, MachineError> {
        let first = self.context.is_none();
        let context = match &self.context {
            Some(context) => Arc::clone(context),
            None => {
                let observer = self.vm.vfio_device()?;
                let passed = self.passed.clone();
                let context = VfioContext::new(Some(observer), self.peer_to_peer, passed)?;
                Arc::new(context)
            }
        };
        if first {
            let started = Instant::now();
            log::info!("guest RAM is faulted in for the first device");
            populate(&self.regions, self.huge_pages, cancelled)?;
            log::info!(
                "guest RAM is there after {} ms",
                started.elapsed().as_millis()
            );
        }
        let probed = self
            .specs
            .iter()
            .map(|spec| probe(spec, &context))
            .collect::<Result<Vec<_>, _>>()?;
        check_reachable(&context, &self.regions)?;
        if first {
            let started = Instant::now();
            let listener = Arc::clone(&context) as Arc<dyn MemoryListener>;
            self.memory
                .add_listener(listener)
                .map_err(MachineError::DmaMap)?;
            log::info!(
                "guest RAM is mapped for DMA after {} ms",
                started.elapsed().as_millis()
            );
            self.context = Some(Arc::clone(&context));
        }
        Ok(Prepared { context, probed })
    }
}
