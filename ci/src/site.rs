//! Everything a lab machine is made of, fetched and built: the one thing most chores begin with.

use std::fs;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::image::{self, Images};
use crate::provision::{self, Provision};
use crate::workspace::Workspace;

/// A prepared workspace.
#[derive(Debug)]
pub struct Site {
    /// The repository.
    pub workspace: Workspace,
    /// The cache folder.
    pub cache: Cache,
    /// The Debian trees.
    pub provision: Provision,
    /// The boot images.
    pub images: Images,
}

impl Site {
    /// Fetches and builds whatever is missing. With `update`, newer Debian packages are looked for.
    pub fn prepare(update: bool) -> Result<Self> {
        let workspace = Workspace::find()?;
        let cache = Cache::open()?;
        let lock = cache.lock()?;
        let provision = provision::provision(&cache, &lock, update)?;
        let images = image::build(&cache, &lock, &provision, &workspace)?;
        drop(lock);
        Ok(Self {
            workspace,
            cache,
            provision,
            images,
        })
    }

    /// Deletes the results of earlier inputs, saying so.
    pub fn prune(&self) -> Result<()> {
        let _lock = self.cache.lock()?;
        let images = self.images.dir().canonicalize()?;
        let kept = [self.provision.tree.root(), &self.provision.older, &images];
        for (folder, prefix) in [("", "rootfs-"), ("", "kernel-"), ("images", "")] {
            for entry in fs::read_dir(self.cache.path(folder))? {
                let path = entry?.path();
                let named = path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix));
                if named && path.is_dir() && !path.is_symlink() && !kept.contains(&path.as_path()) {
                    eprintln!("cargo ci: deleting {}", path.display());
                    fs::remove_dir_all(&path)
                        .with_context(|| format!("cannot delete {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}
