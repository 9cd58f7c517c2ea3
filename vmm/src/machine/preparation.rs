//! Making guest RAM reachable for devices while the guest boots.
//!
//! Faulting in and pinning all of a guest's RAM takes seconds, and no device needs it before its driver lets it master the
//! bus. So it is done on a thread of its own, and the guest's write that turns bus mastering on waits for it.

use super::mailbox::{Mailbox, StopCause};
use super::{MachineError, process};
use crate::memory::{GuestRam, MapError, MemoryMap, Populating, populate};
use crate::stats::micros;
use devices::host::HugePageSize;
use devices::memory::{MemoryListener, MemoryRegion};
use devices::vfio::VfioContext;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Whether devices may begin to reach for guest RAM.
#[derive(Default)]
pub(super) struct DmaReadiness {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// All RAM is mapped for DMA.
    ready: bool,
    /// It never will be.
    failed: bool,
    /// Nobody may wait: the vCPUs are to stop.
    held: bool,
    /// How long vCPUs waited.
    waited: Duration,
}

impl DmaReadiness {
    /// For a machine without devices.
    #[must_use]
    pub(super) fn ready() -> Self {
        let readiness = Self::default();
        readiness.lock().ready = true;
        readiness
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until DMA may begin. `false`: it must not, because the guest is being stopped.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.lock();
        if !state.ready {
            let started = Instant::now();
            state = self
                .changed
                .wait_while(state, |state| !state.ready && !state.failed && !state.held)
                .unwrap_or_else(PoisonError::into_inner);
            state.waited += started.elapsed();
        }
        state.ready
    }

    /// Whether DMA may begin now.
    #[must_use]
    pub(super) fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Sends waiting vCPUs away, and those that come: what they were about to do is not done.
    pub(super) fn hold(&self) {
        self.change(|state| state.held = true);
    }

    /// Lets vCPUs wait again.
    pub(super) fn release(&self) {
        self.change(|state| state.held = false);
    }

    /// How long vCPUs have waited, together.
    #[must_use]
    pub(super) fn waited(&self) -> Duration {
        self.lock().waited
    }
}

/// When each part was done.
#[derive(Default)]
struct Progress {
    populated: OnceLock<Duration>,
    mapped: OnceLock<Duration>,
    ended: OnceLock<Instant>,
}

/// The thread that prepares guest RAM for DMA. Dropping it waits for its end.
pub(super) struct Preparation {
    readiness: Arc<DmaReadiness>,
    progress: Arc<Progress>,
    populating: Arc<Populating>,
    context: Option<Sender<Arc<VfioContext>>>,
    thread: Option<JoinHandle<()>>,
}

impl Preparation {
    /// Starts to fault `ram` in; it is mapped once [`Preparation::map_into`] says where.
    ///
    /// # Errors
    /// [`MachineError::Process`].
    pub(super) fn start(
        ram: &GuestRam,
        memory: &Arc<MemoryMap>,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Self, MachineError> {
        let (sender, context) = mpsc::channel();
        let readiness = Arc::new(DmaReadiness::default());
        let progress = Arc::new(Progress::default());
        let populating = Arc::new(Populating::default());
        let work = Work {
            regions: ram.regions().to_vec(),
            huge_pages: ram.huge_pages(),
            memory: Arc::clone(memory),
            readiness: Arc::clone(&readiness),
            progress: Arc::clone(&progress),
            populating: Arc::clone(&populating),
        };
        let mailbox = Arc::clone(mailbox);
        let thread = thread::Builder::new()
            .name("dma-map".to_owned())
            .spawn(move || work.run(&context, &mailbox))
            .map_err(process("starting the thread that maps guest RAM for DMA"))?;
        Ok(Self {
            readiness,
            progress,
            populating,
            context: Some(sender),
            thread: Some(thread),
        })
    }

    /// Has everything mapped into `context`.
    pub(super) fn map_into(&mut self, context: Arc<VfioContext>) {
        if let Some(sender) = self.context.take() {
            // The thread is gone only after a failure, which it has told.
            let _ = sender.send(context);
        }
    }

    /// What bus mastering waits for.
    #[must_use]
    pub(super) fn readiness(&self) -> &Arc<DmaReadiness> {
        &self.readiness
    }

    /// Microseconds that faulting in took; 0 until it is done.
    #[must_use]
    pub(super) fn populate_time(&self) -> u64 {
        self.progress.populated.get().copied().map_or(0, micros)
    }

    /// Microseconds that mapping took; 0 until it is done.
    #[must_use]
    pub(super) fn map_time(&self) -> u64 {
        self.progress.mapped.get().copied().map_or(0, micros)
    }

    /// When DMA became possible.
    #[must_use]
    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.progress.ended.get().copied()
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.populating.cancel();
        self.context = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed; nothing else is left to do here.
            let _ = thread.join();
        }
    }
}

struct Work {
    regions: Vec<MemoryRegion>,
    huge_pages: Option<HugePageSize>,
    memory: Arc<MemoryMap>,
    readiness: Arc<DmaReadiness>,
    progress: Arc<Progress>,
    populating: Arc<Populating>,
}

impl Work {
    fn run(&self, context: &Receiver<Arc<VfioContext>>, mailbox: &Mailbox) {
        let _told = FailureNotice(&self.readiness);
        if let Err(error) = self.prepare(context) {
            mailbox.post(StopCause::Memory(error.problem()));
        }
    }

    fn prepare(&self, context: &Receiver<Arc<VfioContext>>) -> Result<(), MachineError> {
        let started = Instant::now();
        populate(&self.regions, self.huge_pages, &self.populating)?;
        let _ = self.progress.populated.set(started.elapsed());
        // Without a context the machine was not built after all.
        let Ok(context) = context.recv() else {
            return Ok(());
        };
        // Nobody waits for it any more, and the kernel can't be told to stop once it pins.
        if self.populating.is_cancelled() {
            return Ok(());
        }
        let started = Instant::now();
        self.map(context).map_err(MachineError::DmaMap)?;
        let _ = self.progress.mapped.set(started.elapsed());
        let _ = self.progress.ended.set(Instant::now());
        self.readiness.change(|state| state.ready = true);
        Ok(())
    }

    fn map(&self, context: Arc<VfioContext>) -> Result<(), MapError> {
        self.memory.add_listener(context as Arc<dyn MemoryListener>)
    }
}

/// However the thread ends, nobody waits for it any longer.
struct FailureNotice<'a>(&'a DmaReadiness);

impl Drop for FailureNotice<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.failed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::platform::MemoryRange;
    use arch::x86_64::layout::RamPlacement;

    #[test]
    fn a_waiting_vcpu_goes_on_when_ram_is_mapped_and_when_it_is_held() {
        let readiness = Arc::new(DmaReadiness::default());
        let waiting = |readiness: &Arc<DmaReadiness>| {
            let readiness = Arc::clone(readiness);
            thread::spawn(move || readiness.wait())
        };
        let vcpu = waiting(&readiness);
        readiness.hold();
        assert!(!vcpu.join().unwrap());
        readiness.release();
        let vcpu = waiting(&readiness);
        readiness.change(|state| state.ready = true);
        assert!(vcpu.join().unwrap());
        readiness.hold();
        assert!(readiness.wait(), "what is mapped stays mapped");
    }

    #[test]
    fn a_machine_without_devices_waits_for_nothing() {
        let readiness = DmaReadiness::ready();
        assert!(readiness.wait());
        assert_eq!(readiness.waited(), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_is_not_built_ends_the_thread() {
        let range = MemoryRange {
            start: 0,
            len: 4 << 20,
        };
        let placement = RamPlacement {
            ranges: vec![range],
            cpu_only: None,
        };
        let ram = GuestRam::new(&placement, None).unwrap();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let memory = Arc::new(MemoryMap::new());
        let preparation = Preparation::start(&ram, &memory, &mailbox).unwrap();
        let readiness = Arc::clone(preparation.readiness());
        drop(preparation);
        assert!(!readiness.wait());
        assert_eq!(mailbox.take(), None);
    }
}
