//! What a vCPU thread does: enter the guest, serve what leaves it, count it.

use super::buses::{Buses, Space};
use super::mailbox::{Mailbox, StopCause};
use crate::kvm::{Vcpu, block_kicks, kick_signal};
use crate::stats::{Access, ExitCounters};
use kvm_ioctls::VcpuExit;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use vmm_sys_util::signal::Killable;

/// What all vCPU threads share.
pub(super) struct VcpuContext {
    /// Where accesses go.
    pub buses: Arc<Buses>,
    /// Where causes to stop go.
    pub mailbox: Arc<Mailbox>,
    /// When the first vCPU first entered the guest.
    pub first_run: OnceLock<Instant>,
}

/// A running vCPU.
pub(super) struct VcpuThread {
    thread: JoinHandle<Vcpu>,
}

impl VcpuThread {
    /// Starts `vcpu` on a thread of its own.
    ///
    /// # Errors
    /// The errno of making the thread; the vCPU is lost then.
    pub(super) fn start(
        mut vcpu: Vcpu,
        context: Arc<VcpuContext>,
        counters: Arc<ExitCounters>,
    ) -> io::Result<Self> {
        // Before the thread exists: it inherits the mask, and so no kick finds it open and ends the process.
        block_kicks()?;
        let thread = thread::Builder::new()
            .name(format!("vcpu{}", vcpu.index()))
            .spawn(move || {
                let _told = PanicNotice {
                    vcpu: vcpu.index(),
                    mailbox: &context.mailbox,
                };
                run(&mut vcpu, &context, &counters);
                vcpu
            })?;
        Ok(Self { thread })
    }

    /// Makes the thread leave the guest; it ends when the mailbox says so.
    pub(super) fn kick(&self) {
        if let Err(error) = self.thread.kill(kick_signal()) {
            log::error!("a vCPU thread can't be signalled: {error}");
        }
    }

    /// Waits for the thread's end and gives the vCPU back; `None` if the thread panicked.
    pub(super) fn join(self) -> Option<Vcpu> {
        self.thread.join().ok()
    }
}

/// Tells the control thread when a vCPU's thread panics: a guest that lost a vCPU must not just stand still.
struct PanicNotice<'a> {
    vcpu: u8,
    mailbox: &'a Mailbox,
}

impl Drop for PanicNotice<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.mailbox.post(StopCause::Host {
                vcpu: self.vcpu,
                detail: "its thread panicked".to_owned(),
            });
        }
    }
}

fn run(vcpu: &mut Vcpu, context: &VcpuContext, counters: &ExitCounters) {
    let index = vcpu.index();
    let mailbox = &context.mailbox;
    let mut runner = vcpu.runner();
    if index == 0 {
        context.first_run.get_or_init(Instant::now);
    }
    while !mailbox.stopping() {
        let cause = match runner.run() {
            Ok(exit) => match serve(exit, &context.buses, counters) {
                Served::Done => None,
                Served::InternalError => Some(StopCause::Crash {
                    vcpu: index,
                    detail: runner.internal_error(),
                }),
                Served::Shutdown => Some(StopCause::TripleFault { vcpu: index }),
                Served::Crash(detail) => Some(StopCause::Crash {
                    vcpu: index,
                    detail,
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                counters.other("interrupted");
                runner.take_kick();
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                counters.other("start");
                None
            }
            Err(error) => {
                counters.other("failed run");
                Some(StopCause::Host {
                    vcpu: index,
                    detail: format!("KVM_RUN: {error}"),
                })
            }
        };
        if let Some(cause) = cause {
            mailbox.post(cause);
        }
    }
    match runner.finish_access() {
        // One that has not been started yet has nothing to finish.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => log::debug!("vCPU {index}: its last access is not finished: {error}"),
        Ok(()) => {}
    }
}

enum Served {
    Done,
    Shutdown,
    InternalError,
    Crash(String),
}

fn serve(exit: VcpuExit<'_>, buses: &Buses, counters: &ExitCounters) -> Served {
    match exit {
        VcpuExit::IoOut(port, data) => {
            let access = |chunk: &[u8]| write(buses, (Space::Port, port.into()), chunk, counters);
            each_access(data.len(), |range| {
                access(data.get(range).unwrap_or_default())
            });
        }
        VcpuExit::IoIn(port, data) => {
            let len = data.len();
            each_access(len, |range| {
                let chunk = data.get_mut(range).unwrap_or_default();
                read(buses, (Space::Port, port.into()), chunk, counters);
            });
        }
        VcpuExit::MmioRead(address, data) => {
            read(buses, (Space::Memory, address), data, counters);
        }
        VcpuExit::MmioWrite(address, data) => {
            write(buses, (Space::Memory, address), data, counters);
        }
        VcpuExit::Intr => counters.other("interrupted"),
        VcpuExit::Hlt => counters.other("halt"),
        VcpuExit::IrqWindowOpen => counters.other("irq window"),
        VcpuExit::SetTpr | VcpuExit::TprAccess => counters.other("tpr access"),
        VcpuExit::Shutdown => {
            counters.other("shutdown");
            return Served::Shutdown;
        }
        VcpuExit::InternalError => {
            counters.other("internal error");
            return Served::InternalError;
        }
        VcpuExit::FailEntry(reason, cpu) => {
            counters.other("failed entry");
            let detail = format!("host CPU {cpu} refused to enter the guest: reason {reason:#x}");
            return Served::Crash(detail);
        }
        VcpuExit::MemoryFault { flags, gpa, size } => {
            counters.other("memory fault");
            let detail =
                format!("guest memory {gpa:#x}+{size:#x} can't be used (flags {flags:#x})");
            return Served::Crash(detail);
        }
        other => {
            counters.other("other");
            return Served::Crash(format!("unexpected exit {other:?}"));
        }
    }
    Served::Done
}

/// Splits the data of a port exit into accesses. KVM hands a repeated string instruction over in one
/// piece and kvm-ioctls drops its element size; Linux repeats only byte instructions on ports that
/// exist here, so longer data is a row of bytes.
fn each_access(len: usize, mut access: impl FnMut(std::ops::Range<usize>)) {
    match len {
        1 | 2 | 4 => access(0..len),
        _ => (0..len).for_each(|at| access(at..at + 1)),
    }
}

fn read(buses: &Buses, (space, address): (Space, u64), data: &mut [u8], counters: &ExitCounters) {
    let access = match space {
        Space::Port => Access::PortRead,
        Space::Memory => Access::MmioRead,
    };
    match buses.bus(space).find(address) {
        Some(found) => {
            counters.access(access, found.base);
            found.device.read(found.offset, data);
        }
        None => {
            counters.access(access, address);
            data.fill(0xff);
        }
    }
}

fn write(buses: &Buses, (space, address): (Space, u64), data: &[u8], counters: &ExitCounters) {
    let access = match space {
        Space::Port => Access::PortWrite,
        Space::Memory => Access::MmioWrite,
    };
    match buses.bus(space).find(address) {
        Some(found) => {
            counters.access(access, found.base);
            found.device.write(found.offset, data);
        }
        None => counters.access(access, address),
    }
}
