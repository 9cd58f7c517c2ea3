//! A vCPU: its state at power-on, what a boot protocol sets, and entering the guest.

use super::statistics::StatisticsFile;
use super::sys::{self, from_errno};
use super::vm::{KvmError, Vm, failed};
use arch::x86_64::cpuid::{CpuIdentity, guest_cpuid};
use arch::x86_64::msr::boot_msrs;
use arch::x86_64::regs::{EntryPoint, boot_fpu, boot_regs, boot_sregs, lapic_with_lint};
use kvm_bindings::{
    CpuId, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_cpuid_entry2,
    kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::sync::Arc;
use vmm_sys_util::signal::{SIGRTMIN, block_signal, clear_signal};

/// IA32_TIME_STAMP_COUNTER. It counts on over a reset, as on a real machine: writing it would make
/// KVM synchronise all vCPUs anew.
const MSR_IA32_TSC: u32 = 0x10;

/// The signal that makes a vCPU thread leave the guest. It is blocked outside `KVM_RUN`.
#[must_use]
pub fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Why a vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {index} could not be set up")]
pub struct VcpuSetupError {
    /// Which vCPU.
    pub index: u8,
    /// Why.
    #[source]
    pub source: KvmError,
}

/// All state of a vCPU that a reset puts back.
pub struct CpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    lapic: kvm_lapic_state,
    xcrs: Option<kvm_xcrs>,
    debugregs: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
}

/// One vCPU.
pub struct Vcpu {
    index: u8,
    fd: VcpuFd,
    power_on: CpuState,
    /// The machine outlives its vCPUs.
    _vm: Arc<Vm>,
}

impl Vcpu {
    /// Makes vCPU `index`, with the CPUID that follows from what KVM `supported`, its `identity` and
    /// the TSC frequency that KVM gives it, and notes its state at power-on. `state_msrs` are those that
    /// belong to that state.
    ///
    /// # Errors
    /// [`VcpuSetupError`].
    pub fn new(
        vm: &Arc<Vm>,
        index: u8,
        supported: &[kvm_cpuid_entry2],
        identity: &CpuIdentity,
        state_msrs: &[u32],
    ) -> Result<Self, VcpuSetupError> {
        let build = || {
            let fd = vm.create_vcpu(index)?;
            let identity = CpuIdentity {
                tsc_khz: fd.get_tsc_khz().ok().filter(|khz| *khz > 0),
                ..*identity
            };
            let entries = guest_cpuid(supported, &identity);
            let cpuid = CpuId::from_entries(&entries)
                .map_err(|_| KvmError::Lacks("room for the guest's CPUID leaves"))?;
            fd.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
            sys::unblock_only_while_running(&fd, kick_signal()).map_err(|source| {
                KvmError::Ioctl {
                    ioctl: "KVM_SET_SIGNAL_MASK",
                    source,
                }
            })?;
            let power_on = CpuState::read(&fd, state_msrs)?;
            Ok((fd, power_on))
        };
        let (fd, power_on) = build().map_err(|source| VcpuSetupError { index, source })?;
        Ok(Self {
            index,
            fd,
            power_on,
            _vm: Arc::clone(vm),
        })
    }

    /// The vCPU's number, which is its APIC id.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Puts the vCPU into its state at power-on and, the first one, to `entry`. The others wait for
    /// its INIT and SIPI.
    ///
    /// # Errors
    /// [`VcpuSetupError`].
    pub fn reset(&mut self, entry: &EntryPoint) -> Result<(), VcpuSetupError> {
        let index = self.index;
        let write = || {
            // Waiting vCPUs first: a running one could be woken by a stale interrupt.
            self.set_mp_state(KVM_MP_STATE_UNINITIALIZED)?;
            self.power_on.write(&self.fd)?;
            if index == 0 {
                self.fd
                    .set_sregs(&boot_sregs(self.power_on.sregs, entry))
                    .map_err(failed("KVM_SET_SREGS"))?;
                self.fd
                    .set_regs(&boot_regs(entry))
                    .map_err(failed("KVM_SET_REGS"))?;
                self.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
            }
            Ok(())
        };
        write().map_err(|source| VcpuSetupError { index, source })
    }

    /// What KVM counts of this vCPU; `None` on kernels before 5.14.
    #[must_use]
    pub fn statistics(&self) -> Option<StatisticsFile> {
        StatisticsFile::of(&self.fd)
    }

    /// Tells the guest's watchdog that time has passed in which the vCPU did not run.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn tell_paused(&self) -> Result<(), KvmError> {
        match self.fd.kvmclock_ctrl() {
            // A guest that does not use the paravirtual clock has no place to be told at.
            Err(error) if error.errno() == libc::EINVAL => Ok(()),
            told => told.map_err(failed("KVM_KVMCLOCK_CTRL")),
        }
    }

    /// The guest's time stamp counter.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn tsc(&self) -> Result<u64, KvmError> {
        let entry = kvm_msr_entry {
            index: MSR_IA32_TSC,
            ..Default::default()
        };
        let lacks = KvmError::Lacks("IA32_TIME_STAMP_COUNTER");
        let Ok(mut msrs) = Msrs::from_entries(&[entry]) else {
            return Err(lacks);
        };
        self.fd
            .get_msrs(&mut msrs)
            .map_err(failed("KVM_GET_MSRS"))?;
        msrs.as_slice().first().map(|entry| entry.data).ok_or(lacks)
    }

    /// Moves the guest's time stamp counter by `ticks`, which may wrap.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`], on kernels before 5.16.
    pub fn move_tsc(&self, ticks: u64) -> Result<(), KvmError> {
        sys::move_tsc(&self.fd, ticks).map_err(|source| KvmError::Ioctl {
            ioctl: "KVM_SET_DEVICE_ATTR (TSC offset)",
            source,
        })
    }

    fn set_mp_state(&self, mp_state: u32) -> Result<(), KvmError> {
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(failed("KVM_SET_MP_STATE"))
    }

    /// Readies the vCPU for the calling thread, which must have been started with kicks blocked ([`block_kicks`]).
    pub fn runner(&mut self) -> VcpuRunner<'_> {
        VcpuRunner { fd: &mut self.fd }
    }
}

/// Blocks the kick signal for the calling thread and those it starts. Where it isn't blocked it ends the process.
///
/// # Errors
/// The errno of `sigprocmask`.
pub fn block_kicks() -> io::Result<()> {
    match block_signal(kick_signal()) {
        // A signal blocked already is no failure.
        Ok(()) | Err(vmm_sys_util::signal::Error::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// Enters the guest on the thread that made it.
pub struct VcpuRunner<'a> {
    fd: &'a mut VcpuFd,
}

impl VcpuRunner<'_> {
    /// Runs the guest until it needs something. `Err` of kind `Interrupted` after a kick.
    ///
    /// # Errors
    /// The errno of `KVM_RUN`.
    pub fn run(&mut self) -> io::Result<VcpuExit<'_>> {
        self.fd.run().map_err(from_errno)
    }

    /// Lets KVM finish the access that ended the last [`VcpuRunner::run`], without entering the guest: until then the vCPU's
    /// state is not whole, and what is set of it may be overwritten (Linux `Documentation/virt/kvm/api.rst`, `KVM_RUN`).
    ///
    /// # Errors
    /// The errno of `KVM_RUN`, but for `EINTR`, which is what it is to return.
    pub fn finish_access(&mut self) -> io::Result<()> {
        self.fd.set_kvm_immediate_exit(1);
        let run = self.fd.run().map(|_| ()).map_err(from_errno);
        self.fd.set_kvm_immediate_exit(0);
        match run {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the kick that ended [`VcpuRunner::run`], so that the next run is not ended by it.
    pub fn take_kick(&mut self) {
        if let Err(error) = clear_signal(kick_signal()) {
            log::warn!("a vCPU's kick could not be taken: {error}");
        }
    }

    /// Where the guest was when `KVM_RUN` returned `KVM_EXIT_INTERNAL_ERROR`.
    pub fn internal_error(&mut self) -> String {
        let rip = self.fd.get_regs().map(|regs| regs.rip);
        match rip {
            Ok(rip) => format!("KVM internal error at rip {rip:#x}"),
            Err(_) => "KVM internal error".to_owned(),
        }
    }
}

impl CpuState {
    fn read(fd: &VcpuFd, state_msrs: &[u32]) -> Result<Self, KvmError> {
        let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let lapic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        let mut msrs = read_msrs(fd, state_msrs)?;
        for wanted in boot_msrs() {
            msrs.retain(|entry| entry.index != wanted.index);
            msrs.push(wanted);
        }
        Ok(Self {
            regs: fd.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs,
            fpu: boot_fpu(),
            lapic: lapic_with_lint(lapic),
            // A host CPU without XSAVE has none.
            xcrs: fd.get_xcrs().ok(),
            debugregs: fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
            events: fd
                .get_vcpu_events()
                .map_err(failed("KVM_GET_VCPU_EVENTS"))?,
            msrs,
        })
    }

    fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        fd.set_sregs(&self.sregs).map_err(failed("KVM_SET_SREGS"))?;
        fd.set_regs(&self.regs).map_err(failed("KVM_SET_REGS"))?;
        if let Some(xcrs) = &self.xcrs {
            fd.set_xcrs(xcrs).map_err(failed("KVM_SET_XCRS"))?;
        }
        fd.set_fpu(&self.fpu).map_err(failed("KVM_SET_FPU"))?;
        fd.set_debug_regs(&self.debugregs)
            .map_err(failed("KVM_SET_DEBUGREGS"))?;
        write_msrs(fd, &self.msrs)?;
        // After the MSRs: IA32_APIC_BASE decides how the local APIC's state is read.
        fd.set_lapic(&self.lapic).map_err(failed("KVM_SET_LAPIC"))?;
        fd.set_vcpu_events(&self.events)
            .map_err(failed("KVM_SET_VCPU_EVENTS"))
    }
}

/// Reads those of `indices` that can be read; KVM lists some that this CPU hasn't.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut left: Vec<kvm_msr_entry> = indices
        .iter()
        .filter(|index| **index != MSR_IA32_TSC)
        .map(|index| kvm_msr_entry {
            index: *index,
            ..Default::default()
        })
        .collect();
    let mut present = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let mut msrs =
            Msrs::from_entries(&left).map_err(|_| KvmError::Lacks("room for the MSR list"))?;
        let read = fd.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS"))?;
        present.extend_from_slice(msrs.as_slice().get(..read).unwrap_or_default());
        // The kernel stopped at the first that it could not read.
        left.drain(..left.len().min(read + 1));
    }
    Ok(present)
}

fn write_msrs(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
    let mut left = entries;
    while !left.is_empty() {
        let msrs =
            Msrs::from_entries(left).map_err(|_| KvmError::Lacks("room for the MSR list"))?;
        let written = fd.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
        if let Some(refused) = left.get(written) {
            // Some MSRs can be read and not written; at power-on they hold their value already.
            log::debug!("MSR {:#x} keeps its value over a reset", refused.index);
        }
        left = left.get(written + 1..).unwrap_or_default();
    }
    Ok(())
}
