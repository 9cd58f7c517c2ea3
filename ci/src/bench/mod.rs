//! Comparisons with QEMU: both sides take turns in one boot of the lab machine, with one kernel, one initramfs and one
//! command line, so whatever slows L1 slows both. Ratios are what counts; seconds under emulation are not seconds.

mod hotplug;
mod run;
mod side;
mod startup;
mod statistics;
mod throughput;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::borrowed::{Borrowed, Function};
use crate::ferry_process;
use crate::lab::{Machine, topology};
use crate::site::Site;
use side::{Guest, Side};

/// The device that both sides get.
const DEVICE: &str = "01:00.0";
/// Its peer on the wire, L1's own.
const PEER: &str = "02:00.0";

/// Several times what one guest uses.
const WARM_UP_MEBIBYTES: u32 = 2048;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// From exec to the guest's /init.
    StartUp,
    /// TCP through the assigned NIC.
    Throughput,
    /// The NIC joins and leaves a running guest.
    Hotplug,
}

impl Subject {
    /// What a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartUp => "start-up",
            Self::Throughput => "throughput",
            Self::Hotplug => "hotplug",
        }
    }
}

/// What the part in L1 needs to know.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The program.
    pub ferry: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// How often each side takes its turn.
    pub rounds: u32,
}

/// Builds Ferry, boots the lab machine, and measures in it. Returns the exit status.
pub fn run(subject: Subject, rounds: u32, elf: bool) -> Result<u8> {
    let site = Site::prepare(false)?;
    let ferry = ferry_process::build(&site.workspace)?;
    let kernel = if elf {
        site.images.vmlinux()
    } else {
        site.images.kernel()
    };
    let (initramfs, seconds) = match subject {
        Subject::StartUp => (site.images.guest_initramfs(), 75),
        Subject::Throughput => (site.images.tools_initramfs(), 180),
        Subject::Hotplug => (site.images.guest_initramfs(), 120),
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let text = |path: PathBuf| path.display().to_string();
    let words = [
        text(program),
        "bench-stage".to_owned(),
        subject.name().to_owned(),
        text(ferry),
        text(kernel),
        text(initramfs),
        rounds.to_string(),
    ];
    eprintln!("cargo ci: booting the lab machine for {rounds} rounds");
    let outcome = Machine::builder(topology("nic")?)
        .command(words)
        .name(format!("bench-{}", subject.name()))
        .deadline(Duration::from_secs(120 + u64::from(rounds) * seconds))
        .run()?;
    Ok(outcome.status)
}

/// Uses memory of L1 once. A page that L1 never used before costs the real host a page fault, four times what clearing it
/// costs; without this the side that happens to get new pages is slower by seconds. The kernel hands out again first what
/// was freed last.
fn warm_up() -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm")?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..WARM_UP_MEBIBYTES {
        file.write_all(&zeros)?;
    }
    Ok(())
}

/// The part in L1.
pub fn stage(subject: Subject, stage: &Stage) -> Result<u8> {
    let guest = Guest {
        ferry: stage.ferry.clone(),
        kernel: stage.kernel.clone(),
        initramfs: stage.initramfs.clone(),
        cmdline: "console=ttyS0 panic=-1 quiet".to_owned(),
        device: Function::new(DEVICE)?,
        figures: std::env::temp_dir().join("figures.json"),
        socket: std::env::temp_dir().join("monitor.sock"),
    };
    warm_up().context("cannot warm up")?;
    let borrowed = Borrowed::new(guest.device.clone())?;
    println!(
        "Both sides get this kernel, initramfs and command line, 1 vCPU, 512 MiB and {DEVICE}:"
    );
    let sides = match subject {
        Subject::StartUp | Subject::Throughput => [Side::Ferry, Side::Q35],
        Subject::Hotplug => [Side::FerryServed, Side::Q35Served],
    };
    for side in sides {
        println!("  {}", side.words(&guest).join(" "));
    }
    println!();
    match subject {
        Subject::StartUp => startup::measure(&guest, stage.rounds)?,
        Subject::Hotplug => hotplug::measure(&guest, stage.rounds)?,
        Subject::Throughput => throughput::measure(&guest, &Function::new(PEER)?, stage.rounds)?,
    }
    borrowed.give_back()?;
    Ok(0)
}
