//! Debian programs for guests that measure or inspect: an archive that is laid behind a guest initramfs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Archive;
use crate::program::{LOADER, Tree};

/// Network and disk benchmarks, and what looks at PCI devices, network cards and disks more closely than busybox does.
pub(super) const GUEST_TOOLS: &[&str] = &[
    "usr/bin/fio",
    "usr/bin/iperf3",
    "usr/bin/lspci",
    "usr/bin/setpci",
    "usr/sbin/ethtool",
    "usr/sbin/nvme",
];

/// Packs `programs` under `/usr/local/bin` with the dynamic loader and every library they link to.
pub(super) fn archive(tree: &Tree, programs: &[&str]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut libraries = BTreeSet::new();
    for program in programs {
        let path = tree.path(program);
        let name = program.rsplit('/').next().unwrap_or(program);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.program(&format!("usr/local/bin/{name}"), &content)?;
        let listing = Tree::check(tree.command(program).env("LD_TRACE_LOADED_OBJECTS", "1"))?;
        libraries.extend(paths(&String::from_utf8_lossy(&listing)));
    }
    for library in &libraries {
        let library = Path::new(library);
        let name = library.file_name().context("a library without a name")?;
        let content =
            fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
        archive.file(
            &format!("lib/x86_64-linux-gnu/{}", name.display()),
            &content,
        )?;
    }
    archive.program(LOADER, &fs::read(tree.path(LOADER))?)?;
    Ok(archive.finish()?)
}

/// The files in the loader's listing, whose lines read `NAME => FILE (ADDRESS)`.
fn paths(listing: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| line.split_once(" => ")?.1.split_once(" ("))
        .map(|(path, _)| path.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_of_the_loader_names_files() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                       \tlibz.so.1 => /t/lib/libz.so.1 (0x00007f)\n\
                       \t/t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(paths(listing), ["/t/lib/libz.so.1"]);
    }
}
