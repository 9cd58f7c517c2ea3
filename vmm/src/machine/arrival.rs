//! Devices on their way into a running machine.
//!
//! Opening a device waits for its reset, and the first one of a guest has all RAM pinned. That is done on a thread of its own,
//! one arrival at a time; the control thread goes on, and the guest sees nothing until all of it has been done.

use super::assigned::{Assigned, AssignedDevices, Probed, check_reachable, device_regions, probe};
use super::builder::Machine;
use super::custody::Custodian;
use super::{MachineError, bars, host_memory, process};
use crate::api::{Refusal, RefusalKind};
use crate::kvm::Vm;
use crate::memory::{MemoryMap, Populating, populate};
use crate::spec::DeviceSpec;
use devices::host::{
    BindingObstacle, CurrentProcess, HostError, HostRoot, HugePageSize, Obstacle, Problem,
    RunRequirements, obstacles,
};
use devices::memory::{MemoryListener, MemoryRegion};
use devices::pci::HostSbdf;
use devices::vfio::{PassedDescriptors, VfioContext};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use vmm_sys_util::eventfd::EventFd;

/// What a machine gives the thread.
pub(super) struct Preparer {
    /// Those that are to come.
    specs: Vec<DeviceSpec>,
    /// Which of them are to be taken from their drivers, and by whom.
    managed: Vec<HostSbdf>,
    custodian: Arc<dyn Custodian>,
    /// The IOMMU context, if there was a device before.
    context: Option<Arc<VfioContext>>,
    vm: Arc<Vm>,
    peer_to_peer: bool,
    passed: PassedDescriptors,
    memory: Arc<MemoryMap>,
    /// Guest RAM.
    regions: Vec<MemoryRegion>,
    huge_pages: Option<HugePageSize>,
}

/// Devices that are open, with guest RAM mapped for them.
pub(super) struct Prepared {
    context: Arc<VfioContext>,
    /// In the order of the specs.
    probed: Vec<Probed>,
}

/// The thread. Dropping it waits for its end.
pub(super) struct Arrival {
    pub(super) specs: Vec<DeviceSpec>,
    pub(super) managed: Vec<HostSbdf>,
    result: Receiver<Result<Prepared, Refusal>>,
    populating: Arc<Populating>,
    thread: Option<JoinHandle<()>>,
}

impl Arrival {
    /// Starts; `arrived` is written to when there is a result.
    ///
    /// # Errors
    /// [`MachineError::Process`].
    pub(super) fn start(preparer: Preparer, arrived: EventFd) -> Result<Self, MachineError> {
        let (sender, result) = mpsc::channel();
        let (specs, managed) = (preparer.specs.clone(), preparer.managed.clone());
        let populating = Arc::new(Populating::default());
        let progress = Arc::clone(&populating);
        let work = move || {
            // Told however this ends.
            let _notice = Notice(arrived);
            let _ = sender.send(preparer.prepare(&progress));
        };
        let thread = thread::Builder::new()
            .name("arrival".to_owned())
            .spawn(work)
            .map_err(process("starting the thread that opens a device"))?;
        Ok(Self {
            specs,
            managed,
            result,
            populating,
            thread: Some(thread),
        })
    }

    /// What came of it.
    pub(super) fn result(&self) -> Result<Prepared, Refusal> {
        self.result.recv().unwrap_or_else(|_| {
            let problem = Problem::new(
                "the device can't be added",
                "the thread that opens it has ended early",
                "report this with what ferry run wrote",
            );
            Err(Refusal::new(RefusalKind::Failed, problem))
        })
    }

    /// Bytes of guest RAM that have been faulted in for the first device.
    #[must_use]
    pub(super) fn populated(&self) -> u64 {
        self.populating.done()
    }
}

/// Wakes the control thread when it is dropped.
struct Notice(EventFd);

impl Drop for Notice {
    fn drop(&mut self) {
        if let Err(error) = self.0.write(1) {
            log::error!("the control thread can't be told of an arrival: {error}");
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.populating.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed.
            let _ = thread.join();
        }
    }
}

impl Preparer {
    fn prepare(self, progress: &Populating) -> Result<Prepared, Refusal> {
        // What can be known is told before a device leaves its driver.
        self.check(&self.managed)?;
        let mut taken = Ok(());
        if !self.managed.is_empty() {
            self.custodian.take(&self.managed).map_err(failed)?;
            taken = self.check(&[]);
        }
        let prepared = taken.and_then(|()| self.open(progress).map_err(|error| refusal(&error)));
        prepared.map_err(|mut refusal| {
            // Nothing of it is open any more.
            let back = self.managed.iter().rev();
            let problems = back.filter_map(|device| self.custodian.give_back(*device).err());
            refusal.problems.extend(problems.flatten());
            refusal
        })
    }

    /// What is known without opening anything. Those that are `to_bind` may still have drivers.
    fn check(&self, to_bind: &[HostSbdf]) -> Result<(), Refusal> {
        let root = HostRoot::system();
        let devices: Vec<_> = self.specs.iter().map(|spec| spec.host).collect();
        for device in &devices {
            root.function(*device).map_err(|error| absent(&error))?;
        }
        let groups = self.passed.groups.iter();
        let passed: Vec<_> = groups.map(|group| group.number).collect();
        let requirements = RunRequirements {
            devices: &devices,
            guest_ram: self.size(),
            // The pages are there.
            huge_pages: None,
            passed_groups: &passed,
            passed_container: self.passed.container.is_some() || self.context.is_some(),
        };
        let mut found = obstacles(&root, &requirements, &CurrentProcess);
        found.retain(|obstacle| {
            !matches!(obstacle, Obstacle::Binding(BindingObstacle::NotOnVfio { function, .. })
                if to_bind.contains(&function.sbdf))
        });
        if !found.is_empty() {
            return Err(failed(found.iter().map(Obstacle::problem).collect()));
        }
        self.check_memory(&root, &devices)
            .map_err(|error| refusal(&error))
    }

    /// Whether guest RAM is where the devices can have it mapped, and can be pinned if it is not.
    fn check_memory(&self, root: &HostRoot, devices: &[HostSbdf]) -> Result<(), MachineError> {
        if self.context.is_none() && self.huge_pages.is_none() {
            host_memory::check_pinnable(self.size())?;
        }
        for reserved in root.reserved_iovas(devices)? {
            let in_the_way = device_regions(&self.regions).any(|region| {
                let last = region.guest_address + (region.host.len() as u64 - 1);
                *reserved.range.start() <= last && region.guest_address <= *reserved.range.end()
            });
            if in_the_way {
                return Err(MachineError::Reserved(reserved));
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.regions.iter().map(|r| r.host.len() as u64).sum()
    }

    fn open(&self, progress: &Populating) -> Result<Prepared, MachineError> {
        if let Some(context) = &self.context {
            // RAM is mapped for what was opened, or will be when the guest's start is over.
            let probed = self.probe(context)?;
            let context = Arc::clone(context);
            return Ok(Prepared { context, probed });
        }
        let observer = self.vm.vfio_device()?;
        let passed = self.passed.clone();
        let context = VfioContext::new(Some(observer), self.peer_to_peer, passed)?;
        let context = Arc::new(context);
        let probed = self.probe(&context)?;
        check_reachable(&context, &self.regions)?;
        self.pin(&context, progress)?;
        Ok(Prepared { context, probed })
    }

    fn probe(&self, context: &VfioContext) -> Result<Vec<Probed>, MachineError> {
        self.specs.iter().map(|spec| probe(spec, context)).collect()
    }

    /// Has guest RAM faulted in and mapped for DMA, from now on as well.
    fn pin(&self, context: &Arc<VfioContext>, progress: &Populating) -> Result<(), MachineError> {
        let started = Instant::now();
        let mebibytes = self.size() >> 20;
        log::info!("{mebibytes} MiB of guest RAM are pinned for the first device");
        populate(&self.regions, self.huge_pages, progress)?;
        // Nobody waits for it any more, and the kernel can't be told to stop once it pins.
        if progress.is_cancelled() {
            return Err(MachineError::Ended);
        }
        let populated = started.elapsed();
        let listener = Arc::clone(context) as Arc<dyn MemoryListener>;
        self.memory
            .add_listener(listener)
            .map_err(MachineError::DmaMap)?;
        log::info!(
            "guest RAM is pinned: {} ms to fault it in, {} ms to map it for DMA",
            populated.as_millis(),
            (started.elapsed() - populated).as_millis()
        );
        Ok(())
    }
}

fn failed(problems: Vec<Problem>) -> Refusal {
    Refusal {
        kind: RefusalKind::Failed,
        problems,
    }
}

fn absent(error: &HostError) -> Refusal {
    let kind = match error {
        HostError::NoSuchFunction { .. } => RefusalKind::Unknown,
        _ => RefusalKind::Failed,
    };
    Refusal::new(kind, error.problem())
}

/// What a client is told of an error of the machine's.
pub(super) fn refusal(error: &MachineError) -> Refusal {
    let mut cause: Option<&dyn Error> = Some(error);
    let mut kind = RefusalKind::Failed;
    while let Some(error) = cause {
        let errno = error.downcast_ref::<io::Error>();
        if errno.and_then(io::Error::raw_os_error) == Some(libc::EBUSY) {
            // Somebody else has it.
            kind = RefusalKind::Conflict;
        }
        cause = error.source();
    }
    Refusal::new(kind, error.problem())
}

impl Machine {
    /// What is needed to open devices for this machine.
    pub(super) fn preparer(
        &self,
        specs: Vec<DeviceSpec>,
        managed: Vec<HostSbdf>,
        custodian: &Arc<dyn Custodian>,
    ) -> Preparer {
        Preparer {
            specs,
            managed,
            custodian: Arc::clone(custodian),
            context: self.assigned.as_ref().map(|all| Arc::clone(all.context())),
            vm: Arc::clone(&self.vm),
            peer_to_peer: self.spec.peer_to_peer,
            passed: self.spec.passed.clone(),
            memory: Arc::clone(self.pci.memory()),
            regions: self.ram.regions().to_vec(),
            huge_pages: self.ram.huge_pages(),
        }
    }

    /// Makes devices of what is open. The guest sees nothing of them yet; dropping them closes them.
    ///
    /// # Errors
    /// [`MachineError`].
    pub(super) fn realise(
        &mut self,
        specs: &[DeviceSpec],
        prepared: Prepared,
    ) -> Result<Vec<Assigned>, MachineError> {
        let Prepared { context, probed } = prepared;
        // Guest RAM is its from now on, whatever becomes of the devices.
        let assigned = self
            .assigned
            .get_or_insert_with(|| AssignedDevices::none(context));
        let devices = assigned.realise(specs, probed, &self.routing)?;
        let functions: Vec<_> = devices.iter().map(Assigned::function).collect();
        bars::assign_beside(&assigned.functions(), &functions, &self.platform)?;
        Ok(devices)
    }

    /// Puts devices, slots as a whole, on the guest's bus, and tells the guest.
    ///
    /// # Errors
    /// [`MachineError::Occupied`]; the guest has none of them then.
    pub(super) fn insert(&mut self, mut devices: Vec<Assigned>) -> Result<(), MachineError> {
        // A guest looks at function 0 of a slot to learn whether there are others.
        devices.sort_by_key(|assigned| std::cmp::Reverse(assigned.spec.guest.devfn()));
        let segment = self.pci.segment();
        for (count, assigned) in devices.iter().enumerate() {
            if let Err(error) = segment.insert(assigned.spec.guest, assigned.function()) {
                for inserted in devices.iter().take(count) {
                    segment.remove(inserted.spec.guest);
                }
                return Err(error.into());
            }
        }
        let slots: Vec<_> = devices
            .iter()
            .map(|assigned| assigned.spec.guest.device())
            .collect();
        devices.reverse();
        if let Some(assigned) = &mut self.assigned {
            assigned.devices.extend(devices);
        }
        slots.iter().for_each(|slot| self.hotplug.announce(*slot));
        Ok(())
    }
}
