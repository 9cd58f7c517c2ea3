//! `ferry check`: whether this host can give devices to a guest, fact by fact.

use super::report::{self, Place};
use super::{Failure, address, size};
use devices::host::{CheckRequest, Finding, HostFunction, Mark, PciNames, check};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Say whether this host can give devices to a guest, and what to do where it can't
#[derive(clap::Args)]
#[command(after_help = "\
Each fact has a mark: \u{2713} it is as it has to be, ! worth knowing, \u{2717} no guest can have the devices until that \
is put right; the line below says how. The exit code is 0 if nothing is marked \u{2717}, else 1.")]
pub(super) struct Arguments {
    /// Devices that one guest is to have, as lspci writes their addresses; none: look at the host alone
    #[arg(value_name = "BDF")]
    devices: Vec<String>,
    /// Hold the limits against a guest of that much RAM, given as for ferry run
    #[arg(long, value_name = "SIZE|size=SIZE[,\u{2026}]")]
    memory: Option<String>,
    /// Print JSON (docs/host.md has its shape)
    #[arg(long)]
    json: bool,
    /// Also write all that Ferry reads of this host to a new file, to go with a bug report; secrets are left out
    #[arg(long, value_name = "FILE", conflicts_with = "report")]
    save_report: Option<PathBuf>,
    /// Look at the host that such a file is of instead of this one
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    usable: bool,
    findings: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    device: Option<String>,
    mark: &'static str,
    topic: &'a str,
    fact: &'a str,
    fix: Option<&'a str>,
}

/// Prints the facts; 0 if the host and the devices are usable, else 1.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let devices: Result<Vec<_>, _> = arguments.devices.iter().map(|text| address(text)).collect();
    let devices = devices.map_err(Failure::usage)?;
    let memory = arguments.memory.as_deref().map(size::parse).transpose();
    let memory = memory.map_err(Failure::usage)?;
    let place = Place::new(arguments.report.as_deref())?;
    if let Some(path) = &arguments.save_report {
        report::save(path, &place)?;
    }
    let root = &place.root;
    let request = CheckRequest {
        devices: &devices,
        guest_ram: memory.map(|(ram, _)| ram.bytes()),
        huge_pages: memory.and_then(|(_, pages)| pages),
    };
    let mut findings = check(root, &request, &*place.process);
    for finding in &mut findings {
        let remedy = finding.remedy.take();
        finding.remedy = remedy.map(|remedy| place.for_reader(remedy));
    }
    let usable = findings.iter().all(|finding| finding.mark < Mark::Bad);
    let text = if arguments.json {
        json(usable, &findings)
    } else {
        let functions: Vec<_> = devices
            .iter()
            .filter_map(|one| root.function(*one).ok())
            .collect();
        let names = root.pci_names(&functions);
        blocks(&findings, &functions, &names)
    };
    // Who reads may have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    if let Some(path) = &arguments.save_report {
        eprintln!(
            "ferry: {} has what Ferry has read of this host; look through it before you hand it on",
            path.display()
        );
    }
    Ok(ExitCode::from(u8::from(!usable)))
}

fn json(usable: bool, findings: &[Finding]) -> String {
    let entry = |finding: &'_ Finding| finding.device.map(|device| device.to_string());
    let report = Report {
        usable,
        findings: findings
            .iter()
            .map(|finding| Entry {
                device: entry(finding),
                mark: match finding.mark {
                    Mark::Good => "good",
                    Mark::Caution => "caution",
                    Mark::Bad => "bad",
                },
                topic: finding.topic,
                fact: &finding.fact,
                fix: finding.remedy.as_deref(),
            })
            .collect(),
    };
    // Plain data: there is nothing in it that can't be written.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

/// A block for the host and one for each device, a line for each fact, and one that sums them up.
fn blocks(findings: &[Finding], functions: &[HostFunction], names: &PciNames) -> String {
    let width = findings
        .iter()
        .map(|one| one.topic.len())
        .max()
        .unwrap_or_default();
    let mut text = "Host\n".to_owned();
    let mut block = None;
    for finding in findings {
        if finding.device != block {
            block = finding.device;
            let _ = writeln!(text, "{}", heading(finding, functions, names));
        }
        let mark = match finding.mark {
            Mark::Good => '\u{2713}',
            Mark::Caution => '!',
            Mark::Bad => '\u{2717}',
        };
        let _ = writeln!(text, "  {mark} {:<width$}  {}", finding.topic, finding.fact);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "    {:<width$}  fix: {remedy}", "");
        }
    }
    let count = |mark| {
        findings
            .iter()
            .filter(|finding| finding.mark == mark)
            .count()
    };
    let _ = match count(Mark::Bad) {
        0 => writeln!(text, "\nUsable."),
        1 => writeln!(text, "\nNot usable: put 1 thing right first."),
        many => writeln!(text, "\nNot usable: put {many} things right first."),
    };
    text
}

fn heading(finding: &Finding, functions: &[HostFunction], names: &PciNames) -> String {
    let Some(device) = finding.device else {
        return "Host".to_owned();
    };
    match functions.iter().find(|function| function.sbdf == device) {
        Some(function) => format!(
            "{device} {}: {}",
            names.kind(function),
            names.title(function)
        ),
        None => device.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(device: Option<&str>, mark: Mark, remedy: Option<&str>) -> Finding {
        Finding {
            device: device.map(|text| text.parse().unwrap()),
            mark,
            topic: if device.is_some() { "driver" } else { "KVM" },
            fact: "a fact".to_owned(),
            remedy: remedy.map(str::to_owned),
        }
    }

    #[test]
    fn a_block_for_the_host_and_one_for_each_device() {
        let findings = [
            finding(None, Mark::Good, None),
            finding(Some("01:00.0"), Mark::Bad, Some("do it")),
        ];
        assert_eq!(
            blocks(&findings, &[], &PciNames::default()),
            "Host\n  \u{2713} KVM     a fact\n0000:01:00.0\n  \u{2717} driver  a fact\n            fix: do it\n\n\
             Not usable: put 1 thing right first.\n"
        );
    }

    #[test]
    fn what_is_worth_knowing_leaves_a_host_usable() {
        let findings = [finding(None, Mark::Caution, None)];
        let text = blocks(&findings, &[], &PciNames::default());
        assert_eq!(text, "Host\n  ! KVM  a fact\n\nUsable.\n");
    }

    #[test]
    fn json_has_every_fact() {
        let findings = [finding(Some("01:00.0"), Mark::Bad, Some("do it"))];
        let value: serde_json::Value = serde_json::from_str(&json(false, &findings)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"usable": false, "findings": [
                {"device": "0000:01:00.0", "mark": "bad", "topic": "driver", "fact": "a fact", "fix": "do it"}
            ]})
        );
    }
}
