//! `docs/events.md` against the code.

use super::*;
use crate::machine::Outcome;
use crate::stats::Departure;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;

const DOCUMENT: &str = include_str!("../../../docs/events.md");

/// Names by what has them.
type Names = BTreeMap<String, BTreeSet<String>>;

/// The rows of the table below a heading: of each cell, the words that are set as code.
fn rows(heading: &str) -> Vec<Vec<Vec<String>>> {
    let section = DOCUMENT.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let words = |cell: &str| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    rows.map(|row| row.trim_matches('|').split('|').map(words).collect())
        .collect()
}

fn device() -> DeviceAddress {
    DeviceAddress {
        id: "nic0".to_owned(),
        host: "0000:01:00.0".to_owned(),
        guest: "0000:00:01.0".to_owned(),
    }
}

// Each chain visits all variants of its type: one that is added does not compile until it has its place.

fn origins() -> impl Iterator<Item = Origin> {
    successors(Some(Origin::Start), |origin| match origin {
        Origin::Start => Some(Origin::Api),
        Origin::Api => None,
    })
}

fn departures() -> impl Iterator<Item = Departure> {
    successors(Some(Departure::Ejected), |departure| match departure {
        Departure::Ejected => Some(Departure::Taken),
        Departure::Taken => Some(Departure::Reboot),
        Departure::Reboot => None,
    })
}

fn eject_reasons() -> impl Iterator<Item = EjectReason> {
    successors(Some(EjectReason::Host), |reason| match reason {
        EjectReason::Host => Some(EjectReason::Api),
        EjectReason::Api => None,
    })
}

fn error_consequences() -> impl Iterator<Item = ErrorConsequence> {
    use ErrorConsequence::{Report, Stop, Unplug};
    successors(Some(Stop), |then| match then {
        Stop => Some(Unplug),
        Unplug => Some(Report),
        Report => None,
    })
}

fn reboot_reasons() -> impl Iterator<Item = RebootReason> {
    use RebootReason::{AcpiReset, Api, KeyboardReset, Panic, TripleFault};
    successors(Some(AcpiReset), |reason| match reason {
        AcpiReset => Some(KeyboardReset),
        KeyboardReset => Some(TripleFault),
        TripleFault => Some(Panic),
        Panic => Some(Api),
        Api => None,
    })
}

fn panics() -> impl Iterator<Item = (PanicKind, PanicConsequence)> {
    use PanicConsequence::{Reboot, Report, Stop};
    use PanicKind::{CrashLoaded, Panicked};
    successors(Some((Panicked, Stop)), |panic| match panic {
        (Panicked, Stop) => Some((Panicked, Reboot)),
        (Panicked, Reboot) => Some((Panicked, Report)),
        (Panicked, Report) => Some((CrashLoaded, Report)),
        (CrashLoaded, Stop | Reboot | Report) => None,
    })
}

fn outcomes() -> impl Iterator<Item = Outcome> {
    let problem = || devices::host::Problem::new("what", "why", "fix");
    let first = Some(Outcome::PoweredOff);
    successors(first, move |outcome| match outcome {
        Outcome::PoweredOff => Some(Outcome::GuestStatus(1)),
        Outcome::GuestStatus(_) => Some(Outcome::Reset),
        Outcome::Reset => Some(Outcome::Crashed("why".to_owned())),
        Outcome::Crashed(_) => Some(Outcome::Panicked),
        Outcome::Panicked => Some(Outcome::HostFailed("why".to_owned())),
        Outcome::HostFailed(_) => Some(Outcome::MemoryFailed(problem())),
        Outcome::MemoryFailed(_) => Some(Outcome::DeviceFailed(problem())),
        Outcome::DeviceFailed(_) => Some(Outcome::Stopped),
        Outcome::Stopped => None,
    })
}

/// The first of the next kind of event.
fn next(event: &Event) -> Option<Event> {
    let (device, errors) = (device(), 0);
    Some(match event {
        Event::Started { .. } => Event::DeviceAdded {
            device,
            how: Origin::Start,
        },
        Event::DeviceAdded { .. } => Event::DeviceRemoved {
            device,
            errors,
            how: Departure::Ejected,
        },
        Event::DeviceRemoved { .. } => Event::EjectRequested {
            devices: vec![device],
            why: EjectReason::Host,
        },
        Event::EjectRequested { .. } => Event::ErrorInterrupt {
            device,
            errors,
            then: ErrorConsequence::Stop,
        },
        Event::ErrorInterrupt { .. } => Event::RequestInterrupt { device },
        Event::RequestInterrupt { .. } => Event::GuestReboot {
            why: RebootReason::Api,
            boots: 2,
        },
        Event::GuestReboot { .. } => Event::Panic {
            what: PanicKind::Panicked,
            then: PanicConsequence::Stop,
        },
        Event::Panic { .. } => Event::shutdown(&Outcome::Stopped, 10),
        Event::Shutdown { .. } => return None,
    })
}

/// Events of this kind, with all words that it may have.
fn with_all_words(event: &Event) -> Vec<Event> {
    let (device, errors, boots) = (device(), 0, 2);
    let device = || device.clone();
    match event {
        Event::Started { .. } | Event::RequestInterrupt { .. } => vec![event.clone()],
        Event::DeviceAdded { .. } => {
            let event = |how| Event::DeviceAdded {
                device: device(),
                how,
            };
            origins().map(event).collect()
        }
        Event::DeviceRemoved { .. } => departures()
            .map(|how| Event::DeviceRemoved {
                device: device(),
                errors,
                how,
            })
            .collect(),
        Event::EjectRequested { .. } => eject_reasons()
            .map(|why| Event::EjectRequested {
                devices: vec![device()],
                why,
            })
            .collect(),
        Event::ErrorInterrupt { .. } => error_consequences()
            .map(|then| Event::ErrorInterrupt {
                device: device(),
                errors,
                then,
            })
            .collect(),
        Event::GuestReboot { .. } => reboot_reasons()
            .map(|why| Event::GuestReboot { why, boots })
            .collect(),
        Event::Panic { .. } => panics()
            .map(|(what, then)| Event::Panic { what, then })
            .collect(),
        Event::Shutdown { .. } => outcomes()
            .map(|outcome| Event::shutdown(&outcome, 0))
            .collect(),
    }
}

/// All events, with all words.
fn events() -> Vec<Value> {
    let first = Event::Started {
        version: "1",
        pid: 1,
        cpus: 1,
        memory: 1,
    };
    let kinds = successors(Some(first), next);
    let all: Vec<_> = kinds.flat_map(|event| with_all_words(&event)).collect();
    all.iter()
        .map(|event| serde_json::to_value(event).unwrap())
        .collect()
}

#[test]
fn events_and_their_fields_are_those_of_the_document() {
    let mut told = Names::new();
    for event in events() {
        let fields = event.as_object().unwrap();
        let name = fields["event"].as_str().unwrap().to_owned();
        let fields = fields.keys().filter(|key| *key != "event").cloned();
        told.entry(name).or_default().extend(fields);
    }
    let documented: Names = rows("Events")
        .into_iter()
        .map(|row| (row[0][0].clone(), row[2].iter().cloned().collect()))
        .collect();
    assert_eq!(told, documented);
}

#[test]
fn words_in_fields_are_those_of_the_document() {
    let mut told = Names::new();
    for event in events() {
        for field in ["how", "why", "what", "then", "outcome"] {
            if let Some(word) = event.get(field) {
                let key = format!("{} {field}", event["event"].as_str().unwrap());
                let words = told.entry(key).or_default();
                words.insert(word.as_str().unwrap().to_owned());
            }
        }
    }
    let documented: Names = rows("Words")
        .into_iter()
        .map(|row| {
            let key = format!("{} {}", row[0][0], row[1][0]);
            (key, row[2].iter().cloned().collect())
        })
        .collect();
    assert_eq!(told, documented);
}
