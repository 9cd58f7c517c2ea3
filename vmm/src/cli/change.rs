//! `ferry add` and `ferry remove`: devices of a running guest.

use super::guest::Guest;
use super::{Failure, device, shown};
use devices::host::Problem;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Give a running guest a device
#[derive(clap::Args)]
pub(super) struct Add {
    /// The guest's name, unless --socket tells, and the device: host=BDF[,id=NAME][,addr=SLOT[.FN]] and so on, as of ferry run
    /// --device
    #[arg(value_name = "[NAME] host=BDF[,…]")]
    words: Vec<String>,
    /// The guest's socket, as of ferry run --api-socket PATH
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Take a device from a running guest: ask the guest to let go of it and wait until it has
#[derive(clap::Args)]
pub(super) struct Remove {
    /// The guest's name, unless --socket tells, and the device's id
    #[arg(value_name = "[NAME] ID")]
    words: Vec<String>,
    /// The guest's socket, as of ferry run --api-socket PATH
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Take it away when the guest has not let go of it in time
    #[arg(long)]
    force: bool,
    /// How long the guest may take, if not as long as the device's request-timeout says
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

/// The guest and the one word more.
fn split<'a>(
    words: &'a [String],
    socket: &Option<PathBuf>,
    example: &str,
) -> Result<(Guest, &'a str), Failure> {
    let (name, word) = match (words, socket) {
        ([word], Some(_)) => (None, word),
        ([name, word], None) => (Some(name.as_str()), word),
        _ => {
            return Err(Failure::usage(Problem::new(
                "the command line is not understood",
                "it takes a guest, by its name or --socket, and one device",
                format!("write, for example: {example}"),
            )));
        }
    };
    Ok((Guest::of(name, socket.as_deref())?, word))
}

impl Add {
    /// `ferry add`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let (guest, text) = split(
            &self.words,
            &self.socket,
            "ferry add web1 host=01:00.0,id=nic0",
        )?;
        // What is wrong with it is told here, in the words of ferry run.
        device::parse(text).map_err(Failure::usage)?;
        let body = body(text).map_err(Failure::usage)?;
        let added = guest.ask("PUT", "vm.add-device", Some(&body), None)?;
        let added = added.unwrap_or_default();
        let word = |key: &str| added[key].as_str().unwrap_or("?").to_owned();
        let text = format!("{} is at {} in the guest\n", word("id"), word("bdf"));
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

impl Remove {
    /// `ferry remove`.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let (guest, id) = split(&self.words, &self.socket, "ferry remove web1 nic0")?;
        let body = json!({"id": id, "force": self.force, "timeout": self.timeout});
        guest.ask("PUT", "ferry.remove-device", Some(&body), None)?;
        Ok(ExitCode::SUCCESS)
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
    fn a_device_comes_after_its_guest() {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let socket = Some(PathBuf::from("/tmp/s"));
        assert_eq!(
            split(&words(&["nic0"]), &socket, "").ok().unwrap().1,
            "nic0"
        );
        for (given, socket) in [
            (&[][..], None),
            (&["nic0"], None),
            (&["a", "b"], socket.clone()),
            (&["a", "b", "c"], None),
        ] {
            assert!(split(&words(given), &socket, "").is_err(), "{given:?}");
        }
    }
}
