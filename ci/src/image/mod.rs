//! Boot images: the initramfs of L1, kernels and initramfs images of L2 guests.
//!
//! All of them lie in one folder, `images/current` in the cache, under names that never change.

mod archive;
mod bzimage;
mod demo;
mod modules;
mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use archive::Archive;
use bzimage::Compression;
pub use demo::{demo_initramfs, drivers};
use modules::ModuleIndex;

use crate::cache::{Cache, CacheLock, fingerprint};
use crate::program::Tree;
use crate::provision::Provision;
use crate::workspace::Workspace;

/// Changed whenever images are built differently from the same inputs.
const LAYOUT: u32 = 3;

/// What L1 loads, by the name of the file that lists it for the init script. These come with the initramfs because loading
/// them through the shared root file system takes seconds; the rest of the modules are there for `modprobe`.
const LAB_MODULES: &[ModuleList<'_>] = &[
    (
        "modules",
        &[
            "virtio_pci",
            "virtio_console",
            "9pnet_virtio",
            "9p",
            "overlay",
        ],
    ),
    ("drivers", &["vfio_pci", "vfio_iommu_type1", "igb", "nvme"]),
    ("drivers.amd", &["kvm_amd"]),
    ("drivers.intel", &["kvm_intel"]),
];

/// Drivers for whatever Ferry hands or shows to a guest.
const GUEST_MODULES: &[ModuleList<'_>] = &[
    (
        "modules.wired",
        &["igb", "igbvf", "e1000", "e1000e", "8139cp", "8139too"],
    ),
    (
        "modules.pci",
        &[
            "nvme",
            "xhci_pci",
            "usb_storage",
            "sd_mod",
            "uio_pci_generic",
        ],
    ),
    (
        "modules.virtio",
        &[
            "virtio_pci",
            "virtio_net",
            "virtio_blk",
            "virtio_console",
            "virtio_rng",
        ],
    ),
    ("modules.vsock", &["vmw_vsock_virtio_transport"]),
    ("modules.button", &["button", "evdev"]),
    ("modules.panic", &["pvpanic_mmio"]),
];

/// A file of an initramfs that names modules, dependencies first and built-in ones left out; and the modules.
type ModuleList<'a> = (&'a str, &'a [&'a str]);

const BUSYBOX: &str = "usr/bin/busybox";

/// The folder of images. Every path exists.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    /// The initramfs of L1.
    pub fn lab_initramfs(&self) -> PathBuf {
        self.dir.join("lab.cpio")
    }

    /// Kernel 6.12 as a bzImage: L1's own and the usual guest kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz-6.12")
    }

    /// Kernel 6.12 as the ELF file inside the bzImage, which a PVH loader can start.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux-6.12")
    }

    /// Kernel 6.1 as a bzImage.
    pub fn older_kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz-6.1")
    }

    /// The guest initramfs for kernel 6.12.
    pub fn guest_initramfs(&self) -> PathBuf {
        self.dir.join("guest-6.12.cpio")
    }

    /// The guest initramfs for kernel 6.1.
    pub fn older_guest_initramfs(&self) -> PathBuf {
        self.dir.join("guest-6.1.cpio")
    }

    /// The guest initramfs for kernel 6.12 with programs for measuring (fio, iperf3, …); about 60 MB.
    pub fn tools_initramfs(&self) -> PathBuf {
        self.dir.join("guest-tools-6.12.cpio")
    }

    /// The folder they are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The variables that tell a program in L1 where the images are.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("FERRY_KERNEL", self.kernel()),
            ("FERRY_INITRAMFS", self.guest_initramfs()),
            ("FERRY_KERNEL_6_1", self.older_kernel()),
            ("FERRY_INITRAMFS_6_1", self.older_guest_initramfs()),
            ("FERRY_INITRAMFS_TOOLS", self.tools_initramfs()),
            ("FERRY_VMLINUX", self.vmlinux()),
        ]
        .into_iter()
        .map(|(name, path)| (name.to_owned(), path.display().to_string()))
        .collect()
    }
}

/// Builds the images whose inputs changed and points `images/current` at them.
pub fn build(
    cache: &Cache,
    lock: &CacheLock,
    provision: &Provision,
    workspace: &Workspace,
) -> Result<Images> {
    let lab_init = workspace.resource("lab/init")?;
    let guest_init = workspace.resource("guest/init")?;
    let trees = (provision.tree.root(), &provision.older);
    let name = fingerprint(&(
        LAYOUT,
        trees,
        LAB_MODULES,
        GUEST_MODULES,
        tools::GUEST_TOOLS,
        &lab_init,
        &guest_init,
    ));
    cache.folder(lock, &format!("images/{name}"), |dir| {
        eprintln!("cargo ci: building boot images");
        fill(dir, provision, &lab_init, &guest_init)
    })?;
    cache.link(lock, "images/current", &name)?;
    Ok(Images {
        dir: cache.path("images/current"),
    })
}

fn fill(dir: &Path, provision: &Provision, lab_init: &str, guest_init: &str) -> Result<()> {
    let tree = &provision.tree;
    let kernel = tree
        .path("boot")
        .join(format!("vmlinuz-{}", provision.release));
    fs::copy(&kernel, dir.join("vmlinuz-6.12")).context("cannot copy kernel 6.12")?;
    extract_vmlinux(tree, &kernel, &dir.join("vmlinux-6.12"))?;
    let kernel = provision
        .older
        .join("boot")
        .join(format!("vmlinuz-{}", provision.older_release));
    fs::copy(kernel, dir.join("vmlinuz-6.1")).context("cannot copy kernel 6.1")?;

    let newer = ModuleIndex::open(tree.root(), &provision.release)?;
    let older = ModuleIndex::open(&provision.older, &provision.older_release)?;
    let lab = initramfs(tree, lab_init, &newer, LAB_MODULES)?;
    let mut guest = initramfs(tree, guest_init, &newer, GUEST_MODULES)?;
    let older_guest = initramfs(tree, guest_init, &older, GUEST_MODULES)?;
    let write = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).with_context(|| format!("cannot write {name}"))
    };
    write("lab.cpio", &lab)?;
    write("guest-6.12.cpio", &guest)?;
    write("guest-6.1.cpio", &older_guest)?;
    guest.extend(tools::archive(tree, tools::GUEST_TOOLS)?);
    write("guest-tools-6.12.cpio", &guest)
}

/// An initramfs with busybox, all its command names, an init script and kernel modules.
fn initramfs(
    tree: &Tree,
    init: &str,
    index: &ModuleIndex,
    lists: &[ModuleList<'_>],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp", "bin"] {
        archive.folder(folder)?;
    }
    archive.console()?;
    archive.program("init", init.as_bytes())?;
    archive.program("bin/busybox", &fs::read(tree.path(BUSYBOX))?)?;
    let applets = Tree::check(tree.command(BUSYBOX).arg("--list"))?;
    for applet in String::from_utf8(applets)?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    add_modules(&mut archive, tree, index, lists)?;
    Ok(archive.finish()?)
}

fn add_modules(
    archive: &mut Archive,
    tools: &Tree,
    index: &ModuleIndex,
    lists: &[ModuleList<'_>],
) -> Result<()> {
    let folder = format!("lib/modules/{}", index.release());
    let mut dependencies = String::new();
    let mut added = BTreeSet::new();
    for (file, wanted) in lists {
        let closure = index.closure(wanted)?;
        let names: Vec<&str> = closure.iter().map(|module| module.name.as_str()).collect();
        archive.file(file, format!("{}\n", names.join(" ")).as_bytes())?;
        for module in &closure {
            if added.insert(module.name.clone()) {
                archive.file(
                    &format!("{folder}/{}.ko", module.name),
                    &index.code(tools, module)?,
                )?;
                dependencies.push_str(&module.dependency_line());
            }
        }
    }
    archive.file(&format!("{folder}/modules.dep"), dependencies.as_bytes())
}

fn extract_vmlinux(tree: &Tree, bzimage: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(bzimage)?;
    let payload = bzimage::payload(&image)
        .with_context(|| format!("{} is not a kernel", bzimage.display()))?;
    let mut packed = tempfile::NamedTempFile::new()?;
    packed.write_all(payload.data)?;
    let (program, args): (_, &[&str]) = match payload.compression {
        Compression::Gzip => ("usr/bin/gzip", &["-dc"]),
        Compression::Xz => ("usr/bin/xz", &["-dc"]),
        Compression::Zstd => ("usr/bin/zstd", &["-dcq"]),
    };
    let elf = Tree::check(tree.command(program).args(args).arg(packed.path()))
        .context("cannot unpack the kernel")?;
    fs::write(vmlinux, elf).with_context(|| format!("cannot write {}", vmlinux.display()))
}
