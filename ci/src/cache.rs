//! The cache folder: everything that was fetched or built and can be fetched or built again.
//!
//! A result is a folder whose name carries a fingerprint of what went into it. It is made under `tmp/` and renamed into
//! place, so a run that is killed leaves either nothing or the whole thing. One lock file keeps two runs apart.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cache folder of this user.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Proof that this process alone changes the cache; released on drop.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl Cache {
    /// Finds (and creates) the folder: `$FERRY_CACHE`, else `$XDG_CACHE_HOME/ferry`, else `~/.cache/ferry`.
    pub fn open() -> Result<Self> {
        let root = locate(|name| env::var_os(name).map(PathBuf::from))?;
        fs::create_dir_all(root.join("tmp")).with_context(|| {
            format!(
                "cannot create the cache folder {}; set FERRY_CACHE to a folder you can write",
                root.display()
            )
        })?;
        // L1 sees the folder at this same path, so it must be free of symbolic links.
        let root = root.canonicalize()?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until no other run changes the cache. Remains of killed runs are swept away here, the only time it is safe.
    pub fn lock(&self) -> Result<CacheLock> {
        let path = self.path("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                eprintln!(
                    "cargo ci: waiting for another run that is preparing {}",
                    self.root.display()
                );
                file.lock()?;
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        for entry in fs::read_dir(self.root.join("tmp"))? {
            fs::remove_dir_all(entry?.path())?;
        }
        Ok(CacheLock { _file: file })
    }

    /// Returns the folder `name`, filling it with `fill` first if it does not exist yet.
    pub fn folder(
        &self,
        _lock: &CacheLock,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.path(name);
        if done.exists() {
            return Ok(done);
        }
        let draft = self.root.join("tmp").join(name.replace('/', "-"));
        fs::create_dir_all(&draft)?;
        fill(&draft)?;
        if let Some(parent) = done.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&draft, &done)
            .with_context(|| format!("cannot move {} into place", done.display()))?;
        Ok(done)
    }

    /// Points the symbolic link `name` at `target` (relative to the link), replacing it in one step.
    pub fn link(&self, _lock: &CacheLock, name: &str, target: &str) -> Result<()> {
        let draft_folder = self.root.join("tmp/link");
        fs::create_dir_all(&draft_folder)?;
        let draft = draft_folder.join("link");
        let link = self.path(name);
        if fs::read_link(&link).is_ok_and(|now| now == Path::new(target)) {
            return Ok(());
        }
        std::os::unix::fs::symlink(target, &draft)?;
        fs::rename(&draft, &link).with_context(|| format!("cannot set the link {}", link.display()))
    }
}

/// A short name for a set of inputs. It only has to tell results apart, so 64 bits are plenty.
pub fn fingerprint(inputs: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn locate(var: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = var("FERRY_CACHE").filter(|path| !path.as_os_str().is_empty()) {
        return std::path::absolute(path).context("FERRY_CACHE is not a usable path");
    }
    // The XDG specification says that a relative path there is to be ignored.
    if let Some(path) = var("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
        return Ok(path.join("ferry"));
    }
    match var("HOME").filter(|path| path.is_absolute()) {
        Some(home) => Ok(home.join(".cache/ferry")),
        None => bail!(
            "no place for the cache: HOME is not set; set FERRY_CACHE to a folder for it (1.4 GB)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(vars: &[(&str, &str)]) -> Option<PathBuf> {
        locate(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| PathBuf::from(value))
        })
        .ok()
    }

    #[test]
    fn cache_folder_follows_ferry_cache_then_xdg_then_home() {
        let home = ("HOME", "/home/u");
        assert_eq!(located(&[home]), Some("/home/u/.cache/ferry".into()));
        assert_eq!(
            located(&[home, ("XDG_CACHE_HOME", "/x")]),
            Some("/x/ferry".into())
        );
        assert_eq!(
            located(&[home, ("XDG_CACHE_HOME", "relative")]),
            Some("/home/u/.cache/ferry".into())
        );
        assert_eq!(
            located(&[home, ("XDG_CACHE_HOME", "/x"), ("FERRY_CACHE", "/f")]),
            Some("/f".into())
        );
        assert_eq!(located(&[]), None);
    }

    #[test]
    fn folder_that_failed_to_fill_does_not_exist() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache {
            root: temp.path().to_owned(),
        };
        fs::create_dir(temp.path().join("tmp")).unwrap();
        let lock = cache.lock().unwrap();
        let failed = cache.folder(&lock, "a/b", |path| {
            fs::write(path.join("half"), "")?;
            bail!("broken")
        });
        assert!(failed.is_err());
        assert!(!cache.path("a/b").exists());
        drop(lock);
        let lock = cache.lock().unwrap();
        let path = cache
            .folder(&lock, "a/b", |path| Ok(fs::write(path.join("whole"), "")?))
            .unwrap();
        assert!(path.join("whole").exists());
        assert!(
            !path.join("half").exists(),
            "the remains of the failed run were kept"
        );
        let again = cache
            .folder(&lock, "a/b", |_| bail!("must not run"))
            .unwrap();
        assert_eq!(path, again);
    }

    #[test]
    fn link_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache {
            root: temp.path().to_owned(),
        };
        fs::create_dir(temp.path().join("tmp")).unwrap();
        let lock = cache.lock().unwrap();
        for target in ["one", "two", "two"] {
            cache.link(&lock, "current", target).unwrap();
            assert_eq!(
                fs::read_link(cache.path("current")).unwrap(),
                Path::new(target)
            );
        }
    }
}
