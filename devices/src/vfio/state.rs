//! What of a passed-through function's configuration space Ferry answers for, and how a guest's
//! write changes it.

use super::config::{ConfigBytes, ConfigPlan};
use crate::pci::header::{self, Command};
use crate::pci::msi::MsiState;
use crate::pci::msix::{self, MsixTable};
use crate::pci::{BarError, BarIndex, BarLayout, BarSet, ConfigOffset, HardwareWrite};

/// The BARs that decode, with their guest addresses.
pub(super) type Decoded = Vec<(BarIndex, u64)>;

/// The power state in which a function works.
const D0: u8 = 0;
/// Power Management Control/Status: PowerState.
const POWER_STATE: u8 = 3;

/// The virtual part of configuration space.
pub(super) struct ConfigState {
    plan: ConfigPlan,
    bytes: ConfigBytes,
    pub(super) bars: BarSet,
    pub(super) command: Command,
    /// 0 for D0 to 3 for D3hot.
    power: u8,
    interrupt_line: u8,
    pub(super) msi: Option<MsiState>,
    pub(super) msix: Option<MsixTable>,
}

/// What a guest's config write comes to.
pub(super) struct WriteEffect {
    /// The write, if a bit of the device's is in it.
    pub(super) hardware: Option<HardwareWrite>,
    pub(super) before: Decoded,
    pub(super) after: Decoded,
    /// The interrupts that the guest wants may be others now.
    pub(super) interrupts: bool,
}

impl WriteEffect {
    /// Whether a BAR leaves the place where it was.
    pub(super) fn unmaps(&self) -> bool {
        self.before.iter().any(|bar| !self.after.contains(bar))
    }
}

/// The byte that a write of `data` at `start` puts at `offset`.
fn byte_at(start: u16, data: &[u8], offset: u16) -> Option<u8> {
    data.get(usize::from(offset.checked_sub(start)?)).copied()
}

/// Whether a write of `data` at `offset` turns bus mastering on. Without it the device can do no DMA, its message-signalled
/// interrupts included (PCI 3.0 section 6.2.2); vfio-pci turns it off when it opens a device.
pub(super) fn starts_bus_mastering(offset: ConfigOffset, data: &[u8]) -> bool {
    let low = byte_at(offset.get(), data, header::COMMAND);
    low.is_some_and(|low| Command::from_bits_truncate(low.into()).contains(Command::BUS_MASTER))
}

impl ConfigState {
    /// The state after power-on.
    pub(super) fn new(plan: &ConfigPlan, layouts: &[BarLayout]) -> Result<Self, BarError> {
        Ok(Self {
            bytes: ConfigBytes::new(plan),
            bars: BarSet::new(layouts)?,
            command: Command::empty(),
            power: D0,
            interrupt_line: 0,
            msi: plan.msi.map(|(_, layout)| MsiState::new(layout)),
            msix: plan.msix.and_then(|(_, msix)| MsixTable::new(msix.entries)),
            plan: plan.clone(),
        })
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        let Self {
            plan: _,
            bytes: _,
            bars,
            command,
            power,
            interrupt_line,
            msi,
            msix,
        } = self;
        bars.reset();
        *command = Command::empty();
        *power = D0;
        *interrupt_line = 0;
        if let Some(msi) = msi {
            msi.reset();
        }
        if let Some(msix) = msix {
            msix.reset();
        }
    }

    /// Where the BARs decode now: nowhere outside D0.
    pub(super) fn decoded(&self) -> Decoded {
        if self.power == D0 {
            self.bars.decoded(self.command).collect()
        } else {
            Vec::new()
        }
    }

    /// The write that brings the function back to D0, if it isn't there.
    pub(super) fn wake(&self) -> Option<HardwareWrite> {
        let power = self.plan.power.filter(|_| self.power != D0)?;
        hardware_write(ConfigOffset::new(power.control)?, &[0, 0])
    }

    /// Whether reading `len` bytes at `offset` asks the device.
    pub(super) fn any_real(&self, offset: ConfigOffset, len: usize) -> bool {
        self.bytes.any_real(offset, len)
    }

    /// The bits of the `len` bytes at `offset` that must not be written to the device.
    pub(super) fn mask(&self, offset: ConfigOffset, len: usize) -> &[u8] {
        self.bytes.mask(offset, len)
    }

    /// Whether configuration space reaches as far as `offset`.
    pub(super) fn contains(&self, offset: ConfigOffset) -> bool {
        offset.get() < self.plan.len
    }

    /// Puts the virtual bits over what the device gave. `pending` says which MSI vectors are
    /// pending; asked only where it shows.
    pub(super) fn overlay(
        &self,
        offset: ConfigOffset,
        data: &mut [u8],
        pending: impl FnOnce() -> u32,
    ) {
        self.bytes.overlay(offset, data);
        if BarSet::contains(offset) {
            self.bars.read(offset, data);
        }
        let start = offset.get();
        let mut put = |at: u16, value: u8| {
            let index = at.checked_sub(start).map(usize::from);
            if let Some(byte) = index.and_then(|index| data.get_mut(index)) {
                *byte = value;
            }
        };
        put(header::INTERRUPT_LINE, self.interrupt_line);
        if let (Some((at, _)), Some(msix)) = (self.plan.msix, &self.msix) {
            let [low, high] = msix.control().to_le_bytes();
            put(at + msix::MESSAGE_CONTROL, low);
            put(at + msix::MESSAGE_CONTROL + 1, high);
        }
        if let (Some((at, layout)), Some(msi)) = (self.plan.msi, &self.msi)
            && (at..at + layout.len()).contains(&start)
        {
            let shows = layout.pending_offset().is_some_and(|p| start >= at + p);
            let pending = if shows { pending() } else { 0 };
            msi.read(start - at, data, pending);
        }
    }

    /// Takes a guest's write of 1, 2 or 4 bytes inside a dword.
    pub(super) fn write(&mut self, offset: ConfigOffset, data: &[u8]) -> WriteEffect {
        let before = self.decoded();
        let start = offset.get();
        let mut interrupts = self.write_command(start, data);
        interrupts |= self.write_messages(start, data);
        self.bars.write(offset, data);
        if let Some(line) = byte_at(start, data, header::INTERRUPT_LINE) {
            self.interrupt_line = line;
        }
        // vfio-pci takes the power state only from a write that starts at its register.
        if let Some(power) = self.plan.power.filter(|power| power.control == start) {
            let state = data.first().map_or(D0, |byte| byte & POWER_STATE);
            self.power = power.entered(state, self.power);
        }
        if self.starts_reset(start, data) {
            self.reset();
            interrupts = true;
        }
        let hardware = self
            .any_real(offset, data.len())
            .then(|| hardware_write(offset, data))
            .flatten();
        WriteEffect {
            hardware,
            before,
            after: self.decoded(),
            interrupts,
        }
    }

    /// Whether a write of `data` at `start` initiates an FLR.
    pub(super) fn starts_reset(&self, start: u16, data: &[u8]) -> bool {
        self.plan
            .resets
            .iter()
            .any(|reset| byte_at(start, data, reset.offset).is_some_and(|b| b & reset.bit != 0))
    }

    /// The Command register; whether it was written.
    fn write_command(&mut self, start: u16, data: &[u8]) -> bool {
        let [low, high] = self.command.bits().to_le_bytes();
        let new_low = byte_at(start, data, header::COMMAND);
        let new_high = byte_at(start, data, header::COMMAND + 1);
        let bits = u16::from_le_bytes([new_low.unwrap_or(low), new_high.unwrap_or(high)]);
        self.command = Command::from_bits_truncate(bits);
        new_low.is_some() || new_high.is_some()
    }

    /// The MSI and MSI-X capabilities; whether one was written.
    fn write_messages(&mut self, start: u16, data: &[u8]) -> bool {
        if let (Some((at, layout)), Some(msi)) = (self.plan.msi, &mut self.msi)
            && (at..at + layout.len()).contains(&start)
        {
            msi.write(start - at, data);
            return true;
        }
        if let (Some((at, _)), Some(msix)) = (self.plan.msix, &mut self.msix)
            && (at..at + msix::CAPABILITY_LEN).contains(&start)
        {
            msix.write_capability(start - at, data);
            return true;
        }
        false
    }

    /// Turns decoding off; the write that does so in hardware.
    pub(super) fn stop_decoding(&mut self) -> (Decoded, Option<HardwareWrite>) {
        let before = self.decoded();
        let decoding = Command::IO_SPACE | Command::MEMORY_SPACE;
        if !self.command.intersects(decoding) {
            return (before, None);
        }
        self.command.remove(decoding);
        (before, self.command_write())
    }

    /// Turns bus mastering off; the write that does so in hardware.
    pub(super) fn stop_bus_mastering(&mut self) -> Option<HardwareWrite> {
        self.command.remove(Command::BUS_MASTER);
        self.command_write()
    }

    /// The write that makes the hardware's Command register the guest's.
    pub(super) fn command_write(&self) -> Option<HardwareWrite> {
        let offset = ConfigOffset::new(header::COMMAND)?;
        hardware_write(offset, &self.command.bits().to_le_bytes())
    }
}

/// `None` for a length that configuration space doesn't take.
fn hardware_write(offset: ConfigOffset, data: &[u8]) -> Option<HardwareWrite> {
    let mut bytes = [0; 4];
    bytes.get_mut(..data.len())?.copy_from_slice(data);
    Some(HardwareWrite {
        offset,
        bytes,
        len: u8::try_from(data.len()).ok()?,
    })
}
