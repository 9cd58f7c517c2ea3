//! KVM: the virtual machine, its vCPUs, its memslots and its interrupt routes.
//!
//! Only this module names kvm-ioctls. The full in-kernel irqchip (PIC, IOAPIC, local APICs) is used,
//! so that level-triggered interrupts can be resampled inside the kernel.

mod routing;
mod slots;
mod statistics;
mod sys;
mod vcpu;
mod vm;

pub use routing::{GsiRouting, RoutingError};
pub use slots::MemorySlots;
pub use statistics::{Statistics, StatisticsFile};
pub use vcpu::{CpuState, Vcpu, VcpuRunner, VcpuSetupError, block_kicks, kick_signal};
pub use vm::{Hypervisor, IrqchipState, KvmError, Vm};
