//! The keys that Debian signs its archive with; every fetched package is checked against them.
//!
//! Debian always has them. Ubuntu has them in a package, which is fetched from the host's own archive, as the host's own
//! sources and keys say, and unpacked beside everything else: nothing is installed, and no root is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt;

const PACKAGE: &str = "debian-archive-keyring";
const FILES: [&str; 2] = [
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Finds the keyring on the host or in `dir`; fetches it into `dir` if it is in neither.
pub(super) fn find(dir: &Path) -> Result<PathBuf> {
    let own = dir.join("keyring");
    if let Some(path) = present(Path::new("/")).or_else(|| present(&own)) {
        return Ok(path);
    }
    eprintln!(
        "cargo ci: Debian's signing keys are missing; fetching {PACKAGE} from this system's archive"
    );
    fetch(&own).with_context(|| {
        format!(
            "Debian's signing keys are missing and could not be fetched; install them: sudo apt-get install {PACKAGE}"
        )
    })?;
    present(&own).with_context(|| format!("{PACKAGE} holds no keyring"))
}

fn present(root: &Path) -> Option<PathBuf> {
    FILES
        .iter()
        .map(|file| root.join(file))
        .find(|path| path.exists())
}

/// Fetches the package by the host's sources and keys, and unpacks it into `target`.
fn fetch(target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let apt = tempfile::tempdir_in(target)?;
    let dir = apt.path();
    fs::create_dir_all(dir.join("state/lists/partial"))?;
    fs::write(dir.join("status"), "")?;
    fs::write(dir.join("apt.conf"), host_sources(dir)?)?;
    run(dir, &["update"])?;
    run(dir, &["download", PACKAGE])?;
    let file = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("{PACKAGE} did not come"))?;
    let output = Command::new("dpkg-deb")
        .arg("-x")
        .arg(&file)
        .arg(target)
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A private apt root that only takes sources and keys from the host. Of two values for one name the last holds.
fn host_sources(dir: &Path) -> Result<String> {
    let network = apt::host_network_settings()?;
    let own = apt::configuration(dir, &network);
    Ok(format!(
        r#"{own}
Dir::Etc::sourcelist "/etc/apt/sources.list";
Dir::Etc::sourceparts "/etc/apt/sources.list.d";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
"#
    ))
}

fn run(dir: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .arg("-qq")
        .args(args)
        .current_dir(dir)
        .env("APT_CONFIG", dir.join("apt.conf"))
        .env("LC_ALL", "C")
        .output()
        .context("cannot start apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyring_that_was_fetched_before_is_found() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(present(temp.path()), None);
        let path = temp.path().join(FILES[1]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(present(temp.path()), Some(path));
    }

    #[test]
    fn host_sources_win_over_the_private_ones() {
        let text = host_sources(Path::new("/private")).unwrap();
        let of = |name: &str| text.lines().rfind(|line| line.starts_with(name)).unwrap();
        assert!(of("Dir::Etc::sourcelist").contains("/etc/apt/sources.list"));
        assert!(of("Dir::Etc::sourceparts").contains("/etc/apt/sources.list.d"));
        assert!(of("Dir::State ").contains("/private/state"));
        assert!(
            of("Dir::Etc::parts").contains("/dev/null"),
            "hooks of the host would run"
        );
    }
}
