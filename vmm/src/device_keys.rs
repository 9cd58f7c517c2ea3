//! Values of a device's keys that the command line and the API have in common.

use devices::host::Problem;
use devices::pci::GuestBdf;
use devices::vfio::{RomChoice, RomImage};
use std::fs::{self, File};
use std::io::Read;

/// A device's name. Those with `_` in front are names of Ferry's own groups of counters.
///
/// # Errors
/// Why the text can't be one.
pub fn id(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let first = !text.is_empty() && !text.starts_with('_');
    if !first || text.len() > 64 || !text.chars().all(allowed) {
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
    let mut left = RomImage::LARGEST;
    rom_within(value, &mut left)
}

/// The same, where a file may have no more than `left` bytes, which it takes its own from.
///
/// # Errors
/// [`Problem`] with the file.
pub fn rom_within(value: &str, left: &mut u64) -> Result<RomChoice, Problem> {
    match value {
        "on" => Ok(RomChoice::Shown),
        "off" => Ok(RomChoice::Hidden),
        path => rom_file(path, left).map(RomChoice::Image).map_err(|why| {
            let remedy = "give on, off, or a file that holds an expansion ROM, e.g. a copy of \
                          /sys/bus/pci/devices/ADDRESS/rom";
            Problem::new(format!("rom={path} is no expansion ROM"), why, remedy)
        }),
    }
}

fn rom_file(path: &str, left: &mut u64) -> Result<RomImage, String> {
    // No pipe or terminal: it would be waited for.
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let limit = RomImage::LARGEST.min(*left);
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())? as u64;
    if read > limit && limit < RomImage::LARGEST {
        return Err(
            "with those of the devices before it, it is too large for one request".to_owned(),
        );
    }
    *left -= read.min(*left);
    RomImage::new(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_no_group_of_counters() {
        for text in ["", "_", "_vcpu0", "_kvm", "a b", &"x".repeat(65)] {
            assert!(id(text).is_err(), "{text}");
        }
        for text in ["nic0", "0000:01:00.0", "a_b", "-x", &"x".repeat(64)] {
            assert_eq!(id(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn rom_files_share_what_is_left() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [&[0x55, 0xaa][..], &[0; 1022]].concat()).unwrap();
        let path = file.path().to_str().unwrap();
        let mut left = 2500;
        assert!(rom_within(path, &mut left).is_ok() && rom_within(path, &mut left).is_ok());
        assert_eq!(left, 452);
        let problem = rom_within(path, &mut left).unwrap_err();
        assert!(
            problem.why.contains("too large for one request"),
            "{problem}"
        );
        assert!(rom_within("on", &mut left).is_ok());
    }
}
