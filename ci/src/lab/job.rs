//! What L1 is told to do: the folder `/job` of its initramfs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::image::Archive;

/// A folder of the host that L1 sees, read-only and at the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) tag: String,
    pub(super) path: PathBuf,
}

/// One run of L1.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Empty for an interactive shell.
    pub(super) command: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: PathBuf,
    pub(super) shares: Vec<Share>,
    /// The `ferry` program to put on the path.
    pub(super) ferry: Option<PathBuf>,
    /// The text that greets a person.
    pub(super) greeting: String,
    /// Rows and columns of the person's terminal.
    pub(super) window: Option<(String, String)>,
    pub(super) mark: String,
}

impl Job {
    /// The archive to append to the initramfs of L1.
    pub(super) fn archive(&self, stage2: &str, bashrc: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        archive.program("job/stage2", stage2.as_bytes())?;
        let shares: String = self
            .shares
            .iter()
            .map(|share| format!("{} {}\n", share.tag, share.path.display()))
            .collect();
        archive.file("job/shares", shares.as_bytes())?;
        archive.file("job/env", self.exports().as_bytes())?;
        archive.file(
            "job/directory",
            self.directory.display().to_string().as_bytes(),
        )?;
        archive.file("job/mark", self.mark.as_bytes())?;
        archive.folder("job/bin")?;
        if let Some(ferry) = &self.ferry {
            archive.link("job/bin/ferry", &ferry.display().to_string())?;
        }
        if self.command.is_empty() {
            archive.file("job/interactive", b"")?;
            archive.file("job/greeting", self.greeting.as_bytes())?;
            archive.file("job/bashrc", bashrc.as_bytes())?;
        } else {
            archive.file("job/command", self.command_line().as_bytes())?;
        }
        Ok(archive.finish()?)
    }

    fn command_line(&self) -> String {
        let words: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        format!("exec {}\n", words.join(" "))
    }

    fn exports(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.environment {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "export {name}={}", quoted(value));
        }
        if let Some((rows, columns)) = &self.window {
            let _ = writeln!(
                text,
                "export FERRY_LAB_ROWS={} FERRY_LAB_COLUMNS={}",
                quoted(rows),
                quoted(columns)
            );
        }
        text
    }
}

/// The shares for `paths`, leaving out those inside another one.
pub(super) fn shares(paths: &[&Path]) -> Vec<Share> {
    let mut kept: Vec<&Path> = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let inside = |other: &&Path| path.starts_with(other) && path != other;
        if !paths.iter().any(inside) && !paths[..index].contains(path) {
            kept.push(path);
        }
    }
    kept.iter()
        .enumerate()
        .map(|(index, path)| Share {
            tag: format!("share{index}"),
            path: (*path).to_owned(),
        })
        .collect()
}

/// The word in single quotes, which a shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_inside_others_are_left_out() {
        let paths = [
            "/work/repo/target",
            "/work/repo",
            "/cache",
            "/work/repo",
            "/work/repo2",
        ]
        .map(Path::new);
        let shares = shares(&paths);
        let kept: Vec<_> = shares
            .iter()
            .map(|share| share.path.to_str().unwrap())
            .collect();
        assert_eq!(kept, ["/work/repo", "/cache", "/work/repo2"]);
        assert_eq!(shares[2].tag, "share2");
    }

    #[test]
    fn words_survive_the_shell() {
        for word in [
            "plain",
            "two words",
            "it's",
            "$HOME `id` \"x\"",
            "new\nline",
            "",
        ] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(script)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
