//! The machine: built once, booted as often as the guest resets, taken apart at the end.

mod addresses;
mod arrival;
mod assigned;
mod bars;
mod builder;
mod bus_reset;
mod buses;
mod console;
mod control;
mod custody;
mod elf;
mod host_memory;
mod hotplug;
mod kernel;
mod mailbox;
mod pause;
mod pci_host;
mod platform;
mod preparation;
mod problem;
mod removal;
mod report;
mod signals;
mod vcpu_loop;

pub use bars::NoRoom;
pub use builder::Machine;
pub use control::{Surroundings, run};
pub use custody::Custodian;
pub use kernel::{ImageFile, Kernel, KernelError};
pub use mailbox::StopCause;
pub use signals::RunSignals;

use crate::kvm::{KvmError, RoutingError, VcpuSetupError};
use crate::memory::{MapError, RamError};
use arch::x86_64::acpi::AcpiError;
use arch::x86_64::boot::BootError;
use arch::x86_64::layout::LayoutError;
use devices::bus::BusConflict;
use devices::host::{HostError, Problem, ReservedIova};
use devices::pci::{HostSbdf, Occupied};
use devices::vfio::{ContainerError, PlanError, VfioError};
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Why a machine could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuSetupError),
    /// Interrupt routes.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// Guest RAM.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The memory map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// More guest RAM than the host has.
    #[error("guest RAM of {asked} bytes is more than the {present} bytes that the host has")]
    HostMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes there.
        present: u64,
        /// Whether it has to be free, because a device's DMA pins it.
        pinned: bool,
    },
    /// Kernel or initramfs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Boot structures.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The guest's address space.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A boot structure does not lie in guest RAM.
    #[error("guest memory at {address:#x} is not RAM")]
    GuestMemory {
        /// Guest-physical address.
        address: u64,
    },
    /// The VFIO container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A device.
    #[error("{host} can't be assigned")]
    Device {
        /// Which.
        host: HostSbdf,
        /// Why.
        #[source]
        source: VfioError,
    },
    /// A device that can't be passed through.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A BAR.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Two functions at one guest address.
    #[error(transparent)]
    Occupied(#[from] Occupied),
    /// Two legacy devices at one address.
    #[error(transparent)]
    Bus(#[from] BusConflict),
    /// A fact about the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Guest RAM has no place in the guest's address space.
    #[error("guest RAM has no place")]
    RamPlace {
        /// What the IOMMU of a device reserves there.
        in_the_way: Option<ReservedIova>,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// More ranges of RAM than an IOMMU context maps.
    #[error("guest RAM takes {needed} DMA mappings, and {available} are left")]
    DmaEntries {
        /// Ranges of RAM.
        needed: usize,
        /// Mappings that the kernel allows.
        available: u64,
    },
    /// The IOMMU can't map guest RAM where it is.
    #[error("the IOMMU can't map guest RAM {ram:x?}")]
    Iova {
        /// The RAM.
        ram: RangeInclusive<u64>,
        /// What the IOMMU can map.
        usable: Vec<RangeInclusive<u64>>,
    },
    /// Guest RAM could not be mapped for DMA.
    #[error("guest RAM can't be mapped for DMA")]
    DmaMap(#[source] MapError),
    /// A device that joins can't have guest RAM mapped where it is.
    #[error("guest RAM lies where the IOMMU of {} can't map it", .0.sbdf)]
    Reserved(ReservedIova),
    /// The guest was ended meanwhile.
    #[error("the guest has ended")]
    Ended,
    /// The serial console's file.
    #[error("{} can't be written", path.display())]
    SerialFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something of the process: a thread, an eventfd, the terminal.
    #[error("{what} failed")]
    Process {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names what failed in an [`io::Error`].
fn process(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Process { what, source }
}

/// How a guest's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off.
    PoweredOff,
    /// The guest handed a status to the debug-exit port.
    GuestStatus(u8),
    /// The guest reset itself and was not to be booted again.
    Reset,
    /// The guest crashed: a triple fault that was not to be booted again, or a state that KVM can't
    /// run.
    Crashed(String),
    /// The guest's kernel panicked, and told of it.
    Panicked,
    /// The host failed while the guest ran.
    HostFailed(String),
    /// Guest RAM could not be made reachable for the devices.
    MemoryFailed(Problem),
    /// A device reported an uncorrectable error, and the guest was not to go on.
    DeviceFailed(Problem),
    /// The user or a signal stopped Ferry.
    Stopped,
}
