//! A function of a guest, driven by hand: through `/dev/mem`, `/dev/port` and its configuration space in sysfs.

use tests::Guest;

/// Where the Command register is.
const COMMAND: u64 = 0x04;
/// Where the first BAR is.
const BAR0: u64 = 0x10;
/// Ports and memory are decoded.
const DECODE: [u8; 2] = 0x0003_u16.to_le_bytes();

/// A function of a guest.
pub(crate) struct Registers<'a> {
    guest: &'a mut Guest,
    folder: String,
}

impl<'a> Registers<'a> {
    /// The function at the guest's `address`, which no driver of the guest's needs.
    pub(crate) fn at(guest: &'a mut Guest, address: &str) -> Self {
        Self {
            guest,
            folder: format!("/sys/bus/pci/devices/{address}"),
        }
    }

    /// Lets it decode its BARs.
    pub(crate) fn decode(mut self) -> Self {
        self.config_write(COMMAND, &DECODE);
        self
    }

    /// The guest it is in.
    pub(crate) fn guest(&mut self) -> &mut Guest {
        self.guest
    }

    /// Where the guest's kernel says that the `index`-th BAR is.
    pub(crate) fn bar(&mut self, index: usize) -> u64 {
        let resources = self.guest.ok(&format!("cat {}/resource", self.folder));
        let line = resources.lines().nth(index).unwrap();
        number(line.split_whitespace().next().unwrap())
    }

    /// Writes to configuration space, all bytes at once.
    pub(crate) fn config_write(&mut self, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.guest.ok(&format!(
            "printf '{}' | dd of={}/config bs={len} seek={} conv=notrunc 2>/dev/null",
            escaped(bytes),
            self.folder,
            offset / len
        ));
    }

    /// The whole of its configuration space that sysfs has.
    pub(crate) fn config(&mut self) -> Vec<u8> {
        let text = self
            .guest
            .ok(&format!("od -An -v -tx1 {}/config", self.folder));
        bytes(&text)
    }

    /// Moves a 32-bit BAR, behind the back of the guest's kernel.
    pub(crate) fn move_bar(&mut self, index: u64, address: u64) {
        let address = u32::try_from(address).unwrap();
        self.config_write(BAR0 + 4 * index, &address.to_le_bytes());
    }

    /// Reads memory.
    pub(crate) fn read(&mut self, address: u64, width: u8) -> u64 {
        number(&self.guest.ok(&format!("devmem {address:#x} {width}")))
    }

    /// Writes memory.
    pub(crate) fn write(&mut self, address: u64, width: u8, value: u64) {
        self.guest
            .ok(&format!("devmem {address:#x} {width} {value:#x}"));
    }

    /// Reads a byte from each of `count` ports.
    pub(crate) fn ports_read(&mut self, port: u64, count: usize) -> Vec<u8> {
        let text = self.guest.ok(&format!(
            "dd if=/dev/port bs=1 skip={port} count={count} 2>/dev/null | od -An -v -tx1"
        ));
        bytes(&text)
    }

    /// Writes a byte to a port.
    pub(crate) fn port_write(&mut self, port: u64, value: u8) {
        self.guest.ok(&format!(
            "printf '{}' | dd of=/dev/port bs=1 seek={port} conv=notrunc 2>/dev/null",
            escaped(&[value])
        ));
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// Parses what `od -An -tx1` prints.
fn bytes(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// Parses `0x…`.
pub(crate) fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}
