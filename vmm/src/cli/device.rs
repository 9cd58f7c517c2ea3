//! `--device host=BDF[,id=NAME][,addr=SLOT[.FN]][,rom=on|off|PATH][,managed=on|off][,on-error=…][,request-timeout=…]`,
//! `fd=N`, and `vf=auto[,mac=…][,vlan=…][,trust=on|off][,spoof-check=on|off]`.

mod foreign;
mod virtual_keys;

use self::foreign::{foreign, foreign_keys};
use self::virtual_keys::VirtualKeys;
use super::descriptor;
use super::removal::RemovalKeys;
use super::suggest::nearest;
use super::{on_off, shown};
use devices::driver::LinkSetting;
use devices::host::Problem;
use devices::pci::{BdfError, GuestBdf, HostSbdf};
use devices::vfio::{PassedGroup, RomChoice};
use vmm::device_keys::{id as name, place, rom};
use vmm::spec::DeviceRequest;

/// The keys that Ferry knows.
const KEYS: [&str; 13] = [
    "host",
    "id",
    "addr",
    "rom",
    "managed",
    "on-error",
    "request-timeout",
    "fd",
    "vf",
    "mac",
    "vlan",
    "trust",
    "spoof-check",
];

const USAGE: &str =
    "write --device host=BDF[,id=NAME][,addr=SLOT[.FN]], e.g. --device host=01:00.0";

/// What one `--device` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Requested {
    /// The device.
    pub(super) device: DeviceRequest,
    /// Whether it is bound to vfio-pci for this run and given back after it.
    pub(super) managed: bool,
    /// Its group, if that was opened for this process.
    pub(super) group: Option<PassedGroup>,
    /// Whether it is a virtual function of `device.host`, whichever is free, and not that itself; then it is managed.
    pub(super) virtual_function: bool,
    /// What is set for that one.
    pub(super) settings: Vec<LinkSetting>,
}

/// Parses the argument of one `--device`. A leading `vfio-pci,` or `pci-assign,` is accepted, so that
/// a line from elsewhere can be pasted.
pub(super) fn parse(text: &str) -> Result<Requested, Problem> {
    let what = format!("--device {} is not understood", shown(text));
    let options = text
        .strip_prefix("vfio-pci,")
        .or_else(|| text.strip_prefix("pci-assign,"))
        .unwrap_or(text);
    let mut keys = Keys::default();
    for option in options.split(',') {
        let Some((key, value)) = option.split_once('=') else {
            return Err(no_key(&what, option));
        };
        let again = match keys.take(key, value, &what)? {
            Some(again) => again,
            None => return Err(unknown_key(&what, key, options)),
        };
        if again {
            let why = format!("'{key}' is given twice");
            return Err(Problem::new(what, why, "leave one out"));
        }
    }
    keys.requested(&what)
}

/// What was given so far.
#[derive(Default)]
struct Keys {
    host: Option<HostSbdf>,
    id: Option<String>,
    guest: Option<GuestBdf>,
    rom: Option<RomChoice>,
    managed: Option<bool>,
    group: Option<PassedGroup>,
    removal: RemovalKeys,
    virtual_keys: VirtualKeys,
}

impl Keys {
    /// Takes the value of a key; whether there was one before, or none if there is no such key.
    fn take(&mut self, key: &str, value: &str, what: &str) -> Result<Option<bool>, Problem> {
        let problem = |why: String, remedy: &str| Problem::new(what, why, remedy);
        Ok(Some(match key {
            "host" => {
                let address = value.parse().map_err(|error: BdfError| {
                    let remedy =
                        "give an address, e.g. host=0000:01:00.0, as they are listed by: ferry devices --all";
                    problem(error.to_string(), remedy)
                })?;
                self.host.replace(address).is_some()
            }
            "id" => {
                let name = name(value).map_err(|why| {
                    problem(
                        why,
                        "use letters, digits, '-', '.' and, but for the first, '_', e.g. id=nic0",
                    )
                })?;
                self.id.replace(name).is_some()
            }
            "addr" => {
                let place = place(value).map_err(|why| {
                    problem(
                        why,
                        "give slot 0x1 to 0x1f and function 0 to 7, e.g. addr=0x6.0x1",
                    )
                })?;
                self.guest.replace(place).is_some()
            }
            "on-error" => self.removal.on_error(value)?,
            "request-timeout" => self.removal.request_timeout(value)?,
            "rom" => self.rom.replace(rom(value)?).is_some(),
            "managed" => self.managed.replace(on(what, value)?).is_some(),
            "fd" => {
                let group = descriptor::group(value, what)?;
                self.group.replace(group).is_some()
            }
            key if key == "vf" || LinkSetting::NAMES.contains(&key) => {
                self.virtual_keys.take(key, value, what)?
            }
            _ => return Ok(None),
        }))
    }

    fn requested(self, what: &str) -> Result<Requested, Problem> {
        let problem = |why: &str, remedy: &str| Problem::new(what, why, remedy);
        let host = match (&self.group, self.host) {
            (Some(group), given) => descriptor::host(group, given, what)?,
            (None, Some(given)) => given,
            (None, None) => return Err(problem("host= is missing", USAGE)),
        };
        let settings = self.virtual_keys.settings(what, host)?;
        let virtual_function = self.virtual_keys.auto;
        if virtual_function && self.managed == Some(false) {
            let why = "vf=auto binds the virtual function for this run, which managed=off forbids";
            return Err(problem(why, "leave managed=off out"));
        }
        let managed = virtual_function || self.managed.unwrap_or(false);
        if managed && self.group.is_some() {
            let why = "a device whose group is open already can't be bound for this run";
            return Err(problem(why, "leave managed=on or vf=auto out, or fd="));
        }
        Ok(Requested {
            device: DeviceRequest {
                host,
                id: self.id,
                guest: self.guest,
                rom: self.rom.unwrap_or_default(),
                removal: self.removal.spec(),
            },
            managed,
            group: self.group,
            virtual_function,
            settings,
        })
    }
}

fn on(what: &str, value: &str) -> Result<bool, Problem> {
    on_off(value).ok_or_else(|| {
        Problem::new(
            what,
            format!("managed={} is neither on nor off", shown(value)),
            "write managed=on to have the device bound for this run and given back after it, else leave it out",
        )
    })
}

/// A word that is no `key=value`; most likely an address without `host=`.
fn no_key(what: &str, word: &str) -> Problem {
    let remedy = match word.parse::<HostSbdf>() {
        Ok(_) => format!("write --device host={word}"),
        Err(_) => USAGE.to_owned(),
    };
    Problem::new(
        what,
        format!("{} is not of the form key=value", shown(word)),
        remedy,
    )
}

fn unknown_key(what: &str, key: &str, options: &str) -> Problem {
    if foreign(key).is_some() {
        return foreign_keys(what, options);
    }
    let why = format!("'{key}' is no key of --device ({})", KEYS.join(", "));
    let remedy = nearest(key, &KEYS).map_or_else(
        || USAGE.to_owned(),
        |known| format!("did you mean '{known}='?"),
    );
    Problem::new(what, why, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn managed_is_on_or_off() {
        let managed = |text: &str| parse(&format!("host=01:00.0{text}")).map(|one| one.managed);
        assert_eq!(managed(""), Ok(false));
        assert_eq!(managed(",managed=on"), Ok(true));
        assert_eq!(managed(",managed=off"), Ok(false));
        let problem = managed(",managed=yes").unwrap_err();
        assert!(problem.why.contains("neither on nor off"), "{problem}");
        let problem = managed(",managed=on,managed=on").unwrap_err();
        assert!(problem.why.contains("given twice"), "{problem}");
    }

    #[test]
    fn a_free_virtual_function_is_managed_and_set_up() {
        let requested = parse("host=01:00.0,vf=auto,vlan=5,mac=52:54:00:00:00:01").unwrap();
        assert!(requested.virtual_function && requested.managed);
        let options: Vec<_> = requested.settings.iter().map(|one| one.name()).collect();
        assert_eq!(options, ["mac", "vlan"]);
        let why = |text: &str| parse(&format!("host=01:00.0{text}")).unwrap_err().why;
        assert_eq!(why(",vf=3"), "vf=3 is not auto");
        assert_eq!(why(",vf=auto,vlan=5,vlan=6"), "'vlan' is given twice");
        assert_eq!(why(",vf=auto,vf=auto"), "'vf' is given twice");
        let without = why(",trust=on");
        assert!(without.starts_with("trust= is a setting"), "{without}");
        let forbidden = why(",vf=auto,managed=off");
        assert!(forbidden.contains("managed=off forbids"), "{forbidden}");
    }

    #[test]
    fn a_line_from_qemu_can_be_pasted() {
        let pasted = parse("vfio-pci,host=01:00.0,id=nic0,addr=0x6.0x1").unwrap();
        assert_eq!(pasted, parse("host=0000:01:00.0,id=nic0,addr=6.1").unwrap());
        assert_eq!(pasted.device.guest, GuestBdf::new(6, 1));
        assert_eq!(parse("pci-assign,host=01:00.0").unwrap().device.id, None);
    }

    #[test]
    fn qemu_keys_without_use_are_named_together_and_taken_out() {
        let problem = parse("vfio-pci,host=01:00.0,bootindex=1").unwrap_err();
        assert_eq!(
            problem.why,
            "'bootindex' (Ferry boots the kernel that --kernel names) is a key of QEMU's without use here"
        );
        assert_eq!(problem.remedy, "write --device host=01:00.0");
        let problem = parse("vfio-pci,host=01:00.0,x-foo=1,id=n,rombar=0").unwrap_err();
        assert_eq!(
            problem.why,
            "'x-foo' (it tunes QEMU's own code), 'rombar' (hide the expansion ROM with rom=off) are \
             keys of QEMU's without use here"
        );
        assert_eq!(problem.remedy, "write --device host=01:00.0,id=n");
    }

    #[test]
    fn a_rom_is_the_devices_none_or_a_file() {
        let rom =
            |text: &str| parse(&format!("host=01:00.0{text}")).map(|request| request.device.rom);
        assert_eq!(rom("").unwrap(), RomChoice::IfReadable);
        assert_eq!(rom(",rom=on").unwrap(), RomChoice::Shown);
        assert_eq!(rom(",rom=off").unwrap(), RomChoice::Hidden);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card.rom");
        let named = format!(",rom={}", path.display());
        let why = || rom(&named).unwrap_err().why;
        assert!(why().starts_with("No such file"), "{}", why());
        fs::write(&path, [0x55, 0xaa, 1]).unwrap();
        assert!(matches!(rom(&named), Ok(RomChoice::Image(_))));
        fs::write(&path, "#!/bin/sh").unwrap();
        assert!(why().contains("55 aa"), "{}", why());
        let mut large = vec![0; (16 << 20) + 1];
        large[..2].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&path, large).unwrap();
        assert!(why().contains("at most 16777216"), "{}", why());
        let folder = rom(&format!(",rom={}", folder.path().display()));
        assert_eq!(folder.unwrap_err().why, "it is no regular file");
        assert!(rom(",rom=").is_err());
        assert!(rom(",rom=on,rom=off").is_err());
    }

    #[test]
    fn an_address_alone_gets_its_key() {
        let problem = parse("0000:01:00.0").unwrap_err();
        assert_eq!(problem.remedy, "write --device host=0000:01:00.0");
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
            "host=01:00.0,id=_kvm",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
