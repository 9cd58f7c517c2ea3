//! `cargo ci demo`, and the part of it that runs next to the device.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::demo::{self, Host, Network, Script, Style, Wire};

/// See Ferry hand a network card to a Linux guest, step by step
///
/// Fetches what it needs into a cache folder, builds Ferry, boots an emulated PC with a VT-d IOMMU, gives the igb card at
/// 01:00.0 there to vfio-pci, and runs a guest that drives it: its console, its driver, ping, 64 MiB over TCP each way, the
/// interrupts and the exits to user space that this took. Needs no root, no VT-d and no KVM, and installs nothing. The
/// first run fetches about 280 MB.
///
/// Every step is checked. Exit code: 0 if all of it held; 1 if something did not, with what and why; 124 if it took longer
/// than ten minutes; 125 if it could not be set up.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Use this network card of this very machine (as root; needs /dev/kvm and an IOMMU)
    ///
    /// The card is taken from its driver and given back at the end, however that comes. A card that the machine's default
    /// route, a bridge or a bond depends on is refused.
    #[arg(long, value_name = "BDF")]
    host: Option<String>,

    /// The guest's address on that card's network [default: DHCP]
    #[arg(long, value_name = "ADDRESS/LENGTH", requires = "host")]
    address: Option<Network>,

    /// Whom to ping [default: the router, or this machine's address on the same network]
    ///
    /// The TCP transfer needs this machine to have an address on the same network, through another card; otherwise it is
    /// left out.
    #[arg(long, value_name = "ADDRESS", requires = "host")]
    peer: Option<Ipv4Addr>,
}

const EXAMPLES: &str = "Examples:\n  \
    cargo ci demo\n  \
    sudo -E env \"PATH=$PATH\" cargo ci demo --host 03:00.0\n  \
    sudo -E env \"PATH=$PATH\" cargo ci demo --host 03:00.0 --address 10.0.0.9/24 --peer 10.0.0.1";

pub(super) fn run(args: DemoArgs) -> Result<u8> {
    let DemoArgs {
        host,
        address,
        peer,
    } = args;
    demo::run(host.map(|device| Host {
        device,
        address,
        peer,
    }))
}

/// What `cargo ci demo` runs in the lab machine
#[derive(Debug, Args)]
pub(super) struct DemoStageArgs {
    ferry: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    device: String,
    step: u32,
    /// This machine's card at the other end of the wire; without it, what --host does
    #[arg(long)]
    card: Option<String>,
    #[arg(long)]
    terminal: bool,
}

pub(super) fn stage(args: DemoStageArgs) -> Result<u8> {
    let network = |text: &str| text.parse::<Network>().map_err(anyhow::Error::msg);
    let script = Script {
        ferry: args.ferry,
        kernel: args.kernel,
        initramfs: args.initramfs,
        device: args.device,
        wire: match args.card {
            Some(card) => Wire::Own {
                card,
                host: network("10.77.0.1/24").context("the peer's address")?,
                guest: network("10.77.0.2/24").context("the guest's address")?,
            },
            None => Wire::Foreign {
                guest: None,
                peer: None,
            },
        },
        style: if args.terminal {
            Style::Terminal
        } else {
            Style::Plain
        },
        step: args.step,
    };
    match demo::play(&script) {
        Ok(()) => Ok(0),
        Err(error) => {
            // On standard output, in its place among the steps.
            println!("\nThe demonstration ends here: {error:#}");
            Ok(1)
        }
    }
}
