//! `ferry add` and `ferry remove`: devices of a running guest.

use super::guest::Guest;
use super::{Failure, device, shown};
use devices::host::Problem;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use vmm::api::LONGEST_TIMEOUT;

/// How often a person is told how far it is.
const GLANCE: Duration = Duration::from_millis(500);

/// Give a running guest a device
#[derive(clap::Args)]
#[command(
    override_usage = "ferry add <NAME> <DEVICE>...\n       ferry add --socket <PATH> <DEVICE>...",
    after_help = "\
The guest's kernel is told of the device when it is open and all guest RAM can be reached by it, which for a guest's first \
device takes as long as it takes to pin the RAM. If anything fails, nothing is changed and the guest has seen nothing. With \
managed=on the device is bound to vfio-pci first, and goes back to its driver when it leaves."
)]
pub(super) struct Add {
    /// The guest's name, unless --socket tells, and the device: host=BDF[,id=NAME][,addr=SLOT[.FN]] and so on, as of ferry run
    /// --device; several come together or not at all, as functions of one slot must
    #[arg(value_name = "NAME DEVICE")]
    words: Vec<String>,
    /// The guest's socket, as of ferry run --api-socket PATH
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Take a device from a running guest: ask the guest to let go of it and wait until it has
#[derive(clap::Args)]
#[command(
    override_usage = "ferry remove [OPTIONS] <NAME> <ID>\n       ferry remove [OPTIONS] --socket <PATH> <ID>",
    after_help = "\
All functions of the device's slot leave with it, and go back to their drivers if they are managed. A guest that does not let \
go in time keeps the device, unless --force says otherwise; --force --timeout 0 takes it away at once."
)]
pub(super) struct Remove {
    /// The guest's name, unless --socket tells, and the device's id
    #[arg(value_name = "NAME ID")]
    words: Vec<String>,
    /// The guest's socket, as of ferry run --api-socket PATH
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Take it away when the guest has not let go of it in time
    #[arg(long)]
    force: bool,
    /// How long the guest may take, up to 3600, if not as long as the device's request-timeout says
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

/// The guest and the words that are not its name.
fn split<'a>(
    words: &'a [String],
    socket: &Option<PathBuf>,
    example: &str,
) -> Result<(Guest, &'a [String]), Failure> {
    let (name, rest) = match (words.split_first(), socket) {
        (Some(_), Some(_)) => (None, words),
        (Some((name, rest)), None) => (Some(name.as_str()), rest),
        (None, _) => (None, words),
    };
    if rest.is_empty() {
        return Err(Failure::usage(Problem::new(
            "the command line is not understood",
            "it takes a guest, by its name or --socket, and a device",
            format!("write, for example: {example}"),
        )));
    }
    Ok((Guest::of(name, socket.as_deref())?, rest))
}

impl Add {
    /// `ferry add`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let example = "ferry add web1 host=01:00.0,id=nic0";
        let (guest, devices) = split(&self.words, &self.socket, example)?;
        let mut bodies = Vec::with_capacity(devices.len());
        for text in devices {
            // What is wrong with it is told here, in the words of ferry run.
            device::parse(text).map_err(Failure::usage)?;
            bodies.push(body(text).map_err(Failure::usage)?);
        }
        let body = json!({ "devices": bodies });
        let added = watched(&guest, || {
            guest.ask("PUT", "ferry.add-devices", Some(&body), None)
        })?;
        let added = added.unwrap_or_default();
        let mut text = String::new();
        for one in added.as_array().map_or(&[][..], Vec::as_slice) {
            let word = |key: &str| one[key].as_str().unwrap_or("?");
            text += &format!("{} is at {} in the guest\n", word("id"), word("bdf"));
        }
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

/// Does `work`, and tells a person on a terminal meanwhile how far guest RAM has been pinned, if that takes long.
fn watched<T>(guest: &Guest, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut written = false;
            while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                let Some(line) = guest.get("vm.info").ok().as_ref().and_then(progress) else {
                    continue;
                };
                eprint!("\r{line}\x1b[K");
                written = true;
            }
            if written {
                eprint!("\r\x1b[K");
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// How far guest RAM has been faulted in, as `vm.info` tells.
fn progress(info: &Value) -> Option<String> {
    let done = info["arriving"]["memory_populated"].as_u64()?;
    let all = info["config"]["memory"]["size"].as_u64()?;
    let percent = done.saturating_mul(100).checked_div(all)?;
    let (done, all) = (done >> 20, all >> 20);
    Some(match percent {
        0 => "opening the device".to_owned(),
        100.. => format!("{all} MiB of guest RAM are there and being mapped for DMA"),
        _ => format!("{done} of {all} MiB of guest RAM are there ({percent} %)"),
    })
}

impl Remove {
    /// `ferry remove`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let example = "ferry remove web1 nic0";
        let (guest, words) = split(&self.words, &self.socket, example)?;
        let [id] = words else {
            return Err(Failure::usage(Problem::new(
                "the command line is not understood",
                "one device is removed at a time, with all others of its slot",
                format!("write, for example: {example}"),
            )));
        };
        patience(self.timeout).map_err(Failure::usage)?;
        let body = json!({"id": id, "force": self.force, "timeout": self.timeout});
        guest.ask("PUT", "ferry.remove-device", Some(&body), None)?;
        let _ = io::stdout().write_all(format!("{id} has left the guest\n").as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses what the guest's Ferry would.
fn patience(timeout: Option<u32>) -> Result<(), Problem> {
    match timeout.filter(|seconds| *seconds > LONGEST_TIMEOUT) {
        None => Ok(()),
        Some(seconds) => Err(Problem::new(
            format!("--timeout {seconds} is too long"),
            format!("a client waits for a guest up to {LONGEST_TIMEOUT} s"),
            format!("give a number up to that, e.g. --timeout {LONGEST_TIMEOUT}"),
        )),
    }
}

/// The keys of `--device` as those of `vm.add-device`. They have been understood already.
fn body(text: &str) -> Result<Value, Problem> {
    let mut body = Map::new();
    let keys = text.split(',').filter_map(|option| option.split_once('='));
    for (key, value) in keys {
        let value = match key {
            "managed" => json!(value == "on"),
            "request-timeout" => json!(value.parse::<u32>().unwrap_or_default()),
            "host" | "id" | "addr" | "on-error" => json!(value),
            "rom" if ["on", "off"].contains(&value) => json!(value),
            // The guest's Ferry has a working directory of its own.
            "rom" => json!(fs::canonicalize(value).unwrap_or_else(|_| value.into())),
            _ => {
                return Err(Problem::new(
                    format!("{key}= can't be given to a running guest"),
                    format!(
                        "the device of {} would have to be chosen or opened by its Ferry",
                        shown(text)
                    ),
                    "give such a device at the start: ferry run --device",
                ));
            }
        };
        body.insert(key.replace('-', "_"), value);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_json() {
        let text = "vfio-pci,host=01:00.0,id=nic0,addr=6.1,rom=off,managed=on,on-error=unplug,request-timeout=3";
        assert_eq!(
            body(text).unwrap(),
            json!({"host": "01:00.0", "id": "nic0", "addr": "6.1", "rom": "off", "managed": true,
                   "on_error": "unplug", "request_timeout": 3})
        );
    }

    #[test]
    fn what_only_a_start_can_do_is_refused() {
        for text in ["host=01:00.0,vf=auto", "fd=3"] {
            assert!(
                body(text).unwrap_err().remedy.contains("at the start"),
                "{text}"
            );
        }
    }

    #[test]
    fn nobody_waits_for_a_guest_longer_than_its_ferry_lets_him() {
        assert!(patience(None).is_ok() && patience(Some(3600)).is_ok());
        let problem = patience(Some(3601)).unwrap_err();
        assert_eq!(problem.what, "--timeout 3601 is too long");
    }

    #[test]
    fn devices_come_after_their_guest() {
        let words = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let socket = Some(PathBuf::from("/tmp/s"));
        let rest = |given: &[&str], socket: &Option<PathBuf>| {
            let words = words(given);
            let split = split(&words, socket, "").ok();
            split.map(|(_, rest)| rest.join(" "))
        };
        assert_eq!(rest(&["nic0"], &socket).as_deref(), Some("nic0"));
        assert_eq!(rest(&["a", "b"], &socket).as_deref(), Some("a b"));
        assert_eq!(rest(&["vm1", "a", "b"], &None).as_deref(), Some("a b"));
        assert_eq!(rest(&[], &socket), None);
        assert_eq!(rest(&["vm1"], &None), None);
    }

    #[test]
    fn progress_is_told_while_a_device_is_opened() {
        let info = |populated: u64| {
            json!({"config": {"memory": {"size": 1_u64 << 30}},
                   "arriving": {"ids": ["nic0"], "memory_populated": populated}})
        };
        let text = |populated| progress(&info(populated)).unwrap();
        assert_eq!(text(0), "opening the device");
        assert_eq!(
            text(1 << 29),
            "512 of 1024 MiB of guest RAM are there (50 %)"
        );
        assert!(text(1 << 30).contains("being mapped"));
        assert_eq!(progress(&json!({"config": {"memory": {"size": 1}}})), None);
    }
}
