//! Building a machine: everything up to the first instruction, as much of it at once as can be.

use super::addresses::AddressPlan;
use super::assigned::{AssignedDevices, check_reachable};
use super::buses::Buses;
use super::hotplug::Hotplug;
use super::kernel::{ImageFile, Kernel, write_blobs};
use super::mailbox::Mailbox;
use super::pci_host::{PciHost, Windows};
use super::platform::{self, Console};
use super::preparation::{DmaReadiness, Preparation};
use super::removal::Departed;
use super::report::KvmStatistics;
use super::vcpu_loop::{VcpuContext, VcpuThread};
use super::{MachineError, bars, bus_reset, process};
use crate::kvm::{GsiRouting, Hypervisor, IrqchipState, MemorySlots, Vcpu, Vm};
use crate::memory::{GuestRam, MemoryMap};
use crate::spec::MachineSpec;
use crate::stats::{ExitCounters, Stopwatch, micros};
use arch::platform::PlatformDescription;
use arch::x86_64::acpi;
use arch::x86_64::cpuid::{CpuIdentity, KVM_APIC_BUS_HZ, phys_bits};
use arch::x86_64::layout::BarSpace;
use arch::x86_64::regs::EntryPoint;
use arch::x86_64::reset_vector::reset_vector;
use devices::host::HostRoot;
use devices::memory::MemoryListener;
use devices::pci::{PciFunction, PciSegment};
use kvm_bindings::kvm_cpuid_entry2;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A virtual machine: built, not running.
///
/// Fields are dropped in their order: the vCPUs before the devices they enter, the devices before
/// the memory they reach, everything before the VM.
pub struct Machine {
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) counters: Vec<Arc<ExitCounters>>,
    pub(super) statistics: KvmStatistics,
    pub(super) context: Arc<VcpuContext>,
    pub(super) console: Option<Console>,
    pub(super) pci: Arc<PciHost>,
    pub(super) hotplug: Hotplug,
    /// Ends before what it maps goes.
    pub(super) preparation: Option<Preparation>,
    pub(super) assigned: Option<AssignedDevices>,
    /// Devices that have left.
    pub(super) removed: Departed,
    pub(super) ram: GuestRam,
    pub(super) spec: MachineSpec,
    pub(super) stopwatch: Stopwatch,
    pub(super) boots: u64,
    pub(super) platform: PlatformDescription,
    images: Images,
    irqchip: IrqchipState,
    pub(super) routing: GsiRouting,
    pub(super) slots: Arc<MemorySlots>,
    pub(super) vm: Arc<Vm>,
}

/// The files that are loaded at each boot.
struct Images {
    kernel: Kernel,
    initramfs: Option<ImageFile>,
}

impl Images {
    fn open(spec: &MachineSpec) -> Result<Self, MachineError> {
        let kernel = Kernel::open(&spec.kernel)?;
        let initramfs = spec
            .initramfs
            .as_deref()
            .map(ImageFile::open_initramfs)
            .transpose()?;
        Ok(Self { kernel, initramfs })
    }

    fn check_fit(&self, platform: &PlatformDescription) -> Result<(), MachineError> {
        let fits = self.kernel.check_fit(self.initramfs.as_ref(), platform);
        Ok(fits?)
    }
}

impl Machine {
    /// Builds the machine that `spec` describes and puts the guest into its memory.
    ///
    /// # Errors
    /// [`MachineError`]; nothing on the host stays changed.
    pub fn build(spec: MachineSpec, mut stopwatch: Stopwatch) -> Result<Self, MachineError> {
        let images = Images::open(&spec)?;
        let hypervisor = Hypervisor::open()?;
        let supported = hypervisor.supported_cpuid()?;
        super::host_memory::check(&spec)?;
        let addresses = AddressPlan::new(&spec, phys_bits(&supported), &HostRoot::system())?;
        let platform = addresses.describe(&spec, BarSpace::default())?;
        images.check_fit(&platform)?;
        let vm = hypervisor.create_vm(spec.cpus.get())?;
        let irqchip = vm.irqchip_state()?;
        let routing = GsiRouting::new(Arc::clone(&vm))?;
        let mailbox = Arc::new(Mailbox::new().map_err(process("eventfd"))?);
        let buses = Arc::new(Buses::default());
        let console = platform::attach(&buses, &routing, &mailbox, &spec)?;
        let (ram, memory, slots) = guest_memory(&spec, &addresses, &vm)?;
        let mut preparation = (!spec.devices.is_empty())
            .then(|| Preparation::start(&ram, &memory, &mailbox))
            .transpose()?;
        let assigned = open_devices(&spec, &vm, &routing, &mut stopwatch)?;
        if let (Some(assigned), Some(preparation)) = (&assigned, &mut preparation) {
            check_reachable(assigned.context(), ram.regions())?;
            preparation.map_into(Arc::clone(assigned.context()));
        }
        let bars_64 = assigned.as_ref().map(AssignedDevices::functions);
        let bars_64 = bars::window_64_needed(&bars_64.unwrap_or_default());
        let platform = addresses.describe(&spec, bars_64)?;
        let dma = readiness(preparation.as_ref());
        let segment = pci_segment(&platform, assigned.as_ref())?;
        let pci = PciHost::new(segment, Windows::of(&platform), &memory, &buses, dma);
        let pci = Arc::new(pci);
        pci.attach(&buses)?;
        let hotplug = Hotplug::attach(&pci, &buses, &routing)?;
        let vcpus = vcpus(&hypervisor, &vm, &spec, &supported)?;
        let mut machine = Self {
            counters: vcpus.iter().map(|_| Arc::default()).collect(),
            statistics: KvmStatistics::new(&vm, &vcpus),
            vcpus,
            context: Arc::new(VcpuContext {
                buses,
                mailbox,
                first_run: OnceLock::new(),
            }),
            console,
            pci,
            hotplug,
            preparation,
            assigned,
            removed: Departed::default(),
            ram,
            spec,
            stopwatch,
            boots: 0,
            platform,
            images,
            irqchip,
            routing,
            slots,
            vm,
        };
        machine.first_boot()?;
        Ok(machine)
    }

    fn first_boot(&mut self) -> Result<(), MachineError> {
        let started = Instant::now();
        let entry = self.load()?;
        self.stopwatch.startup.load_kernel = micros(started.elapsed());
        self.reset_cpus(&entry)
    }

    fn load(&self) -> Result<EntryPoint, MachineError> {
        let tables = acpi::build(&self.platform)?;
        write_blobs(&self.ram, &tables.blobs)?;
        write_blobs(&self.ram, &[reset_vector()])?;
        self.images.kernel.load(
            self.images.initramfs.as_ref(),
            &self.spec.cmdline,
            (&self.platform, tables.rsdp),
            &self.ram,
        )
    }

    fn reset_cpus(&mut self, entry: &EntryPoint) -> Result<(), MachineError> {
        self.vm.set_irqchip_state(&self.irqchip)?;
        // The boot CPU last: it is the one that would run.
        for vcpu in self.vcpus.iter_mut().rev() {
            vcpu.reset(entry)?;
        }
        Ok(())
    }

    /// Puts the whole machine, its devices included, into its state at power-on with the guest in
    /// memory. No vCPU may be running.
    ///
    /// # Errors
    /// [`MachineError`].
    pub(super) fn reset(&mut self) -> Result<(), MachineError> {
        for (guest, function) in self.pci.segment().functions() {
            self.pci.stop_decoding(guest, &function);
            if let Err(error) = function.reset() {
                log::warn!("{}: not reset: {}", function.name(), chain(&error));
            }
        }
        bus_reset::reset_buses(self.assigned.as_ref().map_or(&[], |all| &all.devices));
        self.pci.segment().reset();
        self.hotplug.reset();
        if let Some(console) = &self.console {
            console.serial.reset();
        }
        bars::assign(&self.functions(), &self.platform)?;
        let entry = self.load()?;
        self.reset_cpus(&entry)
    }

    /// Takes the machine apart, its devices quiet before the memory they reach goes: the one list
    /// of ARCHITECTURE.md, "Teardown".
    pub(super) fn shut_down(mut self) {
        self.preparation = None;
        for assigned in self.assigned.iter().flat_map(|all| &all.devices) {
            // Masks the vectors, then ends bus mastering.
            assigned.device.quiesce();
        }
        for (guest, function) in self.pci.segment().functions() {
            self.pci.stop_decoding(guest, &function);
            self.pci.segment().remove(guest);
        }
        // Dropping the rest closes the devices, which resets them; the last to close takes guest RAM from the IOMMU first.
    }

    pub(super) fn functions(&self) -> Vec<Arc<dyn PciFunction>> {
        self.assigned
            .as_ref()
            .map(AssignedDevices::functions)
            .unwrap_or_default()
    }

    /// Starts all vCPUs at the beginning of a boot.
    ///
    /// # Errors
    /// [`MachineError::Process`] when a thread can't be made.
    pub(super) fn start(&mut self) -> Result<Vec<VcpuThread>, MachineError> {
        self.boots += 1;
        self.context.mailbox.release();
        self.enter()
    }

    /// Starts all vCPUs where they are.
    ///
    /// # Errors
    /// [`MachineError::Process`] when a thread can't be made.
    pub(super) fn enter(&mut self) -> Result<Vec<VcpuThread>, MachineError> {
        self.pci.dma().release();
        let vcpus = std::mem::take(&mut self.vcpus);
        let mut threads = Vec::with_capacity(vcpus.len());
        for (vcpu, counters) in vcpus.into_iter().zip(&self.counters) {
            let context = Arc::clone(&self.context);
            match VcpuThread::start(vcpu, context, Arc::clone(counters)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.context.mailbox.hold();
                    threads.iter().for_each(VcpuThread::kick);
                    threads.into_iter().for_each(|thread| {
                        thread.join();
                    });
                    return Err(process("starting a vCPU thread")(error));
                }
            }
        }
        Ok(threads)
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Guest RAM, the memory map that KVM follows, and what KVM has of it.
fn guest_memory(
    spec: &MachineSpec,
    addresses: &AddressPlan,
    vm: &Arc<Vm>,
) -> Result<(GuestRam, Arc<MemoryMap>, Arc<MemorySlots>), MachineError> {
    let ram = GuestRam::new(addresses.ram(), spec.huge_pages)?;
    let memory = Arc::new(MemoryMap::new());
    for region in ram.regions() {
        memory.add(region.clone())?;
    }
    let slots = Arc::new(MemorySlots::new(Arc::clone(vm)));
    memory.add_listener(Arc::clone(&slots) as Arc<dyn MemoryListener>)?;
    Ok((ram, memory, slots))
}

fn open_devices(
    spec: &MachineSpec,
    vm: &Vm,
    routing: &GsiRouting,
    stopwatch: &mut Stopwatch,
) -> Result<Option<AssignedDevices>, MachineError> {
    if spec.devices.is_empty() {
        return Ok(None);
    }
    let started = Instant::now();
    let assigned = AssignedDevices::open(spec, vm, routing)?;
    stopwatch.startup.open_devices = micros(started.elapsed());
    Ok(Some(assigned))
}

fn readiness(preparation: Option<&Preparation>) -> Arc<DmaReadiness> {
    match preparation {
        Some(preparation) => Arc::clone(preparation.readiness()),
        None => Arc::new(DmaReadiness::ready()),
    }
}

/// The guest's bus, its BARs placed.
fn pci_segment(
    platform: &PlatformDescription,
    assigned: Option<&AssignedDevices>,
) -> Result<PciSegment, MachineError> {
    let segment = PciSegment::new();
    if let Some(assigned) = assigned {
        for (device, function) in assigned.devices.iter().zip(assigned.functions()) {
            segment.insert(device.spec.guest, function)?;
        }
        bars::assign(&assigned.functions(), platform)?;
    }
    Ok(segment)
}

fn vcpus(
    hypervisor: &Hypervisor,
    vm: &Arc<Vm>,
    spec: &MachineSpec,
    supported: &[kvm_cpuid_entry2],
) -> Result<Vec<Vcpu>, MachineError> {
    let msrs = hypervisor.state_msrs()?;
    let cpus = spec.cpus.get();
    (0..cpus)
        .map(|index| {
            let identity = CpuIdentity {
                apic_id: index.into(),
                cpus: cpus.into(),
                phys_bits: None,
                tsc_khz: None,
                apic_bus_hz: KVM_APIC_BUS_HZ,
            };
            Ok(Vcpu::new(vm, index, supported, &identity, &msrs)?)
        })
        .collect()
}
