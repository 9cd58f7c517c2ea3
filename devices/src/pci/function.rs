//! A PCI function as the buses see it, and what its config writes ask of the machine.

use crate::mapping::HostRange;
use std::fmt;
use std::io;

/// Offset into a function's 4 KiB of configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigOffset(u16);

impl ConfigOffset {
    /// Size of a PCI Express function's configuration space.
    pub const SPACE: u16 = 4096;

    /// `None` when `offset` is not inside configuration space.
    #[must_use]
    pub fn new(offset: u16) -> Option<Self> {
        (offset < Self::SPACE).then_some(Self(offset))
    }

    /// The offset in bytes.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// One of the six Base Address Registers of a type 0 header, or the expansion ROM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarIndex(u8);

impl BarIndex {
    /// How many BARs there are in a type 0 header, the expansion ROM's register not among them.
    pub const COUNT: u8 = 6;
    /// The expansion ROM, whose register works as a BAR's but for an enable bit of its own.
    pub const ROM: Self = Self(Self::COUNT);

    /// `None` above 5: no capability's BIR can mean the expansion ROM.
    #[must_use]
    pub fn new(index: u8) -> Option<Self> {
        (index < Self::COUNT).then_some(Self(index))
    }

    /// The register's number, 0 to 5; 6 for the expansion ROM. A 64-bit BAR has the number of its lower half.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for BarIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ROM => f.write_str("expansion ROM"),
            Self(index) => write!(f, "BAR {index}"),
        }
    }
}

/// Which address space a BAR decodes, and how it may be accessed (PCI 3.0 section 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// A part of a BAR that a guest reaches without an exit.
#[derive(Clone, Debug)]
pub struct BarSegment {
    /// Offset inside the BAR, a multiple of the page size.
    pub offset: u64,
    /// The device memory behind it; its length is a multiple of the page size.
    pub host: HostRange,
}

/// A BAR: what it decodes and which parts of it are mapped. Accesses to the rest trap.
#[derive(Clone, Debug)]
pub struct BarLayout {
    /// Which register.
    pub index: BarIndex,
    /// Address space.
    pub kind: BarKind,
    /// Size in bytes, a power of two; a memory BAR smaller than a page stays as small as it is.
    pub size: u64,
    /// The mapped parts, in ascending order, not overlapping. A BAR smaller than a page may have one: its page, which
    /// shows nothing but the BAR and may be mapped where the guest, too, has nothing else in it.
    pub segments: Vec<BarSegment>,
}

/// A write to the physical function that has its place among the steps around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareWrite {
    /// Where in configuration space.
    pub offset: ConfigOffset,
    /// The bytes, little endian; `len` of them count.
    pub bytes: [u8; 4],
    /// 1, 2 or 4.
    pub len: u8,
}

/// One thing that the caller of [`PciFunction::config_write`] does, holding no device's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigStep {
    /// The BAR no longer decodes at `base`.
    UnmapBar {
        /// Which BAR.
        bar: BarIndex,
        /// Guest address (or port) of its first byte.
        base: u64,
    },
    /// The BAR decodes at `base`. An address outside any window is left unmapped.
    MapBar {
        /// Which BAR.
        bar: BarIndex,
        /// Guest address (or port) of its first byte.
        base: u64,
    },
    /// Give the write back to [`PciFunction::commit`].
    Commit(HardwareWrite),
}

/// Why a function could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The device has no way to be reset that touches nothing but what is this machine's; why.
    #[error("{0}")]
    Unsupported(String),
    /// The host's reset failed.
    #[error("the host could not reset the device")]
    Host(#[source] io::Error),
}

/// A PCI function on the guest's bus.
///
/// All methods take `&self`: vCPUs call them at the same time. None blocks on another device, on the
/// machine or on the guest.
pub trait PciFunction: Send + Sync {
    /// Name for messages: the user's id for it, or its host address.
    fn name(&self) -> &str;

    /// Reads `data.len()` (1, 2 or 4) bytes that don't cross a dword.
    fn config_read(&self, offset: ConfigOffset, data: &mut [u8]);

    /// Takes a guest's write of 1, 2 or 4 bytes that don't cross a dword, and returns what is to be
    /// done, in this order, before the guest goes on.
    #[must_use]
    fn config_write(&self, offset: ConfigOffset, data: &[u8]) -> Vec<ConfigStep>;

    /// Whether this write would let the function start DMA; it must not be made before guest memory is there for that.
    fn starts_dma(&self, _offset: ConfigOffset, _data: &[u8]) -> bool {
        false
    }

    /// Carries out a deferred write; called for [`ConfigStep::Commit`] only.
    fn commit(&self, write: HardwareWrite);

    /// The BARs, fixed for the function's life.
    fn bars(&self) -> &[BarLayout];

    /// Sets the address that a BAR register holds, as firmware would. Decoding is off then, the
    /// expansion ROM's included.
    fn assign_bar(&self, bar: BarIndex, base: u64);

    /// Reads from a trapped part of a BAR. Unimplemented offsets read as ones.
    fn bar_read(&self, bar: BarIndex, offset: u64, data: &mut [u8]);

    /// Writes to a trapped part of a BAR.
    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]);

    /// Ends the function's interrupts, then its DMA: what comes first when it leaves the guest.
    fn quiesce(&self) {}

    /// The steps that take the function off the guest's buses, whatever it decodes now. The
    /// function has decoding off afterwards.
    #[must_use]
    fn stop_decoding(&self) -> Vec<ConfigStep>;

    /// Puts the function into its state after power-on: interrupts off, no bus mastering, registers
    /// at their reset values. Called after [`PciFunction::stop_decoding`], with no vCPU running.
    ///
    /// # Errors
    /// See [`ResetError`]; the virtual state is reset even then.
    fn reset(&self) -> Result<(), ResetError>;
}
