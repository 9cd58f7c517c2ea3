//! A passed-through function's interrupts: what the guest wants against what the host has armed
//! (`drivers/vfio/pci/vfio_pci_intrs.c`).
//!
//! vfio-pci has one of INTx, MSI and MSI-X enabled at a time. A vector that was armed once stays
//! armed until MSI-X is disabled: a masked vector is detached from its GSI and waits in its eventfd.

use super::host::{IrqIndex, VfioHost};
use super::plan::InterruptPlan;
use super::sys::IrqAction;
use crate::failures::Failures;
use crate::host::{DeviceInterrupt, DeviceInterruptType};
use crate::interrupt::{IntxRouter, MsiMessage, MsiRouter, MsiVector};
use crate::pci::HostSbdf;
use crate::pci::msi::MsiState;
use crate::pci::msix::MsixTable;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the guest wants to be interrupted by.
#[derive(Clone, Copy)]
pub(super) struct Wishes<'a> {
    pub(super) msi: Option<&'a MsiState>,
    pub(super) msix: Option<&'a MsixTable>,
    /// The function decodes something and INTx isn't disabled.
    pub(super) intx: bool,
}

/// The way of interrupting that is enabled on the host.
enum Mode {
    Off,
    Intx(Intx),
    /// With this many vectors.
    Msi(u8),
    MsiX(MsiX),
}

/// An enabled INTx line.
struct Intx {
    gsi: u32,
    trigger: EventFd,
    resample: EventFd,
    /// What the host had counted for the pin by then. Unlike a vector's, that count outlives its user.
    counted_before: u64,
}

/// MSI-X on the host.
#[derive(Clone, Copy, Default)]
struct MsiX {
    /// Vectors that can be armed without disabling MSI-X first. 0: enabling it failed.
    reach: u32,
}

struct Vector {
    msi: Box<dyn MsiVector>,
    /// The message it is attached with.
    attached: Option<MsiMessage>,
    /// The host signals its eventfd.
    armed: bool,
}

/// What a function's interrupts need of the outside. None of it calls back.
pub(super) struct InterruptParts {
    pub(super) sbdf: HostSbdf,
    pub(super) plan: InterruptPlan,
    pub(super) host: Arc<dyn VfioHost>,
    pub(super) msi: Arc<dyn MsiRouter>,
    pub(super) intx: Arc<dyn IntxRouter>,
    pub(super) failures: Arc<Failures>,
}

/// A function's interrupts.
pub(super) struct Interrupts {
    parts: InterruptParts,
    mode: Mode,
    vectors: BTreeMap<u32, Vector>,
    /// Taken by vectors that are disarmed by now: the kernel forgets its own count then.
    counted: BTreeMap<(DeviceInterruptType, u16), u64>,
}

impl Interrupts {
    pub(super) fn new(parts: InterruptParts) -> Self {
        Self {
            parts,
            mode: Mode::Off,
            vectors: BTreeMap::new(),
            counted: BTreeMap::new(),
        }
    }

    /// Brings the host to what the guest wants.
    pub(super) fn update(&mut self, wishes: Wishes<'_>) {
        let msix = wishes.msix.filter(|table| table.state().enable);
        let msi = wishes.msi.filter(|msi| msi.enabled());
        let intx = self.parts.plan.intx_gsi.filter(|_| wishes.intx);
        match (msix, msi, intx) {
            (Some(table), _, _) => {
                if !matches!(self.mode, Mode::MsiX(_)) {
                    self.disable();
                    self.enable_msix();
                }
                self.sync_msix(table);
            }
            (None, Some(msi), _) => {
                if !matches!(self.mode, Mode::Msi(vectors) if vectors == msi.vectors()) {
                    self.disable();
                    self.enable_msi(msi);
                }
                self.sync_msi(msi);
            }
            (None, None, Some(gsi)) => {
                if !matches!(self.mode, Mode::Intx(_)) {
                    self.disable();
                    self.enable_intx(gsi);
                }
            }
            (None, None, None) => self.disable(),
        }
    }

    /// Brings one MSI-X vector to what the guest wants of it.
    pub(super) fn update_vector(&mut self, table: &MsixTable, vector: u16) {
        if let Mode::MsiX(_) = self.mode {
            self.sync_vector(vector, table.wanted(vector));
        }
    }

    /// Whether an interrupt of `vector` waits to be unmasked.
    pub(super) fn pending(&self, vector: u32) -> bool {
        self.vectors
            .get(&vector)
            .is_some_and(|vector| vector.attached.is_none() && vector.msi.pending())
    }

    /// The pending bits of the first 32 vectors.
    pub(super) fn pending_bits(&self) -> u32 {
        (0..32)
            .filter(|vector| self.pending(*vector))
            .fold(0, |bits, vector| bits | 1 << vector)
    }

    /// The vectors that the host signals, ascending.
    pub(super) fn armed(&self) -> Vec<u32> {
        let armed = self.vectors.iter().filter(|(_, vector)| vector.armed);
        armed.map(|(vector, _)| *vector).collect()
    }

    /// Interrupts that the host has taken for the function since it was opened.
    pub(super) fn taken(&self) -> Vec<DeviceInterrupt> {
        let mut sum = self.counted.clone();
        for interrupt in self.taken_now() {
            *sum.entry((interrupt.kind, interrupt.vector)).or_default() += interrupt.count;
        }
        sum.into_iter()
            .map(|((kind, vector), count)| DeviceInterrupt {
                kind,
                vector,
                count,
            })
            .collect()
    }

    /// Interrupts that the host has taken since what is armed now was armed.
    fn taken_now(&self) -> Vec<DeviceInterrupt> {
        let mut taken = self.parts.host.interrupts();
        if let Mode::Intx(line) = &self.mode {
            for pin in taken.iter_mut().filter(|taken| is_pin(taken)) {
                pin.count = pin.count.saturating_sub(line.counted_before);
            }
        }
        taken
    }

    /// Disarms everything on the host, then gives the GSIs back.
    pub(super) fn disable(&mut self) {
        // vfio-pci refuses to disable what it couldn't enable.
        let (index, enabled) = match &self.mode {
            Mode::Off => return,
            Mode::Intx(_) => (IrqIndex::Intx, true),
            Mode::Msi(_) => (IrqIndex::Msi, !self.armed().is_empty()),
            Mode::MsiX(msix) => (IrqIndex::MsiX, msix.reach > 0),
        };
        if enabled {
            for interrupt in self.taken_now() {
                let counted = self.counted.entry((interrupt.kind, interrupt.vector));
                *counted.or_default() += interrupt.count;
            }
            let disabled = self.parts.host.set_irqs(index, IrqAction::Disable);
            self.parts.report(disabled, || format!("disable {index:?}"));
        }
        if let Mode::Intx(line) = std::mem::replace(&mut self.mode, Mode::Off) {
            let detached = self.parts.intx.detach(line.gsi, &line.trigger);
            let what = || format!("detach INTx from GSI {}", line.gsi);
            self.parts.report(detached, what);
        }
        self.vectors.clear();
    }

    fn enable_msix(&mut self) {
        let mut msix = MsiX::default();
        // Enabled before any vector is in use: firmware may look at the device's own enable bit.
        let first = IrqAction::Trigger {
            start: 0,
            eventfds: &[None],
        };
        let enabled = self.parts.host.set_irqs(IrqIndex::MsiX, first);
        if self.parts.report(enabled, || "enable MSI-X".to_owned()) {
            msix.reach = if self.parts.plan.msix_resizable {
                u32::MAX
            } else {
                1
            };
        }
        self.mode = Mode::MsiX(msix);
    }

    fn sync_msix(&mut self, table: &MsixTable) {
        let wanted: Vec<u16> = table.in_use().collect();
        let unwanted: Vec<u16> = self
            .vectors
            .keys()
            .filter_map(|vector| u16::try_from(*vector).ok())
            .filter(|vector| table.wanted(*vector).is_none())
            .collect();
        for vector in unwanted {
            self.sync_vector(vector, None);
        }
        // From the highest down: where adding a vector re-arms all, it happens once.
        for vector in wanted.into_iter().rev() {
            self.sync_vector(vector, table.wanted(vector));
        }
    }

    fn sync_vector(&mut self, vector: u16, wanted: Option<MsiMessage>) {
        let vector = u32::from(vector);
        let result = match wanted {
            Some(message) => self
                .attach(vector, message)
                .and_then(|()| self.arm_msix(vector)),
            None => self.detach(vector),
        };
        let what = || match wanted {
            Some(_) => format!("arm MSI-X vector {vector}"),
            None => format!("mask MSI-X vector {vector}"),
        };
        self.parts.report(result, what);
    }

    /// Attaches `vector` with `message`, getting a GSI for it first if it has none.
    fn attach(&mut self, vector: u32, message: MsiMessage) -> io::Result<()> {
        let entry = match self.vectors.entry(vector) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Vector {
                msi: self.parts.msi.allocate()?,
                attached: None,
                armed: false,
            }),
        };
        if entry.attached != Some(message) {
            entry.msi.attach(message)?;
            entry.attached = Some(message);
        }
        Ok(())
    }

    fn detach(&mut self, vector: u32) -> io::Result<()> {
        match self.vectors.get_mut(&vector) {
            Some(entry) if entry.attached.is_some() => {
                entry.msi.detach()?;
                entry.attached = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Has the host signal `vector`, if it doesn't yet.
    fn arm_msix(&mut self, vector: u32) -> io::Result<()> {
        let Mode::MsiX(msix) = self.mode else {
            return Ok(());
        };
        if vector >= msix.reach {
            return self.extend_msix(msix.reach, vector + 1);
        }
        let Some(entry) = self.vectors.get_mut(&vector).filter(|entry| !entry.armed) else {
            return Ok(());
        };
        let trigger = IrqAction::Trigger {
            start: vector,
            eventfds: &[Some(entry.msi.trigger())],
        };
        self.parts.host.set_irqs(IrqIndex::MsiX, trigger)?;
        entry.armed = true;
        Ok(())
    }

    /// Makes room for `wanted` vectors by disabling MSI-X and arming again what was armed. What the
    /// device signals in between is lost, so each vector that was armed gets an interrupt for it: one
    /// too many does no harm, one too few may stop a driver.
    fn extend_msix(&mut self, reach: u32, wanted: u32) -> io::Result<()> {
        let armed = self.armed();
        if reach > 0 {
            log::info!(
                "{}: this kernel can't add MSI-X vector {} in place: the {} in use were briefly off",
                self.parts.sbdf,
                wanted - 1,
                armed.len()
            );
            self.parts
                .host
                .set_irqs(IrqIndex::MsiX, IrqAction::Disable)?;
        }
        let result = self.arm_first(wanted);
        if result.is_err() && reach > 0 {
            let restored = self.arm_first(reach);
            self.parts
                .report(restored, || format!("arm {reach} MSI-X vectors again"));
        }
        for vector in armed {
            let entry = self.vectors.get(&vector);
            let signalled = entry.map_or(Ok(()), |entry| entry.msi.trigger().write(1));
            self.parts
                .report(signalled, || format!("signal MSI-X vector {vector}"));
        }
        result
    }

    /// Enables MSI-X, which is disabled, with `count` vectors.
    fn arm_first(&mut self, count: u32) -> io::Result<()> {
        let eventfds: Vec<Option<&EventFd>> = (0..count)
            .map(|vector| self.vectors.get(&vector).map(|entry| entry.msi.trigger()))
            .collect();
        let trigger = IrqAction::Trigger {
            start: 0,
            eventfds: &eventfds,
        };
        let result = self.parts.host.set_irqs(IrqIndex::MsiX, trigger);
        let reach = match (&result, self.parts.plan.msix_resizable) {
            (Err(_), _) => 0,
            (Ok(()), true) => u32::MAX,
            (Ok(()), false) => count,
        };
        for (vector, entry) in &mut self.vectors {
            entry.armed = reach > 0 && *vector < count;
        }
        self.mode = Mode::MsiX(MsiX { reach });
        result
    }

    /// Enables MSI with what the guest granted. MSI vectors can't be armed one by one.
    fn enable_msi(&mut self, msi: &MsiState) {
        self.mode = Mode::Msi(msi.vectors());
        for vector in 0..msi.vectors() {
            let allocated = self.parts.msi.allocate().map(|msi| Vector {
                msi,
                attached: None,
                armed: false,
            });
            match allocated {
                Ok(entry) => {
                    self.vectors.insert(u32::from(vector), entry);
                }
                Err(error) => {
                    let what = || format!("get a GSI for MSI vector {vector}");
                    self.parts.report(Err(error), what);
                }
            }
        }
        // Attached first, so that the first interrupt finds its way.
        self.sync_msi(msi);
        let eventfds: Vec<Option<&EventFd>> = (0..u32::from(msi.vectors()))
            .map(|vector| self.vectors.get(&vector).map(|entry| entry.msi.trigger()))
            .collect();
        let arm = |count: usize| {
            let trigger = IrqAction::Trigger {
                start: 0,
                eventfds: eventfds.get(..count).unwrap_or(&eventfds),
            };
            self.parts.host.set_irqs(IrqIndex::Msi, trigger)
        };
        let mut count = eventfds.len();
        let mut armed = arm(count);
        if armed.is_err() && count > 1 {
            // A host without interrupt remapping has no blocks of vectors.
            log::warn!(
                "{}: the host can't arm {count} MSI vectors, arming one",
                self.parts.sbdf
            );
            count = 1;
            armed = arm(count);
        }
        if self
            .parts
            .report(armed, || format!("arm {count} MSI vectors"))
        {
            self.vectors
                .values_mut()
                .take(count)
                .for_each(|entry| entry.armed = true);
        }
    }

    fn sync_msi(&mut self, msi: &MsiState) {
        for vector in 0..msi.vectors() {
            let index = u32::from(vector);
            if !self.vectors.contains_key(&index) {
                continue;
            }
            let result = match msi.wanted(vector) {
                Some(message) => self.attach(index, message),
                None => self.detach(index),
            };
            self.parts
                .report(result, || format!("route MSI vector {vector}"));
        }
    }

    fn enable_intx(&mut self, gsi: u32) {
        let enabled = self.parts.open_intx(gsi);
        match enabled {
            Ok(line) => self.mode = Mode::Intx(line),
            Err(error) => {
                let what = || format!("wire INTx to GSI {gsi}");
                self.parts.report(Err(error), what);
            }
        }
    }
}

fn is_pin(interrupt: &DeviceInterrupt) -> bool {
    interrupt.kind == DeviceInterruptType::Intx
}

impl InterruptParts {
    /// Reports a failure with the device's address; whether there was none.
    fn report(&self, result: io::Result<()>, what: impl FnOnce() -> String) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.failures
                    .report(format_args!("{}: could not {}: {error}", self.sbdf, what()));
                false
            }
        }
    }

    /// Wires the line: the host signals `trigger` and masks the line; the guest's end of interrupt
    /// signals `resample`, by which the host unmasks it.
    fn open_intx(&self, gsi: u32) -> io::Result<Intx> {
        let mut line = Intx {
            gsi,
            trigger: EventFd::new(EFD_NONBLOCK)?,
            resample: EventFd::new(EFD_NONBLOCK)?,
            counted_before: 0,
        };
        self.intx.attach(gsi, &line.trigger, &line.resample)?;
        let trigger = IrqAction::Trigger {
            start: 0,
            eventfds: &[Some(&line.trigger)],
        };
        let wired = self.host.set_irqs(IrqIndex::Intx, trigger).and_then(|()| {
            // The pin has a row, and the device's name in it, only from here on.
            let rows = self.host.interrupts();
            line.counted_before = rows
                .iter()
                .find(|row| is_pin(row))
                .map_or(0, |row| row.count);
            let unmask = IrqAction::UnmaskOn(&line.resample);
            let result = self.host.set_irqs(IrqIndex::Intx, unmask);
            if result.is_err() {
                let disabled = self.host.set_irqs(IrqIndex::Intx, IrqAction::Disable);
                self.report(disabled, || "disable INTx".to_owned());
            }
            result
        });
        if wired.is_err() {
            let detached = self.intx.detach(gsi, &line.trigger);
            self.report(detached, || format!("detach INTx from GSI {gsi}"));
        }
        wired.map(|()| line)
    }
}
