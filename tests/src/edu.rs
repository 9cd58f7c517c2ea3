//! QEMU's edu device (docs/specs/edu.rst), driven by hand: a guest has no driver for it.
//!
//! The guest reaches its registers through `/dev/mem`, and so it does the RAM that `memmap=` keeps from
//! its kernel.

use crate::Guest;

/// Identification: its upper byte is the version, its lowest 0xed.
const IDENTIFICATION: u64 = 0x00;
/// Inverts what is written.
const LIVENESS: u64 = 0x04;
const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// Start, cleared by the device at the end; from RAM to the device.
const DMA_FROM_RAM: u64 = 1;
/// Start, from the device to RAM.
const DMA_TO_RAM: u64 = 1 | 1 << 1;
/// Where the device's DMA engine sees its own memory.
const OWN_MEMORY: u64 = 0x40000;

/// PCI Command, and what the guest sets in it: memory decoding, bus mastering, INTx disabled.
const COMMAND: u64 = 0x04;
const COMMAND_ON: [u8; 2] = 0x0406_u16.to_le_bytes();

/// The MSI capability, with 64-bit addresses.
const MSI_CONTROL: u64 = 0x42;
const MSI_ADDRESS: u64 = 0x44;
const MSI_ADDRESS_HIGH: u64 = 0x48;
const MSI_DATA: u64 = 0x4c;

/// The device in a guest.
pub struct Edu<'a> {
    guest: &'a mut Guest,
    folder: String,
    registers: u64,
}

impl<'a> Edu<'a> {
    /// Turns the device at the guest's `address` on.
    pub fn at(guest: &'a mut Guest, address: &str) -> Self {
        let folder = format!("/sys/bus/pci/devices/{address}");
        let resource = guest.ok(&format!("head -n 1 {folder}/resource"));
        let registers = number(resource.split_whitespace().next().unwrap_or_default());
        let mut edu = Self {
            guest,
            folder,
            registers,
        };
        edu.config_write(COMMAND, &COMMAND_ON);
        let id = edu.read(IDENTIFICATION);
        assert_eq!(id & 0xff, 0xed, "identification {id:#x}");
        edu.write(LIVENESS, 32, 0x1234_5678);
        assert_eq!(edu.read(LIVENESS), 0xedcb_a987);
        edu
    }

    /// The guest it is in.
    pub fn guest(&mut self) -> &mut Guest {
        self.guest
    }

    fn config_write(&mut self, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let text: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        self.guest.ok(&format!(
            "printf '{text}' | dd of={}/config bs={len} seek={} conv=notrunc 2>/dev/null",
            self.folder,
            offset / len
        ));
    }

    fn read(&mut self, register: u64) -> u64 {
        self.memory(self.registers + register, 32)
    }

    fn write(&mut self, register: u64, width: u8, value: u64) {
        let address = self.registers + register;
        self.guest
            .ok(&format!("devmem {address:#x} {width} {value:#x}"));
    }

    fn memory(&mut self, address: u64, width: u8) -> u64 {
        let text = self.guest.ok(&format!("devmem {address:#x} {width}"));
        number(&text)
    }

    /// Has the device write `value` to the guest's `address` (not looking whether it arrives).
    pub fn dma_to(&mut self, address: u64, value: u64, scratch: u64) {
        self.guest.ok(&format!("devmem {scratch:#x} 64 {value:#x}"));
        self.transfer(scratch, OWN_MEMORY, DMA_FROM_RAM);
        self.transfer(OWN_MEMORY, address, DMA_TO_RAM);
    }

    /// Has the device read eight bytes at the guest's `address` and write them to `target`; gives what
    /// is there then.
    pub fn dma_copy(&mut self, address: u64, target: u64) -> u64 {
        self.transfer(address, OWN_MEMORY, DMA_FROM_RAM);
        self.transfer(OWN_MEMORY, target, DMA_TO_RAM);
        self.memory(target, 64)
    }

    /// What the guest's CPU sees at `address`.
    pub fn ram(&mut self, address: u64) -> u64 {
        self.memory(address, 64)
    }

    /// Moves eight bytes.
    fn transfer(&mut self, source: u64, destination: u64, command: u64) {
        self.write(DMA_SOURCE, 64, source);
        self.write(DMA_DESTINATION, 64, destination);
        self.write(DMA_COUNT, 64, 8);
        self.write(DMA_COMMAND, 64, command);
        let register = self.registers + DMA_COMMAND;
        // The device takes a tenth of a second.
        self.guest.ok(&format!(
            "while [ $(($(devmem {register:#x} 64) & 1)) = 1 ]; do usleep 10000; done"
        ));
    }

    /// Lets the device interrupt by this message from now on.
    pub fn enable_msi(&mut self, address: u64, data: u16) {
        let [low, high] = [address, address >> 32].map(|half| (half & 0xffff_ffff).to_le_bytes());
        self.config_write(MSI_ADDRESS, &low[..4]);
        self.config_write(MSI_ADDRESS_HIGH, &high[..4]);
        self.config_write(MSI_DATA, &data.to_le_bytes());
        self.config_write(MSI_CONTROL, &[1, 0]);
    }

    /// Has the device interrupt `count` times, by one command.
    pub fn raise(&mut self, count: u32) {
        let [raise, acknowledge] =
            [INTERRUPT_RAISE, INTERRUPT_ACKNOWLEDGE].map(|register| self.registers + register);
        self.guest.ok(&format!(
            "for i in $(seq {count}); do devmem {raise:#x} 32 1; devmem {acknowledge:#x} 32 1; done"
        ));
    }
}

#[track_caller]
fn number(text: &str) -> u64 {
    match u64::from_str_radix(text.trim().trim_start_matches("0x"), 16) {
        Ok(number) => number,
        Err(error) => panic!("'{text}': {error}"),
    }
}
