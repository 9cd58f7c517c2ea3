//! Everything a lab machine is made of, fetched and built: the one thing most chores begin with.

use anyhow::Result;

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
}
