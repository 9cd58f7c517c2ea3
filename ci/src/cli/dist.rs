//! `cargo ci dist`.

use anyhow::Result;
use clap::Args;

use crate::dist;
use crate::workspace::Workspace;

/// Build ferry for users, with shell completions and man pages
///
/// They lie in target/dist as below a prefix such as /usr/local, into which they can be copied.
#[derive(Debug, Args)]
pub(super) struct DistArgs {}

pub(super) fn run(_: &DistArgs) -> Result<u8> {
    let made = dist::make(&Workspace::find()?)?;
    for (path, len) in &made.files {
        println!("{:>9} KiB  {}", len.div_ceil(1024), path.display());
    }
    let folder = made.folder.display();
    println!("\nAll of it is in {folder}. Install it with: sudo cp -r {folder}/. /usr/local/");
    Ok(0)
}
