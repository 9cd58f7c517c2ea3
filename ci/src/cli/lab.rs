//! `cargo ci lab`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::lab::{Expired, Machine, TOPOLOGIES, topology};

/// As `timeout` of coreutils does it.
const DEADLINE_EXPIRED: u8 = 124;
/// As `timeout` of coreutils does it for failures of its own.
const LAB_FAILED: u8 = 125;

/// Boot the lab machine and run a command in it, or give a shell
///
/// The command runs as root in L1, in the same folder and with the repository, the target folder and the cache at the
/// same paths as here, read-only. /tmp is its own. The `ferry` that was built last is on the path, and FERRY_BIN,
/// FERRY_KERNEL, FERRY_INITRAMFS, FERRY_VMLINUX, FERRY_KERNEL_6_1 and FERRY_INITRAMFS_6_1 name what a guest needs.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct LabArgs {
    /// The hardware of L1
    #[arg(long, value_name = "NAME", default_value = TOPOLOGIES[0].name)]
    topology: String,

    /// Stop the machine after this many seconds, boot included [default: 900 for a command, none for a shell]
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,

    /// Show a further folder at the same path, read-only
    #[arg(long, value_name = "FOLDER")]
    share: Vec<PathBuf>,

    /// Set an environment variable for the command
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// The name of the log files in target/lab [default: the topology's]
    #[arg(long)]
    name: Option<String>,

    /// The command and its arguments; without it, a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: LabArgs) -> Result<u8> {
    let mut machine = Machine::builder(topology(&args.topology)?).command(args.command);
    if let Some(seconds) = args.deadline {
        machine = machine.deadline(Duration::from_secs(seconds));
    }
    if let Some(name) = args.name {
        machine = machine.name(name);
    }
    for (name, value) in args.env {
        machine = machine.env(name, value);
    }
    for folder in args.share {
        machine = machine.share(folder);
    }
    Ok(machine.run()?.status)
}

/// The exit code for a run that failed by itself, so that scripts can tell it from the command's own.
pub(super) fn status_of(error: &anyhow::Error) -> u8 {
    if error.is::<Expired>() {
        DEADLINE_EXPIRED
    } else {
        LAB_FAILED
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give it as NAME=VALUE")?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(good) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(format!("{name:?} is no name of a variable"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn after_help() -> String {
    let topologies: String = TOPOLOGIES
        .iter()
        .map(|topology| format!("  {:<12}{}\n", topology.name, topology.about))
        .collect();
    format!(
        "Topologies:\n{topologies}\n\
         Exit code: the command's; 124 if the deadline passed; 125 if the lab failed.\n\
         Logs: target/lab/NAME.console.log (L1 console), .dmesg.log (L1 kernel log), .qemu.log\n\n\
         Examples:\n  \
         cargo ci lab\n  \
         cargo ci lab -- lspci -nn\n  \
         cargo ci lab --topology noiommu --deadline 60 -- sh -c 'ls /sys/kernel/iommu_groups'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_need_a_proper_name() {
        assert_eq!(variable("A_1=b=c"), Ok(("A_1".into(), "b=c".into())));
        for bad in ["A", "=x", "1A=x", "a b=x"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }
}
