//! `cargo ci bench`, and the part of it that runs in the lab machine.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use crate::bench::{self, Stage, Subject};

/// Compare Ferry with QEMU in the lab machine
///
/// Both take turns in one boot of L1, with the same kernel, the same initramfs, the same command line and the igb network
/// card at 01:00.0 assigned. Under emulation only ratios mean something.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    subject: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Time from exec to the guest's /init, and the guest's own uptime there
    StartUp {
        /// How often each side takes its turn
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Boot the ELF vmlinux (by PVH) instead of the bzImage
        #[arg(long)]
        vmlinux: bool,
    },
    /// Time from the command to a monitor until a card that joins a running guest is probed there, and one that leaves is gone
    Hotplug {
        /// How often each side takes its turn
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// TCP through the assigned card, out of the guest and into it
    Throughput {
        /// How often each side takes its turn
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
}

pub(super) fn run(args: &BenchArgs) -> Result<u8> {
    match args.subject {
        Bench::StartUp { rounds, vmlinux } => bench::run(Subject::StartUp, rounds, vmlinux),
        Bench::Hotplug { rounds } => bench::run(Subject::Hotplug, rounds, false),
        Bench::Throughput { rounds } => bench::run(Subject::Throughput, rounds, false),
    }
}

/// What `cargo ci bench` runs in the lab machine
#[derive(Debug, Args)]
pub(super) struct BenchStageArgs {
    subject: StageSubject,
    ferry: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    rounds: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StageSubject {
    StartUp,
    Throughput,
    Hotplug,
}

pub(super) fn stage(args: BenchStageArgs) -> Result<u8> {
    let subject = match args.subject {
        StageSubject::StartUp => Subject::StartUp,
        StageSubject::Throughput => Subject::Throughput,
        StageSubject::Hotplug => Subject::Hotplug,
    };
    let stage = Stage {
        ferry: args.ferry,
        kernel: args.kernel,
        initramfs: args.initramfs,
        rounds: args.rounds,
    };
    bench::stage(subject, &stage)
}
