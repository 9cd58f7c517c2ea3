//! The initramfs of the demonstration's guest: the drivers of one card, the programs that show it, and the script that takes
//! commands over the console.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::modules::ModuleIndex;
use super::{Archive, initramfs, tools};
use crate::program::Tree;
use crate::site::Site;

/// Busybox has neither.
const PROGRAMS: &[&str] = &["usr/bin/lspci", "usr/sbin/ethtool"];
/// Names of vendors and devices for lspci.
const PCI_IDS: &str = "usr/share/misc/pci.ids";

/// Builds it, with `modules` and what they need, and returns where it is.
pub fn demo_initramfs(site: &Site, modules: &[String]) -> Result<PathBuf> {
    let tree = &site.provision.tree;
    let index = ModuleIndex::open(tree.root(), &site.provision.release)?;
    let names: Vec<&str> = modules.iter().map(String::as_str).collect();
    let init = site.workspace.resource("guest/init")?;
    let mut image = initramfs(tree, &init, &index, &[("modules.demo", &names)])?;
    let mut more = Archive::default();
    for (name, resource) in [
        ("bin/ferry-demo", "demo/console"),
        ("bin/ferry-demo-udhcpc", "demo/udhcpc"),
    ] {
        more.program(name, site.workspace.resource(resource)?.as_bytes())?;
    }
    more.file(PCI_IDS, &fs::read(tree.path(PCI_IDS))?)?;
    image.extend(more.finish()?);
    image.extend(tools::archive(tree, PROGRAMS)?);
    let dir = site.workspace.target().join("demo");
    fs::create_dir_all(&dir)?;
    // Whole or not at all: another demonstration may be reading it.
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    std::io::Write::write_all(&mut file, &image)?;
    let path = dir.join("initramfs");
    file.persist(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The modules of the guest's kernel that drive a device with this `modalias`.
pub fn drivers(site: &Site, modalias: &str) -> Result<Vec<String>> {
    let tree = &site.provision.tree;
    let mut command = tree.command("usr/sbin/modprobe");
    command
        .arg("-d")
        .arg(tree.root())
        .args(["-S", &site.provision.release, "-R", modalias]);
    let output = Tree::check(&mut command).unwrap_or_default();
    let modules: Vec<String> = String::from_utf8_lossy(&output)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    if modules.is_empty() {
        bail!(
            "the guest has no driver for this card\n  why: kernel {} knows no module for {modalias}\n  \
             fix: choose another card",
            site.provision.release
        );
    }
    Ok(modules)
}
