//! Base Address Registers as a guest sees them (PCI 3.0 sections 6.2.5.1 and 6.2.5.2).

use super::header::{self, Command};
use super::{BarIndex, BarKind, BarLayout, ConfigOffset, ConfigStep, HardwareWrite};

/// A BAR that no register can describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// The size is no power of two or out of the register's reach.
    #[error("{bar} can't have a size of {size:#x} bytes")]
    Size {
        /// Which BAR.
        bar: BarIndex,
        /// Its size.
        size: u64,
    },
    /// Two BARs need the same register, or a 64-bit BAR has no second one.
    #[error("{bar} finds its register taken")]
    Register {
        /// Which BAR.
        bar: BarIndex,
    },
    /// The expansion ROM's size is no power of two from 2 KiB to 16 MiB.
    #[error("an expansion ROM can't have a size of {0:#x} bytes")]
    Rom(u64),
}

/// Bit 0: the BAR decodes I/O ports.
const IO_SPACE: u32 = 1 << 0;
/// Bits 2:1 of a memory BAR: 64 bits wide.
const MEMORY_64: u32 = 0b10 << 1;
/// Bit 3 of a memory BAR.
const PREFETCHABLE: u32 = 1 << 3;
/// Where the address starts in a memory BAR.
const MEMORY_FLAGS: u32 = 0xf;
/// A PC has 64 Ki ports: the upper half of an I/O BAR is hardwired to zero, as the specification
/// allows.
const IO_PORTS: u32 = 0xffff;
const IO_SIZES: std::ops::RangeInclusive<u64> = 4..=0x1_0000;
const MEMORY_32_SIZES: std::ops::RangeInclusive<u64> = 16..=1 << 31;
const MEMORY_64_SIZES: std::ops::RangeInclusive<u64> = 16..=1 << 63;
const ROM_SIZES: std::ops::RangeInclusive<u64> = 0x800..=0x100_0000;

/// Index of the expansion ROM register, behind the BARs.
const ROM: usize = BarIndex::COUNT as usize;
/// Number of registers.
const COUNT: usize = ROM + 1;

/// One register: what the guest wrote, and which bits of it are real.
#[derive(Clone, Copy, Debug, Default)]
struct Register {
    address: u32,
    writable: u32,
    flags: u32,
}

impl Register {
    fn value(self) -> u32 {
        self.address | self.flags
    }

    fn set(&mut self, value: u32) {
        self.address = value & self.writable;
    }
}

/// The six BAR registers and the expansion ROM register of a function.
///
/// A 64-bit BAR takes two registers and is one BAR. What a register holds is a plain value: zero and
/// the all-ones of a sizing write are addresses like any other, and whether an address is inside a
/// window is for the caller to say.
#[derive(Clone, Debug)]
pub struct BarSet {
    registers: [Register; COUNT],
    kinds: [Option<BarKind>; COUNT],
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

impl BarSet {
    /// Registers for `layouts`, all holding address 0.
    ///
    /// # Errors
    /// [`BarError`] when a size or the choice of registers is impossible.
    pub fn new(layouts: &[BarLayout]) -> Result<Self, BarError> {
        let mut set = Self {
            registers: [Register::default(); COUNT],
            kinds: [None; COUNT],
        };
        let mut taken = [false; ROM];
        for layout in layouts {
            let (bar, size) = (layout.index, layout.size);
            if bar == BarIndex::ROM {
                set.implement_rom(size)?;
                continue;
            }
            let (sizes, registers) = match layout.kind {
                BarKind::Io => (IO_SIZES, 1),
                BarKind::Memory32 { .. } => (MEMORY_32_SIZES, 1),
                BarKind::Memory64 { .. } => (MEMORY_64_SIZES, 2),
            };
            if !size.is_power_of_two() || !sizes.contains(&size) {
                return Err(BarError::Size { bar, size });
            }
            let first = usize::from(bar.get());
            let slots = taken
                .get_mut(first..first + registers)
                .ok_or(BarError::Register { bar })?;
            if slots.contains(&true) {
                return Err(BarError::Register { bar });
            }
            slots.fill(true);
            set.implement(first, layout.kind, size);
        }
        Ok(set)
    }

    fn implement(&mut self, first: usize, kind: BarKind, size: u64) {
        let (low, high) = halves(!(size - 1));
        let memory = |prefetchable| Register {
            address: 0,
            writable: low & !MEMORY_FLAGS,
            flags: if prefetchable { PREFETCHABLE } else { 0 },
        };
        self.kinds[first] = Some(kind);
        match kind {
            BarKind::Io => {
                self.registers[first] = Register {
                    address: 0,
                    writable: low & IO_PORTS,
                    flags: IO_SPACE,
                };
            }
            BarKind::Memory32 { prefetchable } => self.registers[first] = memory(prefetchable),
            BarKind::Memory64 { prefetchable } => {
                self.registers[first] = memory(prefetchable);
                self.registers[first].flags |= MEMORY_64;
                self.registers[first + 1] = Register {
                    address: 0,
                    writable: high,
                    flags: 0,
                };
            }
        }
    }

    fn implement_rom(&mut self, size: u64) -> Result<(), BarError> {
        if !size.is_power_of_two() || !ROM_SIZES.contains(&size) {
            return Err(BarError::Rom(size));
        }
        let (low, _) = halves(!(size - 1));
        self.kinds[ROM] = Some(BarKind::Memory32 {
            prefetchable: false,
        });
        self.registers[ROM] = Register {
            address: 0,
            writable: low | header::EXPANSION_ROM_ENABLE,
            flags: 0,
        };
        Ok(())
    }

    /// The register at `offset` and the byte in it.
    fn locate(offset: ConfigOffset) -> Option<(usize, usize)> {
        let bars_end = header::BAR0 + 4 * u16::from(BarIndex::COUNT);
        let register = match offset.get() & !3 {
            header::EXPANSION_ROM => ROM,
            bar if (header::BAR0..bars_end).contains(&bar) => usize::from((bar - header::BAR0) / 4),
            _ => return None,
        };
        Some((register, usize::from(offset.get() & 3)))
    }

    /// Whether `offset` lies in one of the seven registers.
    #[must_use]
    pub fn contains(offset: ConfigOffset) -> bool {
        Self::locate(offset).is_some()
    }

    /// Reads from the register that holds `offset`; all ones outside the registers and beyond the
    /// end of the dword.
    pub fn read(&self, offset: ConfigOffset, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((register, byte)) = Self::locate(offset) {
            let bytes = self.registers[register].value().to_le_bytes();
            for (to, from) in data.iter_mut().zip(&bytes[byte..]) {
                *to = *from;
            }
        }
    }

    /// Writes to the register that holds `offset`; bytes not written keep their value, flags and
    /// size bits can't be written. No effect outside the registers.
    pub fn write(&mut self, offset: ConfigOffset, data: &[u8]) {
        if let Some((register, byte)) = Self::locate(offset) {
            let mut bytes = self.registers[register].value().to_le_bytes();
            for (to, from) in bytes[byte..].iter_mut().zip(data) {
                *to = *from;
            }
            self.registers[register].set(u32::from_le_bytes(bytes));
        }
    }

    /// The address that `bar` holds; 0 for a register that is no BAR.
    #[must_use]
    pub fn base(&self, bar: BarIndex) -> u64 {
        let first = usize::from(bar.get());
        let mut low = u64::from(self.registers[first].address);
        if bar == BarIndex::ROM {
            low &= !u64::from(header::EXPANSION_ROM_ENABLE);
        }
        match self.kinds[first] {
            Some(BarKind::Memory64 { .. }) => {
                low | u64::from(self.registers[first + 1].address) << 32
            }
            Some(_) => low,
            None => 0,
        }
    }

    /// What `bar` decodes; `None` for a register that is no BAR, such as an upper half.
    #[must_use]
    pub fn kind(&self, bar: BarIndex) -> Option<BarKind> {
        self.kinds[usize::from(bar.get())]
    }

    /// Sets the address that `bar` holds. Bits below the BAR's size and beyond the register's width
    /// are dropped, as in a guest's write. An expansion ROM is disabled.
    pub fn assign(&mut self, bar: BarIndex, base: u64) {
        let first = usize::from(bar.get());
        let (low, high) = halves(base);
        match self.kinds[first] {
            Some(BarKind::Memory64 { .. }) => {
                self.registers[first].set(low);
                self.registers[first + 1].set(high);
            }
            Some(_) if bar == BarIndex::ROM => {
                self.registers[first].set(low & !header::EXPANSION_ROM_ENABLE)
            }
            Some(_) => self.registers[first].set(low),
            None => {}
        }
    }

    /// What decodes under `command`, with its address, in register order. The expansion ROM needs its
    /// own enable bit, too.
    pub fn decoded(&self, command: Command) -> impl Iterator<Item = (BarIndex, u64)> {
        let rom = self.registers[ROM].address & header::EXPANSION_ROM_ENABLE != 0;
        (0..BarIndex::COUNT)
            .filter_map(BarIndex::new)
            .chain(rom.then_some(BarIndex::ROM))
            .filter(move |bar| match self.kind(*bar) {
                Some(BarKind::Io) => command.contains(Command::IO_SPACE),
                Some(_) => command.contains(Command::MEMORY_SPACE),
                None => false,
            })
            .map(|bar| (bar, self.base(bar)))
    }

    /// All registers back to address 0, the ROM disabled.
    pub fn reset(&mut self) {
        for register in &mut self.registers {
            register.set(0);
        }
    }
}

/// The steps from one set of decoded BARs to another, around `commit`, the write that changes them in
/// hardware.
///
/// BARs that leave are unmapped before the write, BARs that come are mapped after it: a guest can
/// never reach a device that doesn't decode. A BAR that stays where it is has no step.
#[must_use]
pub fn remap(
    before: &[(BarIndex, u64)],
    after: &[(BarIndex, u64)],
    commit: Option<HardwareWrite>,
) -> Vec<ConfigStep> {
    let leaves = before.iter().filter(|entry| !after.contains(entry));
    let comes = after.iter().filter(|entry| !before.contains(entry));
    leaves
        .map(|&(bar, base)| ConfigStep::UnmapBar { bar, base })
        .chain(commit.map(ConfigStep::Commit))
        .chain(comes.map(|&(bar, base)| ConfigStep::MapBar { bar, base }))
        .collect()
}

#[cfg(test)]
mod tests;
