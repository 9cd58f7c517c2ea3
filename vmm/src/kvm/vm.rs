//! `/dev/kvm` and one virtual machine.

use super::statistics::StatisticsFile;
use super::sys::from_errno;
use devices::vfio::GroupObserver;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Why KVM can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` can't be opened.
    #[error("/dev/kvm can't be opened")]
    Open(#[source] io::Error),
    /// Not the one KVM API version that there is.
    #[error("KVM API version {0} is not 12")]
    Version(i32),
    /// The host's KVM lacks something that Ferry needs.
    #[error("the host's KVM lacks {0}")]
    Lacks(&'static str),
    /// More vCPUs than the host's KVM supports.
    #[error("{asked} vCPUs are more than the {supported} that the host's KVM supports")]
    TooManyCpus {
        /// How many were asked for.
        asked: u8,
        /// How many there may be.
        supported: usize,
    },
    /// An ioctl failed.
    #[error("{ioctl} failed")]
    Ioctl {
        /// Which.
        ioctl: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names the ioctl in the error of a kvm-ioctls call.
pub(super) fn failed(ioctl: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Ioctl {
        ioctl,
        source: from_errno(error),
    }
}

/// Capabilities without which no guest of Ferry's runs.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "the in-kernel irqchip (KVM_CAP_IRQCHIP)"),
    (Cap::Irqfd, "irqfd (KVM_CAP_IRQFD)"),
    (Cap::IrqRouting, "GSI routing (KVM_CAP_IRQ_ROUTING)"),
    (Cap::UserMemory, "user memory regions (KVM_CAP_USER_MEMORY)"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_GET_SUPPORTED_CPUID (KVM_CAP_EXT_CPUID)"),
    (Cap::MpState, "multiprocessor state (KVM_CAP_MP_STATE)"),
    (Cap::VcpuEvents, "vCPU events (KVM_CAP_VCPU_EVENTS)"),
];

/// The host's KVM.
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it can do what Ferry needs.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|e| KvmError::Open(from_errno(e)))?;
        let version = kvm.get_api_version();
        if version != 12 {
            return Err(KvmError::Version(version));
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Lacks(name));
            }
        }
        Ok(Self { kvm })
    }

    /// What the host's KVM lets a guest see of its CPU.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        let cpuid: CpuId = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().to_vec())
    }

    /// The MSRs whose values make up a vCPU's state.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn state_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(failed("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Makes a virtual machine with the in-kernel irqchip and no memory.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn create_vm(&self, cpus: u8) -> Result<Arc<Vm>, KvmError> {
        let supported = self.kvm.get_max_vcpus();
        if usize::from(cpus) > supported {
            return Err(KvmError::TooManyCpus {
                asked: cpus,
                supported,
            });
        }
        let fd = self.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        fd.set_identity_map_address(arch::x86_64::layout::KVM_IDENTITY_MAP_ADDRESS)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(arch::x86_64::layout::KVM_TSS_ADDRESS)
            .map_err(|_| KvmError::Lacks("a 64-bit host"))?;
        fd.set_tss_address(tss)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        Ok(Arc::new(Vm {
            fd,
            vfio: Mutex::default(),
        }))
    }
}

/// One virtual machine.
pub struct Vm {
    fd: VmFd,
    vfio: Mutex<Option<Arc<VfioDevice>>>,
}

impl Vm {
    /// The machine's file descriptor.
    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// How many memslots the machine may have.
    pub(super) fn slot_count(&self) -> u32 {
        u32::try_from(self.fd.check_extension_int(Cap::NrMemslots)).unwrap_or(32)
    }

    /// What KVM counts of the whole machine; `None` on kernels before 5.14.
    #[must_use]
    pub fn statistics(&self) -> Option<StatisticsFile> {
        StatisticsFile::of(&self.fd)
    }

    /// KVM's VFIO device, which is told of each group that the machine uses: KVM then honours the
    /// guest's cache attributes where an assigned device's DMA does not snoop.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn vfio_device(&self) -> Result<Arc<dyn GroupObserver>, KvmError> {
        // A machine has one, for as long as it lives: older kernels keep it when its descriptor is closed.
        let mut present = self.vfio.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &*present {
            return Ok(Arc::clone(device) as Arc<dyn GroupObserver>);
        }
        let mut device = kvm_bindings::kvm_create_device {
            type_: kvm_bindings::kvm_device_type_KVM_DEV_TYPE_VFIO,
            fd: 0,
            flags: 0,
        };
        let fd = self
            .fd
            .create_device(&mut device)
            .map_err(failed("KVM_CREATE_DEVICE (VFIO)"))?;
        let device = Arc::new(VfioDevice { fd });
        *present = Some(Arc::clone(&device));
        Ok(device)
    }

    pub(super) fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(index))
            .map_err(failed("KVM_CREATE_VCPU"))
    }

    /// The state of the in-kernel PICs and IOAPIC.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn irqchip_state(&self) -> Result<IrqchipState, KvmError> {
        let mut chips = [kvm_bindings::kvm_irqchip::default(); 3];
        for (chip_id, chip) in (0_u32..).zip(&mut chips) {
            chip.chip_id = chip_id;
            self.fd
                .get_irqchip(chip)
                .map_err(failed("KVM_GET_IRQCHIP"))?;
        }
        Ok(IrqchipState { chips })
    }

    /// The guest's clock, in nanoseconds since the machine was made.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn clock(&self) -> Result<u64, KvmError> {
        let clock = self.fd.get_clock().map_err(failed("KVM_GET_CLOCK"))?;
        Ok(clock.clock)
    }

    /// Sets the guest's clock, which goes on from there.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        let clock = kvm_bindings::kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(failed("KVM_SET_CLOCK"))
    }

    /// Puts the in-kernel PICs and IOAPIC into `state`.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn set_irqchip_state(&self, state: &IrqchipState) -> Result<(), KvmError> {
        for chip in &state.chips {
            self.fd
                .set_irqchip(chip)
                .map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// KVM's VFIO device.
struct VfioDevice {
    fd: DeviceFd,
}

impl VfioDevice {
    fn tell(&self, attribute: u32, group: BorrowedFd<'_>) -> io::Result<()> {
        let group = group.as_raw_fd();
        let attribute = kvm_bindings::kvm_device_attr {
            flags: 0,
            group: kvm_bindings::KVM_DEV_VFIO_FILE,
            attr: attribute.into(),
            addr: std::ptr::from_ref(&group).expose_provenance() as u64,
        };
        self.fd.set_device_attr(&attribute).map_err(from_errno)
    }
}

impl GroupObserver for VfioDevice {
    fn group_added(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        self.tell(kvm_bindings::KVM_DEV_VFIO_FILE_ADD, group)
    }

    fn group_removed(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        self.tell(kvm_bindings::KVM_DEV_VFIO_FILE_DEL, group)
    }
}

/// State of the two PICs and the IOAPIC, as KVM keeps it.
pub struct IrqchipState {
    chips: [kvm_bindings::kvm_irqchip; 3],
}
