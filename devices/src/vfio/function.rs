//! A passed-through function on the guest's bus.

use super::bar::BarPlan;
use super::host::{IrqIndex, KernelHost, VfioHost};
use super::irq::{InterruptParts, Interrupts, Wishes};
use super::plan::PassthroughPlan;
use super::probe::{OpenedDevice, VfioError};
use super::reset::{self, AffectedFunction, ResetPlan};
use super::rom::Rom;
use super::state::{ConfigState, starts_bus_mastering};
use super::sys::IrqAction;
use super::traps::{BarTraps, TrapCounters};
use crate::failures::Failures;
use crate::host::DeviceInterrupt;
use crate::interrupt::{IntxRouter, MsiRouter};
use crate::mapping::HostRange;
use crate::pci::bar::remap;
use crate::pci::header::Command;
use crate::pci::{
    BarIndex, BarLayout, BarSegment, ConfigOffset, ConfigStep, HardwareWrite, HostSbdf,
    PciFunction, ResetError,
};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// A host function that a guest drives.
///
/// Its one lock guards configuration space and interrupts, and orders the writes to the device's
/// own configuration space. Accesses to BARs don't take it, except to the MSI-X table and PBA.
///
/// Fields drop in this order: interrupts, BAR mappings, then the device is closed.
pub struct VfioPciDevice {
    state: Mutex<State>,
    bars: Vec<BarLayout>,
    rom: Option<Rom>,
    plan: PassthroughPlan,
    traps: TrapCounters,
    failures: Arc<Failures>,
    /// Off the bus, or about to be.
    leaving: AtomicBool,
    pub(super) host: Arc<dyn VfioHost>,
}

struct State {
    config: ConfigState,
    interrupts: Interrupts,
}

impl State {
    fn update_interrupts(&mut self) {
        let command = self.config.command;
        let decodes = command.intersects(Command::IO_SPACE | Command::MEMORY_SPACE);
        self.interrupts.update(Wishes {
            msi: self.config.msi.as_ref(),
            msix: self.config.msix.as_ref(),
            intx: decodes && !command.contains(Command::INTERRUPT_DISABLE),
        });
    }
}

/// Which of the MSI-X structures an access to a BAR falls into, and where in it.
enum Structure {
    Table(u64),
    Pba(u64),
}

impl VfioPciDevice {
    /// Carries `plan` out: maps the BAR segments and brings the function into its state after
    /// power-on. Nothing of it is on the guest's buses yet.
    ///
    /// # Errors
    /// [`VfioError::OtherDevice`], [`VfioError::MapBar`], [`VfioError::Bars`],
    /// [`VfioError::Prepare`].
    pub fn realise(
        opened: OpenedDevice,
        plan: PassthroughPlan,
        msi: Arc<dyn MsiRouter>,
        intx: Arc<dyn IntxRouter>,
    ) -> Result<Arc<Self>, VfioError> {
        if opened.sbdf() != plan.sbdf {
            return Err(VfioError::OtherDevice {
                planned: plan.sbdf,
                opened: opened.sbdf(),
            });
        }
        let host = KernelHost::new(opened, plan.config.file_offset, plan.file_offsets());
        Self::on_host(Arc::new(host), plan, msi, intx)
    }

    /// [`VfioPciDevice::realise`] on any host.
    pub(super) fn on_host(
        host: Arc<dyn VfioHost>,
        plan: PassthroughPlan,
        msi: Arc<dyn MsiRouter>,
        intx: Arc<dyn IntxRouter>,
    ) -> Result<Arc<Self>, VfioError> {
        let sbdf = plan.sbdf;
        let bars = plan
            .bars
            .iter()
            .map(|bar| lay_out(host.as_ref(), sbdf, bar))
            .chain(plan.rom.iter().map(|rom| Ok(rom.layout())))
            .collect::<Result<Vec<_>, _>>()?;
        let config = ConfigState::new(&plan.config, &bars)
            .map_err(|source| VfioError::Bars { sbdf, source })?;
        if let Some(write) = config.command_write() {
            // The kernel enables decoding as it opens the device; the guest starts without.
            host.config_write(write.offset.get(), written(&write))
                .map_err(|source| VfioError::Prepare { sbdf, source })?;
        }
        let failures = Arc::new(Failures::default());
        let interrupts = Interrupts::new(InterruptParts {
            sbdf,
            plan: plan.interrupts,
            host: Arc::clone(&host),
            msi,
            intx,
            failures: Arc::clone(&failures),
        });
        Ok(Arc::new(Self {
            state: Mutex::new(State { config, interrupts }),
            bars,
            rom: plan.rom.clone().map(Rom::new),
            plan,
            traps: TrapCounters::default(),
            failures,
            leaving: AtomicBool::new(false),
            host,
        }))
    }

    /// The device's address on the host.
    #[must_use]
    pub fn sbdf(&self) -> HostSbdf {
        self.plan.sbdf
    }

    /// The MSI or MSI-X vectors that the host signals, ascending.
    #[must_use]
    pub fn armed_vectors(&self) -> Vec<u32> {
        self.lock().interrupts.armed()
    }

    /// How often the host refused something at run time.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.count()
    }

    /// Interrupts that the host has taken for the device since it was opened, by kind and vector.
    /// Reads `/proc/interrupts`.
    #[must_use]
    pub fn interrupts(&self) -> Vec<DeviceInterrupt> {
        self.lock().interrupts.taken()
    }

    /// The guest's accesses to parts of BARs that are not mapped.
    #[must_use]
    pub fn bar_traps(&self) -> BarTraps {
        self.traps.counts()
    }

    /// Has the host signal `trigger` when the device reports an uncorrectable error.
    ///
    /// # Errors
    /// The errno of `VFIO_DEVICE_SET_IRQS`; `EINVAL` for a device without error reporting.
    pub fn set_error_trigger(&self, trigger: &EventFd) -> io::Result<()> {
        self.set_trigger(IrqIndex::Error, trigger)
    }

    /// Has the host signal `trigger` when it wants the device back.
    ///
    /// # Errors
    /// The errno of `VFIO_DEVICE_SET_IRQS`.
    pub fn set_request_trigger(&self, trigger: &EventFd) -> io::Result<()> {
        self.set_trigger(IrqIndex::Request, trigger)
    }

    fn set_trigger(&self, index: IrqIndex, trigger: &EventFd) -> io::Result<()> {
        let action = IrqAction::Trigger {
            start: 0,
            eventfds: &[Some(trigger)],
        };
        self.host.set_irqs(index, action)
    }

    /// What shares the one reset that there is for this function: all of it is this machine's, and
    /// [`PciFunction::reset`] leaves that reset to [`VfioPciDevice::reset_bus`]. Empty otherwise.
    #[must_use]
    pub fn shares_reset_with(&self) -> &[AffectedFunction] {
        match &self.plan.reset {
            ResetPlan::Bus(affected) => affected,
            ResetPlan::Function(_) | ResetPlan::None(_) => &[],
        }
    }

    /// Resets all of [`VfioPciDevice::shares_reset_with`]; each was reset as a [`PciFunction`] before.
    ///
    /// # Errors
    /// [`ResetError::Host`]; [`ResetError::Unsupported`] when one of them has left this machine.
    pub fn reset_bus(&self) -> Result<(), ResetError> {
        let affected = self.shares_reset_with();
        let reset = self.host.reset_bus(&reset::groups(affected));
        reset.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ResetError::Unsupported(format!(
                "not all of {} are this guest's any longer",
                reset::names(affected)
            )),
            _ => ResetError::Host(error),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the device's own configuration space, leaving the bits that are not its own as they
    /// are. Whether the host took it.
    fn forward(&self, config: &ConfigState, write: HardwareWrite) -> bool {
        let offset = write.offset.get();
        let mut bytes = write.bytes;
        let len = usize::from(write.len).min(bytes.len());
        let (data, _) = bytes.split_at_mut(len);
        let mask = config.mask(write.offset, len);
        let written = self
            .keep_masked(offset, mask, data)
            .and_then(|()| self.host.config_write(offset, data));
        let taken = self.report(written, "write", format_args!("config {offset:#05x}"));
        if config.starts_reset(offset, data)
            && let Some(command) = config.command_write()
        {
            // The kernel puts the registers back as they were before an FLR; the guest expects them
            // as after one.
            let written = self
                .host
                .config_write(command.offset.get(), self::written(&command));
            self.report(written, "write", format_args!("Command after FLR"));
        }
        taken
    }

    /// Puts the device's bits under `mask` into `data`.
    fn keep_masked(&self, offset: u16, mask: &[u8], data: &mut [u8]) -> io::Result<()> {
        if mask.iter().all(|mask| *mask == 0) {
            return Ok(());
        }
        let mut now = [0; 4];
        let (now, _) = now.split_at_mut(data.len());
        self.host.config_read(offset, now)?;
        for ((byte, mask), now) in data.iter_mut().zip(mask).zip(now) {
            *byte = *byte & !mask | *now & mask;
        }
        Ok(())
    }

    fn report(&self, result: io::Result<()>, verb: &str, place: std::fmt::Arguments<'_>) -> bool {
        if let Err(error) = &result {
            self.failures.report(format_args!(
                "{}: could not {verb} {place}: {error}",
                self.plan.sbdf
            ));
        }
        result.is_ok()
    }

    /// The same for a vCPU's access to a BAR. One that was on its way when the device left the bus finds it decoding nothing.
    fn report_access(
        &self,
        result: io::Result<()>,
        verb: &str,
        place: std::fmt::Arguments<'_>,
    ) -> bool {
        match &result {
            Err(error) if self.leaving.load(Ordering::Relaxed) => {
                log::debug!("{}: no {verb} {place} any more: {error}", self.plan.sbdf);
                false
            }
            _ => self.report(result, verb, place),
        }
    }

    /// Which MSI-X structure `offset` of `bar` is in.
    fn structure(&self, bar: BarIndex, offset: u64) -> Option<Structure> {
        let (_, msix) = self.plan.config.msix?;
        let within = |start: u32, len: u64| offset.checked_sub(start.into()).filter(|at| *at < len);
        let table = within(msix.table_offset, msix.table_size());
        let pba = within(msix.pba_offset, msix.pba_size());
        table
            .filter(|_| bar == msix.table_bar)
            .map(Structure::Table)
            .or_else(|| pba.filter(|_| bar == msix.pba_bar).map(Structure::Pba))
    }
}

/// The bytes of a write that count.
fn written(write: &HardwareWrite) -> &[u8] {
    let len = usize::from(write.len).min(write.bytes.len());
    write.bytes.split_at(len).0
}

/// Maps what is to be mapped of a BAR.
fn lay_out(host: &dyn VfioHost, sbdf: HostSbdf, bar: &BarPlan) -> Result<BarLayout, VfioError> {
    let mut segments = Vec::new();
    for planned in &bar.mappings {
        let (offset, len) = (planned.area.offset, planned.area.size);
        let failed = |source| VfioError::MapBar {
            sbdf,
            bar: bar.index.get(),
            offset,
            len,
            source,
        };
        let mapping = Arc::new(host.map(bar.index, offset, len).map_err(failed)?);
        for segment in &planned.segments {
            let range = usize::try_from(segment.offset - offset)
                .ok()
                .zip(usize::try_from(segment.size).ok())
                .and_then(|(start, len)| HostRange::new(Arc::clone(&mapping), start, len))
                .ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EINVAL)))?;
            segments.push(BarSegment {
                offset: segment.offset,
                host: range,
            });
        }
    }
    Ok(BarLayout {
        index: bar.index,
        kind: bar.kind,
        size: bar.size,
        segments,
    })
}

impl PciFunction for VfioPciDevice {
    fn name(&self) -> &str {
        &self.plan.name
    }

    fn config_read(&self, offset: ConfigOffset, data: &mut [u8]) {
        let state = self.lock();
        if !state.config.contains(offset) {
            return data.fill(0xff);
        }
        if state.config.any_real(offset, data.len()) {
            let read = self.host.config_read(offset.get(), data);
            if !self.report(read, "read", format_args!("config {:#05x}", offset.get())) {
                return data.fill(0xff);
            }
        }
        let pending = || state.interrupts.pending_bits();
        state.config.overlay(offset, data, pending);
    }

    fn config_write(&self, offset: ConfigOffset, data: &[u8]) -> Vec<ConfigStep> {
        let mut state = self.lock();
        if !state.config.contains(offset) || !matches!(data.len(), 1 | 2 | 4) {
            return Vec::new();
        }
        let effect = state.config.write(offset, data);
        if effect.interrupts {
            state.update_interrupts();
        }
        if effect.unmaps() {
            return remap(&effect.before, &effect.after, effect.hardware);
        }
        let forwarded = effect
            .hardware
            .is_none_or(|write| self.forward(&state.config, write));
        if !forwarded && effect.after != effect.before {
            // Memory that the device doesn't decode must not be mapped: touching it ends the guest.
            state.config.stop_decoding();
            return Vec::new();
        }
        remap(&effect.before, &effect.after, None)
    }

    fn starts_dma(&self, offset: ConfigOffset, data: &[u8]) -> bool {
        starts_bus_mastering(offset, data)
    }

    fn commit(&self, write: HardwareWrite) {
        self.forward(&self.lock().config, write);
    }

    fn bars(&self) -> &[BarLayout] {
        &self.bars
    }

    fn assign_bar(&self, bar: BarIndex, base: u64) {
        self.lock().config.bars.assign(bar, base);
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, data: &mut [u8]) {
        self.traps.read(bar, offset);
        let place = self.structure(bar, offset);
        let Some(place) = place else {
            let read = match &self.rom {
                Some(rom) if bar == BarIndex::ROM => rom.read(self.host.as_ref(), offset, data),
                _ => self.host.bar_read(bar, offset, data),
            };
            if !self.report_access(read, "read", format_args!("{bar} at {offset:#x}")) {
                data.fill(0xff);
            }
            return;
        };
        let state = self.lock();
        let pending = |vector: u16| state.interrupts.pending(u32::from(vector));
        match (place, &state.config.msix) {
            (Structure::Table(at), Some(table)) => table.read(at, data),
            (Structure::Pba(at), Some(table)) => table.read_pba(at, data, pending),
            (_, None) => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) {
        self.traps.write(bar, offset);
        if bar == BarIndex::ROM {
            return;
        }
        match self.structure(bar, offset) {
            Some(Structure::Table(at)) => {
                let mut state = self.lock();
                let State { config, interrupts } = &mut *state;
                if let Some(table) = &mut config.msix
                    && let Some(vector) = table.write(at, data)
                {
                    interrupts.update_vector(table, vector);
                }
            }
            // The PBA is read-only.
            Some(Structure::Pba(_)) => {}
            None => {
                let written = self.host.bar_write(bar, offset, data);
                self.report_access(written, "write", format_args!("{bar} at {offset:#x}"));
            }
        }
    }

    fn quiesce(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.interrupts.disable();
        if let Some(write) = state.config.stop_bus_mastering() {
            self.forward(&state.config, write);
        }
    }

    fn stop_decoding(&self) -> Vec<ConfigStep> {
        let (before, write) = self.lock().config.stop_decoding();
        remap(&before, &[], write)
    }

    fn reset(&self) -> Result<(), ResetError> {
        let mut state = self.lock();
        state.interrupts.disable();
        let wake = state.config.wake();
        state.config.reset();
        let command = state.config.command_write();
        for write in [wake, command].into_iter().flatten() {
            self.forward(&state.config, write);
        }
        match &self.plan.reset {
            ResetPlan::Function(_) => self.host.reset().map_err(ResetError::Host),
            // Once for all of them, when all are quiet.
            ResetPlan::Bus(_) => Ok(()),
            ResetPlan::None(why) => Err(ResetError::Unsupported(why.clone())),
        }
    }
}

impl Drop for VfioPciDevice {
    /// A machine that was taken apart in order has done this; one that ended before it ran properly has not, and the IOMMU
    /// lets go of guest RAM before the last device is closed.
    fn drop(&mut self) {
        let mut state = self.lock();
        state.interrupts.disable();
        if state.config.command.contains(Command::BUS_MASTER)
            && let Some(write) = state.config.stop_bus_mastering()
        {
            self.forward(&state.config, write);
        }
    }
}
