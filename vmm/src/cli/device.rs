//! `--device host=BDF[,id=NAME][,addr=SLOT[.FN]]`.

use super::suggest::nearest;
use devices::host::Problem;
use devices::pci::{GuestBdf, HostSbdf};
use vmm::spec::DeviceRequest;

/// The keys that Ferry knows.
const KEYS: [&str; 3] = ["host", "id", "addr"];

/// Keys of QEMU's vfio-pci, which a pasted line may have and which mean nothing here.
const QEMU_KEYS: [(&str, &str); 14] = [
    ("bus", "the guest has one bus; choose the slot with addr="),
    ("bootindex", "Ferry boots the kernel that --kernel names"),
    (
        "multifunction",
        "it follows from the functions given for one slot",
    ),
    ("rombar", "the expansion ROM is not shown to the guest"),
    ("romfile", "the expansion ROM is not shown to the guest"),
    ("sysfsdev", "name the device with host=BDF"),
    ("iommufd", "Ferry uses the VFIO container"),
    ("fd", "name the device with host=BDF"),
    ("display", "Ferry has no display"),
    ("enable-migration", "Ferry does not migrate guests"),
    ("failover_pair_id", "Ferry does not migrate guests"),
    ("x-vga", "Ferry does not route legacy VGA accesses"),
    (
        "x-igd-opregion",
        "Ferry has no support for integrated graphics",
    ),
    ("xres", "Ferry has no display"),
];

/// Parses the argument of one `--device`. A leading `vfio-pci,` or `pci-assign,` is accepted, so that
/// a line from elsewhere can be pasted.
pub(super) fn parse(text: &str) -> Result<DeviceRequest, Problem> {
    let what = format!("--device {text} is not understood");
    let problem = |why: String, remedy: &str| Problem::new(what.clone(), why, remedy);
    let usage = "write --device host=BDF[,id=NAME][,addr=SLOT[.FN]], e.g. --device host=01:00.0";
    let options = text
        .strip_prefix("vfio-pci,")
        .or_else(|| text.strip_prefix("pci-assign,"))
        .unwrap_or(text);
    let (mut host, mut id, mut guest) = (None, None, None);
    for option in options.split(',') {
        let Some((key, value)) = option.split_once('=') else {
            return Err(problem(
                format!("'{option}' is not of the form key=value"),
                usage,
            ));
        };
        let again = match key {
            "host" => {
                let address: HostSbdf = value.parse().map_err(|error| {
                    let remedy = "give the address as 'lspci -D' prints it, e.g. host=0000:01:00.0";
                    problem(format!("{error}"), remedy)
                })?;
                host.replace(address).is_some()
            }
            "id" => {
                let name = name(value).map_err(|why| {
                    problem(why, "use letters, digits, '-', '_' and '.', e.g. id=nic0")
                })?;
                id.replace(name).is_some()
            }
            "addr" => {
                let place = place(value).map_err(|why| {
                    problem(
                        why,
                        "give slot 0x1 to 0x1f and function 0 to 7, e.g. addr=0x6.0x1",
                    )
                })?;
                guest.replace(place).is_some()
            }
            _ => return Err(unknown_key(&what, key, usage)),
        };
        if again {
            return Err(problem(format!("'{key}' is given twice"), usage));
        }
    }
    let host = host.ok_or_else(|| problem("host= is missing".to_owned(), usage))?;
    Ok(DeviceRequest { host, id, guest })
}

fn unknown_key(what: &str, key: &str, usage: &str) -> Problem {
    if let Some((_, meaning)) = QEMU_KEYS.iter().find(|(qemu, _)| *qemu == key) {
        let why = format!("'{key}' is a QEMU key that has no use here: {meaning}");
        return Problem::new(what, why, format!("leave out '{key}='"));
    }
    let why = format!("'{key}' is no key of --device (host, id, addr)");
    let remedy = nearest(key, &KEYS).map_or_else(
        || usage.to_owned(),
        |known| format!("did you mean '{known}='?"),
    );
    Problem::new(what, why, remedy)
}

fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        return Err(format!("'{text}' can't be an id"));
    }
    Ok(text.to_owned())
}

/// Slot and function as QEMU takes them: hexadecimal, with or without 0x.
fn place(text: &str) -> Result<GuestBdf, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_from_qemu_can_be_pasted() {
        let pasted = parse("vfio-pci,host=01:00.0,id=nic0,addr=0x6.0x1").unwrap();
        assert_eq!(pasted, parse("host=0000:01:00.0,id=nic0,addr=6.1").unwrap());
        assert_eq!(pasted.guest, GuestBdf::new(6, 1));
        assert_eq!(parse("pci-assign,host=01:00.0").unwrap().id, None);
    }

    #[test]
    fn qemu_keys_without_use_are_named() {
        let problem = parse("vfio-pci,host=01:00.0,bootindex=1").unwrap_err();
        assert!(
            problem.why.contains("'bootindex' is a QEMU key"),
            "{problem}"
        );
        assert_eq!(problem.remedy, "leave out 'bootindex='");
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_known_one() {
        assert_eq!(
            parse("hots=01:00.0").unwrap_err().remedy,
            "did you mean 'host='?"
        );
        assert!(
            parse("host=01:00.0,colour=red")
                .unwrap_err()
                .remedy
                .starts_with("write --device")
        );
    }

    #[test]
    fn malformed_devices_are_refused() {
        for text in [
            "",
            "host",
            "host=",
            "host=01:00",
            "host=01:20.0",
            "host=01:00.0,",
            "id=nic0",
            "host=01:00.0,host=02:00.0",
            "host=01:00.0,addr=0x20",
            "host=01:00.0,addr=1.8",
            "host=01:00.0,addr=0x",
            "host=01:00.0,id=",
            "host=01:00.0,id=a b",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
