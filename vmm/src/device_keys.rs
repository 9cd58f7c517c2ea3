//! Values of a device's keys that the command line and the API have in common.

use devices::host::Problem;
use devices::pci::GuestBdf;
use devices::vfio::{RomChoice, RomImage};
use std::fs::{self, File};
use std::io::Read;

/// A device's name.
///
/// # Errors
/// Why the text can't be one.
pub fn id(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        return Err(format!("'{text}' can't be an id"));
    }
    Ok(text.to_owned())
}

/// Slot and function as QEMU takes them: hexadecimal, with or without 0x.
///
/// # Errors
/// Why the text is no place.
pub fn place(text: &str) -> Result<GuestBdf, String> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u8::from_str_radix(digits, 16).ok())?
    };
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    number(slot)
        .zip(number(function))
        .and_then(|(slot, function)| GuestBdf::new(slot, function))
        .ok_or_else(|| format!("'{text}' is no place on the guest's bus"))
}

/// `on`, `off`, or a file's path. The file is read now: a bad one is found out before a device is opened, and each boot of the
/// guest gets the same.
///
/// # Errors
/// [`Problem`] with the file.
pub fn rom(value: &str) -> Result<RomChoice, Problem> {
    match value {
        "on" => Ok(RomChoice::Shown),
        "off" => Ok(RomChoice::Hidden),
        path => rom_file(path).map(RomChoice::Image).map_err(|why| {
            let remedy = "give on, off, or a file that holds an expansion ROM, e.g. a copy of \
                          /sys/bus/pci/devices/ADDRESS/rom";
            Problem::new(format!("rom={path} is no expansion ROM"), why, remedy)
        }),
    }
}

fn rom_file(path: &str) -> Result<RomImage, String> {
    // No pipe or terminal: it would be waited for.
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(RomImage::LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    RomImage::new(bytes).map_err(|error| error.to_string())
}
