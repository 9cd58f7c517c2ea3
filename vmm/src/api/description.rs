//! `openapi.yaml` against the code, both ways.

use super::request;
use super::route::{ROOT, ROUTES, command, is_listed};
use super::{AddedDevice, Ping, Refusal, RefusalKind, State, VmInfo};
use crate::spec::tests::request as device_request;
use crate::spec::{CpuCount, MachineSpec, MemorySize, SerialSpec, place};
use devices::host::Problem;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn description() -> Value {
    serde_yaml_ng::from_str(include_str!("openapi.yaml")).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// Whether `value` is of `schema`, as far as this description goes; where it isn't.
fn mismatch(value: &Value, schema: &Value, all: &Value, at: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = all.pointer(reference.trim_start_matches('#')).unwrap();
        return mismatch(value, schema, all, at);
    }
    let fits = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        other => panic!("{at}: the type {other} is not checked"),
    };
    if !fits
        || schema["enum"]
            .as_array()
            .is_some_and(|all| !all.contains(value))
    {
        return Some(format!("{at}: {value}"));
    }
    if let Some(items) = value.as_array() {
        return items
            .iter()
            .find_map(|item| mismatch(item, &schema["items"], all, at));
    }
    let fields = value.as_object()?;
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let missing = required
        .iter()
        .find(|name| !fields.contains_key(name.as_str().unwrap()));
    if let Some(name) = missing {
        return Some(format!("{at} lacks {name}"));
    }
    fields.iter().find_map(|(name, value)| {
        let at = format!("{at}.{name}");
        let listed = schema["properties"].get(name);
        match listed.or(schema.get("additionalProperties")) {
            Some(schema) => mismatch(value, schema, all, &at),
            None => Some(format!("{at} is not described")),
        }
    })
}

#[track_caller]
fn is_described(value: &Value, schema: &str) {
    let all = description();
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    assert_eq!(mismatch(value, &reference, &all, schema), None);
}

fn spec() -> MachineSpec {
    MachineSpec {
        kernel: "/boot/vmlinuz".into(),
        initramfs: Some("/boot/initrd.img".into()),
        cmdline: "quiet".to_owned(),
        cpus: CpuCount::new(2).unwrap(),
        memory: MemorySize::new(512 << 20).unwrap(),
        huge_pages: None,
        devices: Vec::new(),
        passed: Default::default(),
        peer_to_peer: true,
        serial: SerialSpec::File("/tmp/console".into()),
        stats: None,
        no_reboot: false,
        on_panic: Default::default(),
        stop_timeout: Default::default(),
    }
}

#[test]
fn every_path_is_described_with_its_method_and_statuses_and_nothing_else_is() {
    let all = description();
    let described = keys(&all["paths"]);
    let served = ROUTES.map(|route| format!("/{}", route.name));
    assert_eq!(described, BTreeSet::from(served));
    for route in ROUTES {
        let path = &all["paths"][format!("/{}", route.name)];
        let method = route.method.to_lowercase();
        assert_eq!(
            keys(path),
            BTreeSet::from([method.clone()]),
            "{}",
            route.name
        );
        let statuses = route.statuses.iter().map(u16::to_string).collect();
        assert_eq!(keys(&path[method]["responses"]), statuses, "{}", route.name);
    }
}

/// The server compares each answer with this while it is tested.
#[test]
fn a_status_that_is_not_listed_for_a_path_is_found_out() {
    let listed = |method, name: &str, status| is_listed(method, &format!("{ROOT}{name}"), status);
    assert!(listed("GET", "vm.info", 200) && listed("GET", "vm.info", 429));
    assert!(!listed("GET", "vm.info", 204) && !listed("GET", "vm.info", 409));
    assert!(listed("PUT", "vm.add-device", 409) && listed("PUT", "vm.add-device", 404));
    assert!(!listed("PUT", "vm.add-device", 405) && listed("GET", "vm.add-device", 405));
    assert!(listed("GET", "vm.create", 404) && !listed("GET", "vm.create", 200));
}

/// What is there is described, by [`mismatch`]; and nothing more is, wherever all of it is there.
#[test]
fn keys_of_answers_are_those_of_the_description() {
    let all = description();
    let devices = place(&[device_request("01:00.0", None)]).unwrap();
    let added = serde_json::to_value(AddedDevice::of(&devices[0])).unwrap();
    let schema = |pointer: &str| {
        keys(
            all.pointer(&format!("/components/schemas/{pointer}"))
                .unwrap(),
        )
    };
    assert_eq!(keys(&added), schema("AddedDevice/properties"));
    let info = VmInfo::new(&spec(), &[], State::Running).with_arriving(&devices, 1);
    let info = serde_json::to_value(info).unwrap();
    assert_eq!(keys(&info), schema("VmInfo/properties"));
    assert_eq!(
        keys(&info["arriving"]),
        schema("VmInfo/properties/arriving/properties")
    );
}

#[test]
fn examples_of_bodies_are_understood_and_described() {
    let all = description();
    let mut count = 0;
    for (path, methods) in all["paths"].as_object().unwrap() {
        let Some(body) = methods.get("put").and_then(|put| put.get("requestBody")) else {
            continue;
        };
        let media = &body["content"]["application/json"];
        for (name, example) in media["examples"].as_object().unwrap() {
            let value = &example["value"];
            let parsed = command(
                "PUT",
                &format!("/api/v1{path}"),
                value.to_string().as_bytes(),
            );
            assert!(parsed.is_ok(), "{path} {name}: {parsed:?}");
            assert_eq!(mismatch(value, &media["schema"], &all, name), None);
            count += 1;
        }
    }
    assert!(count >= 6);
}

/// A body of one key, of the type that the description gives it, is not refused for an unknown field.
#[test]
fn keys_of_bodies_are_those_of_the_description() {
    let parsers = [
        ("AddDevice", request::add_device as fn(&[u8]) -> _),
        ("AddDevices", request::add_devices),
        ("RemoveDevice", request::remove_device),
        ("FerryRemoveDevice", request::ferry_remove_device),
    ];
    for (schema, parse) in parsers {
        let all = description();
        let described = keys(&all["components"]["schemas"][schema]["properties"]);
        let refusal: Result<_, Refusal> = parse(br#"{"no such key": 1}"#);
        let why = refusal.unwrap_err().problems.remove(0).why;
        let (_, listed) = why.split_once("expected").unwrap();
        let understood = listed
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert_eq!(described, understood, "{schema}");
    }
}

#[test]
fn answers_are_as_described() {
    is_described(&serde_json::to_value(Ping::own()).unwrap(), "Ping");
    is_described(&json!({"exit_code": 10}), "End");
    let refusal = Refusal::new(RefusalKind::Busy, Problem::new("a", "b", "c"));
    is_described(&serde_json::from_str(&refusal.body()).unwrap(), "Problems");
    let report = crate::stats::tests::report(true);
    is_described(
        &serde_json::to_value(report.counters()).unwrap(),
        "Counters",
    );
    is_described(&serde_json::to_value(report).unwrap(), "Stats");
    let devices = place(&[device_request("01:00.0", None)]).unwrap();
    let spec = spec();
    is_described(
        &serde_json::to_value(AddedDevice::of(&devices[0])).unwrap(),
        "AddedDevice",
    );
    let info = VmInfo::new(&spec, &[], State::Running).with_arriving(&devices, 1 << 20);
    let info = serde_json::to_value(info).unwrap();
    assert!(info["arriving"].is_object());
    is_described(&info, "VmInfo");
    let info = VmInfo::new(&spec, &[&devices[0]], State::Paused);
    let info = serde_json::to_value(info).unwrap();
    is_described(&info, "VmInfo");
    // As existing clients read them.
    assert_eq!(
        info["config"]["devices"][0]["path"],
        "/sys/bus/pci/devices/0000:01:00.0"
    );
    assert_eq!(
        info["device_tree"]["0000:01:00.0"]["pci_bdf"],
        "0000:00:01.0"
    );
    assert_eq!(info["state"], "Paused");
}
