//! A device node whose rights a test changes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

/// A node with other rights; dropping it gives it those that it had.
#[derive(Debug)]
pub struct Lent {
    path: PathBuf,
    owner: u32,
    group: u32,
    mode: u32,
}

impl Lent {
    /// Gives the node at `path` this mode.
    ///
    /// # Panics
    /// When that can't be done.
    #[must_use]
    #[track_caller]
    pub fn with_mode(path: impl Into<PathBuf>, mode: u32) -> Self {
        let path = path.into();
        let lent = match fs::metadata(&path) {
            Ok(metadata) => Self {
                owner: metadata.uid(),
                group: metadata.gid(),
                mode: metadata.mode(),
                path,
            },
            Err(error) => panic!("{}: {error}", path.display()),
        };
        if let Err(error) = fs::set_permissions(&lent.path, Permissions::from_mode(mode)) {
            panic!("{}: {error}", lent.path.display());
        }
        lent
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = chown(&self.path, Some(self.owner), Some(self.group));
        let _ = fs::set_permissions(&self.path, Permissions::from_mode(self.mode));
    }
}
