//! `cargo ci setup` and `cargo ci images`.

use anyhow::Result;
use clap::Args;

use crate::site::Site;

/// Fetch and build everything the lab needs, and print what is where
///
/// The lab does this by itself when it is first used. Debian packages (about 280 MB) are fetched into the cache folder
/// and unpacked there; nothing is installed on this machine. What is there already is kept.
#[derive(Debug, Args)]
pub(super) struct SetupArgs {
    /// Look for newer Debian packages
    #[arg(long)]
    update: bool,

    /// Delete trees and images of earlier set-ups (no lab machine may be running)
    #[arg(long)]
    prune: bool,
}

/// Build the boot images if anything changed, and print their paths as shell variables
///
/// Use them as in: eval "$(cargo ci images)"
#[derive(Debug, Args)]
pub(super) struct ImagesArgs {}

pub(super) fn run(args: &SetupArgs) -> Result<u8> {
    let site = Site::prepare(args.update)?;
    if args.prune {
        site.prune()?;
    }
    let rows = [
        ("cache", site.cache.root().display().to_string()),
        (
            "Debian tree",
            site.provision.tree.root().display().to_string(),
        ),
        (
            "kernels",
            format!(
                "{} and {}",
                site.provision.release, site.provision.older_release
            ),
        ),
        ("images", site.images.dir().display().to_string()),
        (
            "logs of L1",
            site.workspace.target().join("lab").display().to_string(),
        ),
        (
            "ferry",
            site.workspace
                .ferry()
                .map_or("not built yet".to_owned(), |path| {
                    path.display().to_string()
                }),
        ),
    ];
    for (what, place) in rows {
        println!("{what:<12}{place}");
    }
    println!("\nReady. Try: cargo ci lab -- lspci -nn");
    Ok(0)
}

pub(super) fn images(_: &ImagesArgs) -> Result<u8> {
    let site = Site::prepare(false)?;
    for (name, value) in site.images.environment() {
        println!("export {name}='{value}'");
    }
    Ok(0)
}
