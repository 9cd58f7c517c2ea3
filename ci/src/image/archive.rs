//! An initramfs under construction: a cpio archive in the `newc` format, uncompressed (fastest to boot from).

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::{Context, Result};
use cpio::newc::{self, Builder};

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// The kernel unpacks archives laid one after another if each starts on a multiple of four bytes.
const SEGMENT: usize = 512;

/// Entries are kept in the order they were added; folders above an entry appear by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a folder and those above it.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        let ends = path
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if self.folders.insert(part.to_owned()) {
                self.entry(Builder::new(part).mode(FOLDER | 0o755).nlink(2), &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that cannot be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(Builder::new(path).mode(REGULAR | 0o644), content)
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(Builder::new(path).mode(REGULAR | 0o755), content)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(Builder::new(path).mode(SYMLINK | 0o777), target.as_bytes())
    }

    /// Adds `/dev/console`, without which init would have no output until devtmpfs is mounted.
    pub fn console(&mut self) -> Result<()> {
        self.folder("dev")?;
        self.entry(
            Builder::new("dev/console")
                .mode(CHARACTER | 0o600)
                .rdev_major(5)
                .rdev_minor(1),
            &[],
        )
    }

    /// Ends the archive, padded so that another may follow.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        newc::trailer(&mut self.bytes)?;
        self.bytes
            .resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        path.rsplit_once('/')
            .map_or(Ok(()), |(parent, _)| self.folder(parent))
    }

    fn entry(&mut self, builder: Builder, content: &[u8]) -> Result<()> {
        // Distinct inode numbers keep the kernel from taking two entries for one hard-linked file.
        self.entries += 1;
        let size = u32::try_from(content.len())
            .context("a file of 4 GiB or more does not fit a cpio archive")?;
        let mut writer = builder.ino(self.entries).write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(bytes: &[u8]) -> Vec<(String, u32, usize)> {
        let mut entries = Vec::new();
        let mut bytes = io::Cursor::new(bytes);
        loop {
            let reader = newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let entry = reader.entry();
            entries.push((
                entry.name().to_owned(),
                entry.mode(),
                entry.file_size() as usize,
            ));
            bytes = reader.skip().unwrap();
        }
    }

    #[test]
    fn folders_come_before_their_entries_and_only_once() {
        let mut archive = Archive::default();
        archive.program("a/b/run", b"12345").unwrap();
        archive.file("a/b/data", b"1").unwrap();
        archive.link("a/link", "b/run").unwrap();
        archive.console().unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % SEGMENT, 0);
        assert_eq!(
            listing(&bytes),
            [
                ("a".to_owned(), 0o040_755, 0),
                ("a/b".to_owned(), 0o040_755, 0),
                ("a/b/run".to_owned(), 0o100_755, 5),
                ("a/b/data".to_owned(), 0o100_644, 1),
                ("a/link".to_owned(), 0o120_777, 5),
                ("dev".to_owned(), 0o040_755, 0),
                ("dev/console".to_owned(), 0o020_600, 0),
            ]
        );
    }
}
