//! JSON bodies of requests, proven valid.

use super::answer::{Refusal, RefusalKind};
use super::command::{Command, NewDevice, RemovalRequest};
use crate::device_keys;
use crate::spec::{DeviceRequest, ErrorPolicy, PlacementError, RemovalSpec};
use devices::host::Problem;
use devices::pci::{GuestBdf, HostSbdf};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Devices of one request: as many as the guest's bus has room for.
pub(super) const DEVICES: usize = 31 * 8;
/// Bytes of all ROM files of one request.
const ROMS: u64 = 64 << 20;
/// Seconds that a client may have a guest have for a device.
pub const LONGEST_TIMEOUT: u32 = 3600;

/// Body of `vm.add-device`. Keys down to `pci_device_id` are Cloud Hypervisor's, of those from `host` on are Ferry's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AddDevice {
    path: Option<String>,
    id: Option<String>,
    iommu: bool,
    pci_segment: u16,
    pci_device_id: Option<u8>,
    x_exclude_mmap_bars: Vec<Value>,
    host: Option<String>,
    addr: Option<String>,
    rom: Option<String>,
    managed: bool,
    on_error: Option<Policy>,
    request_timeout: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    Stop,
    Unplug,
    Report,
}

/// Body of `ferry.add-devices`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddDevices {
    devices: Vec<Value>,
}

/// Body of `vm.remove-device`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveDevice {
    id: String,
}

/// Body of `ferry.remove-device`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FerryRemoveDevice {
    id: String,
    #[serde(default)]
    force: bool,
    timeout: Option<u32>,
}

fn invalid(what: &str, why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, Problem::new(what, why, remedy))
}

/// What is asked of a command that takes nothing.
pub(super) fn nothing(body: &[u8]) -> Result<(), Refusal> {
    let body = body.trim_ascii();
    if body.is_empty() || [&b"{}"[..], b"null"].contains(&body) {
        return Ok(());
    }
    let what = "the request's body is not understood";
    Err(invalid(what, "this command takes none", "send no body"))
}

/// A body, `what` says which; `null`s in it count as absent.
fn parse<T: DeserializeOwned>(body: &[u8], what: &str, example: &str) -> Result<T, Refusal> {
    let misfit = |error: serde_json::Error| {
        let remedy = format!("send, for example: {example}");
        invalid(what, error.to_string(), remedy)
    };
    let mut value: Value = serde_json::from_slice(body).map_err(misfit)?;
    if let Value::Object(keys) = &mut value {
        keys.retain(|_, value| !value.is_null());
    }
    serde_json::from_value(value).map_err(misfit)
}

const ADD: &str = "the device to be added is not understood";

/// What `vm.add-device` asks for.
pub(super) fn add_device(body: &[u8]) -> Result<Command, Refusal> {
    let (host, body) = named_device(body)?;
    new_device(host, &body, &mut { ROMS }).map(Command::AddDevice)
}

/// What `ferry.add-devices` asks for. No file is read before it is known that they are not too many, nor one of them given twice.
pub(super) fn add_devices(body: &[u8]) -> Result<Command, Refusal> {
    const WHAT: &str = "the devices to be added are not understood";
    let example =
        r#"{"devices": [{"host": "01:00.0", "addr": "5.0"}, {"host": "01:00.1", "addr": "5.1"}]}"#;
    let AddDevices { devices } = parse(body, WHAT, example)?;
    if devices.is_empty() {
        let remedy = format!("send, for example: {example}");
        return Err(invalid(WHAT, "there is none", remedy));
    }
    if devices.len() > DEVICES {
        let why = format!("there are {}", devices.len());
        let remedy = format!("add up to {DEVICES}, which is all that a guest's bus has room for");
        return Err(invalid(WHAT, why, remedy));
    }
    let named = devices
        .iter()
        .map(|device| named_device(device.to_string().as_bytes()));
    let named: Vec<_> = named.collect::<Result<_, _>>()?;
    let mut hosts = BTreeSet::new();
    if let Some((host, _)) = named.iter().find(|(host, _)| !hosts.insert(*host)) {
        let problem = PlacementError::SameHostDevice(*host).problem();
        return Err(Refusal::new(RefusalKind::Conflict, problem));
    }
    let mut left = ROMS;
    let devices = named
        .iter()
        .map(|(host, body)| new_device(*host, body, &mut left));
    devices.collect::<Result<_, _>>().map(Command::AddDevices)
}

fn named_device(body: &[u8]) -> Result<(HostSbdf, AddDevice), Refusal> {
    let body: AddDevice = parse(body, ADD, r#"{"host": "01:00.0", "id": "nic0"}"#)?;
    Ok((host(&body, ADD)?, body))
}

/// The device, whose ROM file may have `left` bytes.
fn new_device(host: HostSbdf, body: &AddDevice, left: &mut u64) -> Result<NewDevice, Refusal> {
    let what = format!("{host} can't be added");
    let unsupported = |key: &str| {
        let why = format!("'{key}' asks for something that Ferry has not");
        invalid(&what, why, format!("leave '{key}' out"))
    };
    if body.iommu {
        return Err(unsupported("iommu"));
    }
    if body.pci_segment != 0 {
        return Err(unsupported("pci_segment"));
    }
    if !body.x_exclude_mmap_bars.is_empty() {
        return Err(unsupported("x_exclude_mmap_bars"));
    }
    let id = body.id.as_deref().map(device_keys::id).transpose();
    let id = id.map_err(|why| {
        invalid(
            &what,
            why,
            "use letters, digits, '-', '.', ':' and, but for the first, '_'",
        )
    })?;
    let guest = place(body, &what)?;
    let rom = body.rom.as_deref();
    let rom = rom.map(|value| device_keys::rom_within(value, left));
    let rom = rom.transpose();
    let rom = rom.map_err(|problem| Refusal::new(RefusalKind::Invalid, problem))?;
    Ok(NewDevice {
        device: DeviceRequest {
            host,
            id,
            guest,
            rom: rom.unwrap_or_default(),
            removal: removal(body),
        },
        managed: body.managed,
    })
}

/// The host address of `host`, or at the end of `path`.
fn host(body: &AddDevice, what: &str) -> Result<HostSbdf, Refusal> {
    let remedy = "give one, e.g. \"host\": \"0000:01:00.0\" or \"path\": \"/sys/bus/pci/devices/0000:01:00.0/\"";
    let text = match (&body.host, &body.path) {
        (Some(host), None) => host.as_str(),
        // A trailing slash is no part of the last component.
        (None, Some(path)) => Path::new(path)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default(),
        (None, None) => return Err(invalid(what, "it has neither 'host' nor 'path'", remedy)),
        (Some(_), Some(_)) => return Err(invalid(what, "it has 'host' and 'path'", remedy)),
    };
    text.parse()
        .map_err(|error| invalid(what, format!("{error}"), remedy))
}

fn place(body: &AddDevice, what: &str) -> Result<Option<GuestBdf>, Refusal> {
    let remedy = "give slot 0x1 to 0x1f and function 0 to 7, e.g. \"addr\": \"0x6.0x1\"";
    match (&body.addr, body.pci_device_id) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid(what, "it has 'addr' and 'pci_device_id'", remedy)),
        (Some(text), None) => device_keys::place(text)
            .map(Some)
            .map_err(|why| invalid(what, why, remedy)),
        (None, Some(slot)) => GuestBdf::new(slot, 0).map(Some).ok_or_else(|| {
            let why = format!("{slot} is no slot of the guest's bus");
            invalid(what, why, remedy)
        }),
    }
}

fn removal(body: &AddDevice) -> RemovalSpec {
    let default = RemovalSpec::default();
    RemovalSpec {
        on_error: body
            .on_error
            .map_or(default.on_error, |policy| match policy {
                Policy::Stop => ErrorPolicy::Stop,
                Policy::Unplug => ErrorPolicy::Unplug,
                Policy::Report => ErrorPolicy::Report,
            }),
        request_timeout: body
            .request_timeout
            .map_or(default.request_timeout, |seconds| {
                Duration::from_secs(seconds.into())
            }),
    }
}

const REMOVE: &str = "the device to be removed is not understood";

/// What `vm.remove-device` asks for.
pub(super) fn remove_device(body: &[u8]) -> Result<Command, Refusal> {
    let body: RemoveDevice = parse(body, REMOVE, r#"{"id": "nic0"}"#)?;
    Ok(Command::RemoveDevice {
        id: body.id,
        how: RemovalRequest::Ask,
    })
}

/// What `ferry.remove-device` asks for.
pub(super) fn ferry_remove_device(body: &[u8]) -> Result<Command, Refusal> {
    let body: FerryRemoveDevice = parse(body, REMOVE, r#"{"id": "nic0", "timeout": 10}"#)?;
    if body
        .timeout
        .is_some_and(|seconds| seconds > LONGEST_TIMEOUT)
    {
        let why = format!("its 'timeout' is longer than {LONGEST_TIMEOUT} seconds");
        let remedy = format!("give the guest up to {LONGEST_TIMEOUT} seconds, or ask again later");
        return Err(invalid(REMOVE, why, remedy));
    }
    Ok(Command::RemoveDevice {
        id: body.id,
        how: RemovalRequest::Await {
            timeout: body
                .timeout
                .map(|seconds| Duration::from_secs(seconds.into())),
            force: body.force,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(body: &str) -> Result<NewDevice, Problem> {
        match add_device(body.as_bytes()) {
            Ok(Command::AddDevice(device)) => Ok(device),
            Ok(other) => panic!("{other:?}"),
            Err(mut refusal) => {
                assert_eq!(refusal.kind, RefusalKind::Invalid);
                Err(refusal.problems.remove(0))
            }
        }
    }

    #[test]
    fn a_device_is_named_as_cloud_hypervisor_does_or_as_ferry_does() {
        let theirs = r#"{"path": "/sys/bus/pci/devices/0000:01:00.0/", "pci_segment": 0,
                         "x_exclude_mmap_bars": [], "iommu": false, "x_nv_gpudirect_clique": null}"#;
        let ours = r#"{"host": "01:00.0"}"#;
        assert_eq!(device(theirs), device(ours));
        assert_eq!(
            device(ours).unwrap().device.host.to_string(),
            "0000:01:00.0"
        );
        let placed = device(r#"{"host": "01:00.0", "pci_device_id": 6}"#).unwrap();
        assert_eq!(
            placed,
            device(r#"{"host": "01:00.0", "addr": "0x6"}"#).unwrap()
        );
    }

    #[test]
    fn several_devices_are_understood_as_each_alone_is() {
        let one = r#"{"host": "01:00.0", "addr": "5.0"}"#;
        let two = r#"{"host": "01:00.1", "addr": "5.1", "id": null}"#;
        let both = format!(r#"{{"devices": [{one}, {two}]}}"#);
        let Ok(Command::AddDevices(devices)) = add_devices(both.as_bytes()) else {
            panic!("refused");
        };
        assert_eq!(devices, [device(one).unwrap(), device(two).unwrap()]);
        for bad in [r#"{"devices": []}"#, r#"{"devices": [{}]}"#, "[]", "{}"] {
            assert!(add_devices(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn refused(bodies: &[String]) -> Refusal {
        let body = format!(r#"{{"devices": [{}]}}"#, bodies.join(","));
        add_devices(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn more_devices_than_there_is_room_for_and_one_twice_are_refused_before_a_file_is_read() {
        // It would be refused for that, too.
        let with_rom = |host: String| format!(r#"{{"host": "{host}", "rom": "/nonexistent"}}"#);
        let nth = |nth: usize| {
            with_rom(format!(
                "{:02x}:{:02x}.{}",
                nth >> 8,
                nth >> 3 & 31,
                nth & 7
            ))
        };
        let all: Vec<_> = (0..=DEVICES).map(nth).collect();
        let many = refused(&all);
        assert_eq!(many.status(), 400);
        assert_eq!(many.problems[0].why, "there are 249");
        let twice = refused(&[nth(8), nth(9), nth(8)]);
        assert_eq!(twice.status(), 409);
        assert!(twice.problems[0].why.contains("given twice"));
        assert!(
            refused(&all[..DEVICES]).problems[0]
                .what
                .contains("/nonexistent")
        );
    }

    #[test]
    fn rom_files_of_one_request_are_limited_together() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut image = vec![0; 16 << 20];
        image[..2].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(file.path(), image).unwrap();
        let device = |nth| format!(r#"{{"host": "01:0{nth}.0", "rom": {:?}}}"#, file.path());
        let devices: Vec<_> = (0..5).map(device).collect();
        let four = format!(r#"{{"devices": [{}]}}"#, devices[..4].join(","));
        assert!(add_devices(four.as_bytes()).is_ok());
        let problem = refused(&devices).problems.remove(0);
        assert!(
            problem.why.contains("too large for one request"),
            "{problem}"
        );
    }

    #[test]
    fn all_keys_of_a_device_are_understood() {
        let all = r#"{"host": "01:00.0", "id": "nic0", "addr": "6.1", "rom": "off", "managed": true,
                      "on_error": "unplug", "request_timeout": 3}"#;
        let NewDevice { device, managed } = device(all).unwrap();
        assert!(managed);
        assert_eq!(device.id.as_deref(), Some("nic0"));
        assert_eq!(device.guest, GuestBdf::new(6, 1));
        assert_eq!(device.rom, devices::vfio::RomChoice::Hidden);
        assert_eq!(device.removal.on_error, ErrorPolicy::Unplug);
        assert_eq!(device.removal.request_timeout, Duration::from_secs(3));
    }

    #[test]
    fn a_key_that_is_not_known_is_named() {
        let why = |body: &str| device(body).unwrap_err().why;
        let unknown = why(r#"{"host": "01:00.0", "adr": "6"}"#);
        assert!(unknown.contains("unknown field `adr`"), "{unknown}");
        assert!(why(r#"{"host": "01:00.0", "iommu": true}"#).contains("'iommu'"));
        assert!(why(r#"{"host": "01:00.0", "pci_segment": 1}"#).contains("'pci_segment'"));
    }

    #[test]
    fn a_device_that_makes_no_sense_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "{\"host\": 1}",
            r#"{"host": "01:00"}"#,
            r#"{"path": "/"}"#,
            r#"{"path": "/dev/null"}"#,
            r#"{"host": "01:00.0", "path": "/sys/bus/pci/devices/0000:01:00.0"}"#,
            r#"{"host": "01:00.0", "addr": "0x20"}"#,
            r#"{"host": "01:00.0", "addr": "6", "pci_device_id": 6}"#,
            r#"{"host": "01:00.0", "pci_device_id": 32}"#,
            r#"{"host": "01:00.0", "id": "a b"}"#,
            r#"{"host": "01:00.0", "id": "_vcpu0"}"#,
            r#"{"host": "01:00.0", "on_error": "explode"}"#,
            r#"{"host": "01:00.0", "rom": "/nonexistent"}"#,
            r#"{"host": "01:00.0"} {}"#,
        ] {
            let problem = device(body).unwrap_err();
            assert!(problem.why.len() > 5, "{body}: {problem}");
        }
    }

    #[test]
    fn json_as_deep_as_a_body_is_long_is_refused() {
        let deep = "[".repeat(super::super::message::BODY_LIMIT);
        assert!(device(&deep).unwrap_err().why.contains("recursion limit"));
    }

    #[test]
    fn removals_are_asked_for_or_awaited() {
        let asked = remove_device(br#"{"id": "nic0"}"#).unwrap();
        let id = "nic0".to_owned();
        assert_eq!(
            asked,
            Command::RemoveDevice {
                id: id.clone(),
                how: RemovalRequest::Ask
            }
        );
        let awaited =
            ferry_remove_device(br#"{"id": "nic0", "force": true, "timeout": 0}"#).unwrap();
        let how = RemovalRequest::Await {
            timeout: Some(Duration::ZERO),
            force: true,
        };
        assert_eq!(awaited, Command::RemoveDevice { id, how });
        assert!(remove_device(br#"{"id": "nic0", "force": true}"#).is_err());
        assert!(remove_device(b"{}").is_err());
        assert!(ferry_remove_device(br#"{"id": "nic0", "timeout": -1}"#).is_err());
        assert!(ferry_remove_device(br#"{"id": "nic0", "timeout": 3600}"#).is_ok());
        assert!(ferry_remove_device(br#"{"id": "nic0", "timeout": 3601}"#).is_err());
    }

    #[test]
    fn a_command_without_a_body_takes_an_empty_one() {
        for body in ["", " ", "{}", "null"] {
            assert!(nothing(body.as_bytes()).is_ok(), "{body}");
        }
        assert!(nothing(b"{\"a\": 1}").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = (add_device(&body), remove_device(&body), ferry_remove_device(&body), nothing(&body));
        }

        #[test]
        fn arbitrary_texts_in_a_device_never_panic(host in ".*", addr in ".*", id in ".*") {
            let body = serde_json::json!({"host": host, "addr": addr, "id": id, "path": null});
            let _ = add_device(body.to_string().as_bytes());
        }
    }
}
