//! MSI-X as a guest programs it (PCI 3.0 section 6.8.2). What the host has armed is kept elsewhere;
//! this is only what the guest asked for.

use super::{BarIndex, header};
use crate::interrupt::MsiMessage;

/// Message Control, 2 bytes at offset 2 of the capability.
pub const MESSAGE_CONTROL: u16 = 0x02;
/// Table Offset and Table BIR, 4 bytes.
pub const TABLE: u16 = 0x04;
/// PBA Offset and PBA BIR, 4 bytes.
pub const PBA: u16 = 0x08;
/// Length of the capability in bytes.
pub const CAPABILITY_LEN: u16 = 0x0c;

/// Size of a table entry in bytes.
pub const ENTRY_SIZE: u64 = ENTRY_LEN as u64;
/// The most entries that Table Size can tell of.
pub const MAX_ENTRIES: u16 = 2048;

/// Message Control: Table Size, number of entries less one.
const TABLE_SIZE: u16 = 0x07ff;
/// Message Control: Function Mask.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message Control: MSI-X Enable.
const ENABLE: u16 = 1 << 15;
/// Table and PBA registers: BAR Indicator Register.
const BIR: u32 = 0x7;

/// Table entry: Message Address.
const ENTRY_ADDRESS: usize = 0;
/// Table entry: Message Data.
const ENTRY_DATA: usize = 8;
/// Table entry: Vector Control.
const ENTRY_CONTROL: usize = 12;
/// Table entry: the whole of it, as a buffer length.
const ENTRY_LEN: usize = 16;
/// Vector Control: Mask Bit.
const VECTOR_MASKED: u32 = 1 << 0;
/// Message Address: the low bits that read as zero.
const ADDRESS_RESERVED: u64 = 0x3;
/// Pending bits in a qword of the PBA.
const PBA_QWORD_BITS: u64 = 64;

/// An MSI-X capability: how many vectors, and where table and PBA are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    /// Number of vectors, 1 to 2048.
    pub entries: u16,
    /// The BAR that holds the table.
    pub table_bar: BarIndex,
    /// The table's offset in it, in bytes.
    pub table_offset: u32,
    /// The BAR that holds the PBA.
    pub pba_bar: BarIndex,
    /// The PBA's offset in it, in bytes.
    pub pba_offset: u32,
}

impl MsixCapability {
    /// Reads the capability at `offset` of `config`. `None` when it doesn't fit or a BIR is reserved.
    #[must_use]
    pub fn parse(config: &[u8], offset: u16) -> Option<Self> {
        let register = |at: u16| header::dword(config, offset.checked_add(at)?);
        let control = header::word(config, offset.checked_add(MESSAGE_CONTROL)?)?;
        let bar = |value: u32| BarIndex::new(u8::try_from(value & BIR).ok()?);
        let (table, pba) = (register(TABLE)?, register(PBA)?);
        Some(Self {
            entries: (control & TABLE_SIZE) + 1,
            table_bar: bar(table)?,
            table_offset: table & !BIR,
            pba_bar: bar(pba)?,
            pba_offset: pba & !BIR,
        })
    }

    /// Size of the table in bytes.
    #[must_use]
    pub fn table_size(&self) -> u64 {
        u64::from(self.entries) * ENTRY_SIZE
    }

    /// Size of the PBA in bytes: whole qwords.
    #[must_use]
    pub fn pba_size(&self) -> u64 {
        u64::from(self.entries).div_ceil(PBA_QWORD_BITS) * 8
    }
}

/// The two bits of Message Control that a guest can write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsixState {
    /// MSI-X Enable.
    pub enable: bool,
    /// Function Mask: all vectors are masked.
    pub function_mask: bool,
}

impl MsixState {
    /// The bits of a Message Control value.
    #[must_use]
    pub fn of_control(control: u16) -> Self {
        Self {
            enable: control & ENABLE != 0,
            function_mask: control & FUNCTION_MASK != 0,
        }
    }

    /// Whether vectors that are not masked themselves send their messages.
    #[must_use]
    pub fn delivers(self) -> bool {
        self.enable && !self.function_mask
    }
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
}

impl Entry {
    /// After reset: masked, the message undefined (zero here).
    const RESET: Self = Self {
        message: MsiMessage {
            address: 0,
            data: 0,
        },
        masked: true,
    };

    fn bytes(self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let control = if self.masked { VECTOR_MASKED } else { 0 };
        bytes[ENTRY_ADDRESS..ENTRY_DATA].copy_from_slice(&self.message.address.to_le_bytes());
        bytes[ENTRY_DATA..ENTRY_CONTROL].copy_from_slice(&self.message.data.to_le_bytes());
        bytes[ENTRY_CONTROL..].copy_from_slice(&control.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: [u8; ENTRY_LEN]) -> Self {
        let [address_and_data @ .., c0, c1, c2, c3] = bytes;
        let [address @ .., d0, d1, d2, d3] = address_and_data;
        Self {
            message: MsiMessage {
                address: u64::from_le_bytes(address) & !ADDRESS_RESERVED,
                data: u32::from_le_bytes([d0, d1, d2, d3]),
            },
            masked: u32::from_le_bytes([c0, c1, c2, c3]) & VECTOR_MASKED != 0,
        }
    }
}

/// The MSI-X table and control bits as the guest has programmed them.
#[derive(Clone, Debug)]
pub struct MsixTable {
    entries: Vec<Entry>,
    state: MsixState,
}

/// Where in the table an access falls: entry and first byte in it.
fn locate(offset: u64, len: usize) -> Option<(usize, usize)> {
    let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(len as u64);
    let entry = usize::try_from(offset / ENTRY_SIZE).ok()?;
    let byte = usize::try_from(offset % ENTRY_SIZE).ok()?;
    aligned.then_some((entry, byte))
}

impl MsixTable {
    /// A table after reset: off, every vector masked. `None` for no entries or more than 2048.
    #[must_use]
    pub fn new(entries: u16) -> Option<Self> {
        (1..=MAX_ENTRIES).contains(&entries).then(|| Self {
            entries: vec![Entry::RESET; usize::from(entries)],
            state: MsixState::default(),
        })
    }

    /// Number of vectors.
    #[must_use]
    pub fn entries(&self) -> u16 {
        // At most 2048, see `new`.
        u16::try_from(self.entries.len()).unwrap_or(MAX_ENTRIES)
    }

    /// Reads from the table: aligned dwords and qwords. Anything else reads as ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let found = locate(offset, data.len())
            .and_then(|(entry, byte)| Some((self.entries.get(entry)?.bytes(), byte)));
        match found {
            Some((bytes, byte)) => data.copy_from_slice(&bytes[byte..byte + data.len()]),
            None => data.fill(0xff),
        }
    }

    /// Writes to the table: aligned dwords and qwords; anything else is ignored. Returns the vector
    /// whose [`MsixTable::wanted`] the write changed.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<u16> {
        let (index, byte) = locate(offset, data.len())?;
        let vector = u16::try_from(index).ok()?;
        let before = self.wanted(vector);
        let entry = self.entries.get_mut(index)?;
        let mut bytes = entry.bytes();
        bytes[byte..byte + data.len()].copy_from_slice(data);
        *entry = Entry::of_bytes(bytes);
        (self.wanted(vector) != before).then_some(vector)
    }

    /// Reads from the Pending Bit Array, asking `pending` for each vector: aligned dwords and qwords.
    /// Anything else reads as ones; bits beyond the last vector read as zero.
    pub fn read_pba(&self, offset: u64, data: &mut [u8], pending: impl Fn(u16) -> bool) {
        let size = u64::from(self.entries()).div_ceil(PBA_QWORD_BITS) * 8;
        let len = data.len() as u64;
        if !matches!(len, 4 | 8) || !offset.is_multiple_of(len) || offset >= size {
            return data.fill(0xff);
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = (0..8u8)
                .filter(|bit| {
                    u16::try_from(at * 8 + u64::from(*bit))
                        .is_ok_and(|vector| vector < self.entries() && pending(vector))
                })
                .fold(0, |byte, bit| byte | 1 << bit);
        }
    }

    /// The control bits.
    #[must_use]
    pub fn state(&self) -> MsixState {
        self.state
    }

    /// Sets the control bits; returns the vectors whose [`MsixTable::wanted`] that changed.
    pub fn set_state(&mut self, state: MsixState) -> Vec<u16> {
        let delivered = self.state.delivers();
        self.state = state;
        if delivered == state.delivers() {
            return Vec::new();
        }
        self.unmasked().collect()
    }

    /// Message Control as the guest reads it.
    #[must_use]
    pub fn control(&self) -> u16 {
        (self.entries() - 1)
            | (u16::from(self.state.function_mask) * FUNCTION_MASK)
            | (u16::from(self.state.enable) * ENABLE)
    }

    /// Takes a config write at `offset` inside the capability; only the control bits can be written.
    /// Returns the vectors whose [`MsixTable::wanted`] changed.
    pub fn write_capability(&mut self, offset: u16, data: &[u8]) -> Vec<u16> {
        let mut control = self.control().to_le_bytes();
        for (at, byte) in (usize::from(offset)..).zip(data) {
            let index = at.checked_sub(usize::from(MESSAGE_CONTROL));
            if let Some(to) = index.and_then(|index| control.get_mut(index)) {
                *to = *byte;
            }
        }
        self.set_state(MsixState::of_control(u16::from_le_bytes(control)))
    }

    /// The message that `vector` sends now: `None` when MSI-X is off, the function or the vector
    /// masked, or the vector not in the table.
    #[must_use]
    pub fn wanted(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        (self.state.delivers() && !entry.masked).then_some(entry.message)
    }

    /// Vectors that the guest has not masked one by one, whatever the control bits say.
    fn unmasked(&self) -> impl Iterator<Item = u16> {
        (0u16..)
            .zip(&self.entries)
            .filter(|(_, entry)| !entry.masked)
            .map(|(vector, _)| vector)
    }

    /// The vectors that send messages now, in ascending order.
    pub fn in_use(&self) -> impl Iterator<Item = u16> {
        self.unmasked().filter(|_| self.state.delivers())
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        self.entries.fill(Entry::RESET);
        self.state = MsixState::default();
    }
}

#[cfg(test)]
mod tests;
