//! Fetching and unpacking what everything else is built from: the Debian tree of L1 and the second guest kernel.

use std::fs;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, CacheLock, fingerprint};
use crate::debian::{AptRoot, Kernel, LAB_PACKAGES, Package, Suite};
use crate::emulator::{self, Correction};
use crate::lab::QEMU;
use crate::program::Tree;

/// Changed whenever a tree is laid out differently from the same packages.
const LAYOUT: u32 = 3;

/// The unpacked trees.
#[derive(Debug, Clone)]
pub struct Provision {
    /// Debian 13: the root file system of L1, QEMU, and kernel 6.12.
    pub tree: Tree,
    /// The release string of the tree's kernel.
    pub release: String,
    /// Debian 12's kernel 6.1 with its modules, nothing else.
    pub older: PathBuf,
    /// The release string of the older kernel.
    pub older_release: String,
}

/// Makes sure both trees are there. With `update`, newer packages are looked for; else an existing tree is kept as it is.
pub fn provision(cache: &Cache, lock: &CacheLock, update: bool) -> Result<Provision> {
    let root = lab_tree(cache, lock, update).context("the Debian tree could not be prepared")?;
    let older = older_kernel(cache, lock, update, &Tree::new(root.clone()))
        .context("kernel 6.1 could not be prepared")?;
    let release = release_in(&root)?;
    let older_release = release_in(&older)?;
    Ok(Provision {
        tree: Tree::new(root),
        release,
        older,
        older_release,
    })
}

fn lab_tree(cache: &Cache, lock: &CacheLock, update: bool) -> Result<PathBuf> {
    let choice = Choice::new(cache, "rootfs", &(LAYOUT, LAB_PACKAGES));
    if let Some(folder) = choice.made(update) {
        return Ok(folder);
    }
    let apt = AptRoot::open(cache.path("apt/trixie"), Suite::Trixie)?;
    let packages = apt.closure(LAB_PACKAGES)?;
    let kernel = apt.kernel()?;
    choice.make(lock, &(&packages, &kernel), |folder| {
        announce(
            cache,
            Suite::Trixie,
            packages.iter().chain([&kernel.package]),
        );
        apt.fetch_closure(LAB_PACKAGES)?;
        apt.fetch_alone(&kernel.name)?;
        eprintln!("cargo ci: unpacking");
        // base-files makes the links /bin → usr/bin and so on; whatever is unpacked before it would turn them into folders.
        let (first, rest): (Vec<_>, Vec<_>) = packages
            .iter()
            .partition(|package| package.file.starts_with("base-files_"));
        for package in first.into_iter().chain(rest).chain([&kernel.package]) {
            apt.unpack(package, folder)?;
        }
        index_modules(&Tree::new(folder.to_owned()), folder, &kernel)?;
        correct_emulator(folder)?;
        apt.discard_archives()
    })
}

fn correct_emulator(folder: &Path) -> Result<()> {
    if emulator::correct(&folder.join(QEMU))? == Correction::NothingFound {
        eprintln!(
            "cargo ci: warning: this QEMU does not have the code that the lab corrects (docs/adr/0007-the-lab-machine.md). If it has\n\
             the defect nevertheless, a guest may lock up about once in 100 times that a device's driver is unbound and bound."
        );
    }
    Ok(())
}

fn older_kernel(cache: &Cache, lock: &CacheLock, update: bool, tree: &Tree) -> Result<PathBuf> {
    let choice = Choice::new(cache, "kernel-6.1", &LAYOUT);
    if let Some(folder) = choice.made(update) {
        return Ok(folder);
    }
    let apt = AptRoot::open(cache.path("apt/bookworm"), Suite::Bookworm)?;
    let kernel = apt.kernel()?;
    choice.make(lock, &kernel, |folder| {
        announce(cache, Suite::Bookworm, [&kernel.package]);
        apt.fetch_alone(&kernel.name)?;
        apt.unpack(&kernel.package, folder)?;
        index_modules(tree, folder, &kernel)?;
        apt.discard_archives()
    })
}

/// A folder chosen by its inputs: `wanted` says what is asked for, and a note remembers which versions answered it last.
struct Choice<'a> {
    cache: &'a Cache,
    name: &'static str,
    note: PathBuf,
}

impl<'a> Choice<'a> {
    fn new(cache: &'a Cache, name: &'static str, wanted: &impl Hash) -> Self {
        let note = cache
            .path("chosen")
            .join(format!("{name}-{}", fingerprint(wanted)));
        Self { cache, name, note }
    }

    fn made(&self, update: bool) -> Option<PathBuf> {
        if update {
            return None;
        }
        let folder = self.cache.path(fs::read_to_string(&self.note).ok()?.trim());
        folder.is_dir().then_some(folder)
    }

    fn make(
        &self,
        lock: &CacheLock,
        versions: &impl Hash,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("{}-{}", self.name, fingerprint(&(LAYOUT, versions)));
        let folder = self.cache.folder(lock, &name, fill)?;
        fs::create_dir_all(self.cache.path("chosen"))?;
        fs::write(&self.note, name)?;
        Ok(folder)
    }
}

fn announce<'a>(cache: &Cache, suite: Suite, packages: impl IntoIterator<Item = &'a Package>) {
    let (count, bytes) = packages
        .into_iter()
        .fold((0, 0), |(count, bytes), package| {
            (count + 1, bytes + package.size)
        });
    eprintln!(
        "cargo ci: fetching {count} packages of Debian {} ({} MB) into {}; nothing is installed on this machine",
        suite.name(),
        bytes / 1_000_000,
        cache.root().display()
    );
}

/// Writes `modules.dep` and its kin, which Debian leaves to the installation of the package.
fn index_modules(tools: &Tree, folder: &Path, kernel: &Kernel) -> Result<()> {
    let modules = if folder.join("usr/lib/modules").is_dir() {
        "/usr/lib/modules"
    } else {
        "/lib/modules"
    };
    let mut command = tools.command("usr/sbin/depmod");
    command
        .arg("-b")
        .arg(folder)
        .args(["-m", modules, &kernel.release]);
    Tree::check(&mut command).context("cannot index the kernel modules")?;
    Ok(())
}

fn release_in(folder: &Path) -> Result<String> {
    let boot = folder.join("boot");
    for entry in
        fs::read_dir(&boot).with_context(|| format!("{} has no kernel", folder.display()))?
    {
        if let Some(release) = entry?
            .file_name()
            .to_string_lossy()
            .strip_prefix("vmlinuz-")
        {
            return Ok(release.to_owned());
        }
    }
    anyhow::bail!("{} has no kernel", boot.display())
}
