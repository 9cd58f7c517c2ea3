//! Expansion ROMs.

use crate::guest::{CONVENTIONAL, E1000, RTL8139, VGA, answers};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tests::{Attempt, Guest, HostDevice, noise};

/// The command line is wrong.
const USAGE: i32 = 2;

/// An image of three blocks of 512 bytes, as firmware finds them (PCI 3.0 section 6.3.1).
const IMAGE_BLOCKS: u8 = 3;

/// A file with an expansion ROM in it.
pub(crate) struct Image {
    folder: TempDir,
}

impl Image {
    /// Fills it with noise, but for what makes it a ROM.
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = noise(512 * usize::from(IMAGE_BLOCKS));
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &[0x55, 0xaa, IMAGE_BLOCKS]);
        // PCI Data Structure: where it is, its length, how many blocks there are, and that this image is the last.
        put(0x18, &[0x40, 0]);
        put(0x40, b"PCIR");
        put(0x40 + 0x0a, &[0x18, 0]);
        put(0x40 + 0x10, &[IMAGE_BLOCKS, 0]);
        put(0x40 + 0x15, &[0x80]);
        fs::write(folder.path().join("card.rom"), &bytes).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("card.rom")
    }
}

/// Checksums of ROMs as guest and host see them.
pub(crate) struct Roms {
    vga: [String; 2],
    conventional: [String; 2],
    file: [String; 2],
    /// What the guest has for the ROM of a device with `rom=off`.
    off: String,
    /// What the guest reads of VGA's ROM while the device doesn't decode memory.
    asleep: String,
    /// The first word at an address to which the guest has moved VGA's ROM, and at the one where it was.
    moved: [String; 2],
}

/// The checksum of a ROM that the host can read.
pub(crate) fn of_host(device: &HostDevice) -> String {
    let rom = device.folder().join("rom");
    fs::write(&rom, "1").unwrap();
    let sum = checksum(&rom);
    fs::write(&rom, "0").unwrap();
    sum
}

fn checksum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    first_word(&String::from_utf8(output.stdout).unwrap())
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap().to_owned()
}

/// Reads the ROMs in the guest, where no driver needs their devices.
pub(crate) fn look(guest: &mut Guest, of_host: [String; 2], image: &Image) -> Roms {
    let folder = |address: &str| format!("/sys/bus/pci/devices/{address}");
    let mut sum = |address: &str| {
        let text = guest.ok(&format!(
            "cd {} && echo 1 > enable && echo 1 > rom && sha256sum < rom && echo 0 > rom",
            folder(address)
        ));
        first_word(&text)
    };
    let [vga, conventional] = of_host;
    let roms = [VGA, CONVENTIONAL, E1000].map(&mut sum);
    let [vga_seen, conventional_seen, file_seen] = roms;
    Roms {
        vga: [vga_seen, vga],
        conventional: [conventional_seen, conventional],
        file: [file_seen, checksum(&image.path())],
        off: guest.ok(&format!("ls {}", folder(RTL8139))),
        asleep: guest.ok(&format!(
            "cd {} && {} && echo 1 > rom && head -c 2 rom | od -An -tx1; echo 0 > rom; {}",
            folder(VGA),
            command(0),
            command(3)
        )),
        moved: moved(guest, &folder(VGA)),
    }
}

/// Moves a ROM behind the back of the guest's kernel, which puts it back by itself when it next reads it.
fn moved(guest: &mut Guest, folder: &str) -> [String; 2] {
    // The end of the window for 32-bit BARs, where nothing else is.
    const THERE: u32 = 0xdffe_0000;
    let resources = guest.ok(&format!("cat {folder}/resource"));
    let rom = resources.lines().nth(6).unwrap();
    let here = rom.split_whitespace().next().unwrap();
    let register: String = (THERE | 1)
        .to_le_bytes()
        .iter()
        .map(|byte| format!("\\x{byte:02x}"))
        .collect();
    guest.ok(&format!(
        "printf '{register}' | dd of={folder}/config bs=4 seek=12 conv=notrunc 2>/dev/null"
    ));
    let there = format!("{THERE:#x}");
    [&*there, here].map(|address| guest.ok(&format!("devmem {address} 16")).trim().to_owned())
}

/// Writes the low byte of the Command register.
fn command(value: u8) -> String {
    format!("printf '\\x{value:02x}' | dd of=config bs=1 seek=4 conv=notrunc 2>/dev/null")
}

#[test]
fn a_guest_reads_the_rom_that_the_host_reads() {
    let roms = &answers().roms;
    for [guest, host] in [&roms.vga, &roms.conventional] {
        assert_eq!(guest, host);
    }
    assert_ne!(roms.vga, roms.conventional);
}

#[test]
fn a_file_takes_the_place_of_a_rom() {
    let [guest, file] = &answers().roms.file;
    assert_eq!(guest, file);
}

#[test]
fn rom_off_leaves_no_rom() {
    let entries: Vec<_> = answers().roms.off.split_whitespace().collect();
    assert!(entries.contains(&"resource1"), "{entries:?}");
    assert!(!entries.contains(&"rom"), "{entries:?}");
}

#[test]
fn a_rom_is_not_reached_while_memory_space_is_off() {
    let text = &answers().roms.asleep;
    assert!(!text.contains("55 aa"), "{text}");
}

#[test]
fn a_rom_follows_its_register() {
    assert_eq!(answers().roms.moved, ["0xAA55", "0xFFFF"]);
}

#[test]
fn a_file_that_is_no_rom_ends_the_run_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.rom");
    let device = format!("host=00:02.0,rom={}", path.display());
    let refused = || Attempt::run(&["--device", &device]).refused_for_one(USAGE);
    let what = format!("rom={} is no expansion ROM", path.display());
    refused().tells(&what, "No such file", "give on, off, or a file");
    fs::write(&path, "no ROM").unwrap();
    refused().tells(
        &what,
        "begins with 6e 6f, an expansion ROM with 55 aa",
        "give on",
    );
    let mut large = vec![0; (16 << 20) + 1];
    large[..2].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, large).unwrap();
    refused().tells(&what, "an expansion ROM at most 16777216", "give on");
}

#[test]
fn a_rom_that_the_device_lacks_is_not_promised() {
    let device = tests::site::device("usb").assign();
    let asked = format!("host={},rom=on", device.address());
    let problem = Attempt::run(&["--device", &asked]).refused_for_one(4);
    problem.tells(
        &format!("{} has no expansion ROM", device.address()),
        "VFIO",
        "rom=PATH",
    );
}
