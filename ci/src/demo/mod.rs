//! `cargo ci demo`: from nothing to a guest that drives a real network card, told step by step.
//!
//! The steps up to the boot of the lab machine run here, the rest (`stage`) next to the device: the same program is started
//! again in the lab machine. With `--host` the stage plays on this machine, in this process.

mod faults;
mod figures;
mod guest;
mod host;
mod page;
mod stage;
mod wire;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use page::Style;
pub use stage::{Script, Wire, play};
pub use wire::Network;

use crate::borrowed::Function;
use crate::ferry_process;
use crate::image;
use crate::lab::{Accel, Machine, topology};
use crate::site::Site;
use page::Page;

/// The lab machine's device and its peer on the wire.
const DEVICE: &str = "01:00.0";
const PEER: &str = "02:00.0";
/// The boot of the lab machine and everything in it.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// A card of this machine to show it with.
#[derive(Debug, Clone)]
pub struct Host {
    /// The card.
    pub device: String,
    /// The guest's address; without it, the network is asked for one.
    pub address: Option<Network>,
    /// Whom to ping.
    pub peer: Option<std::net::Ipv4Addr>,
}

/// Shows it in the lab machine, or with a card of this machine. Returns the exit status.
pub fn run(host: Option<Host>) -> Result<u8> {
    let started = Instant::now();
    let style = style();
    let page = &mut Page::new(style, 0);
    if let Some(host) = &host {
        host::check(&Function::new(&host.device)?)?;
    }
    page.heading("What is needed");
    let site = prepare(page)?;
    page.heading("Building Ferry");
    page.command("cargo build --release --package vmm");
    let ferry = ferry_process::build(&site.workspace)?;
    page.say(&format!("{}", ferry.display()));
    let modules = match &host {
        Some(host) => image::drivers(&site, &Function::new(&host.device)?.attribute("modalias")?)?,
        None => vec!["igb".to_owned()],
    };
    let initramfs = image::demo_initramfs(&site, &modules)?;
    let mut script = Script {
        ferry,
        kernel: site.images.kernel(),
        initramfs,
        device: DEVICE.to_owned(),
        wire: Wire::Foreign {
            guest: None,
            peer: None,
        },
        style,
        step: page.step(),
    };
    match host {
        Some(host) => {
            script.device = host.device;
            script.wire = Wire::Foreign {
                guest: host.address,
                peer: host.peer,
            };
            play(&script)?;
        }
        None => {
            let status = in_lab(&script, page)?;
            if status != 0 {
                return Ok(status);
            }
        }
    }
    println!("\nDone in {:.0} s.", started.elapsed().as_secs_f64());
    println!("Play with it yourself: cargo ci lab      See what else there is: cargo ci --help");
    Ok(0)
}

fn prepare(page: &Page) -> Result<Site> {
    page.say("QEMU, kernels and small tools from Debian, fetched once into a cache folder.");
    page.say("Nothing is installed on this machine, and none of it needs root.");
    let site = Site::prepare(false)?;
    page.say(&format!("cache   {}", site.cache.root().display()));
    page.say(&format!("kernel  {}", site.provision.release));
    Ok(site)
}

/// Boots the lab machine and starts this program in it.
fn in_lab(script: &Script, page: &mut Page) -> Result<u8> {
    page.heading("Booting the emulated VT-d machine (L1)");
    let how = match Accel::choose()? {
        Accel::Tcg => {
            "emulated by QEMU, processor and all, so this works on any host but takes its time"
        }
        Accel::Kvm => "run by QEMU and this host's KVM",
    };
    page.say(
        "A PC with an Intel VT-d IOMMU, virtualisation, and two igb network cards on one wire,",
    );
    page.say(how);
    page.say("What follows happens inside it: nothing of this machine is touched.");
    let program = std::env::current_exe().context("cannot find this program")?;
    let text = |path: &PathBuf| path.display().to_string();
    let mut words = vec![
        text(&program),
        "demo-stage".to_owned(),
        text(&script.ferry),
        text(&script.kernel),
        text(&script.initramfs),
        script.device.clone(),
        page.step().to_string(),
        "--card".to_owned(),
        PEER.to_owned(),
    ];
    if script.style == Style::Terminal {
        words.push("--terminal".to_owned());
    }
    let outcome = Machine::builder(topology("nic")?)
        .command(words)
        .name("demo")
        .deadline(DEADLINE)
        .run()?;
    Ok(outcome.status)
}

fn style() -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !plain {
        Style::Terminal
    } else {
        Style::Plain
    }
}
