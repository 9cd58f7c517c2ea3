//! A private apt root: own sources, own lists, an empty package database.
//!
//! With an empty database apt resolves the whole closure down to the C library, exactly what a self-contained tree
//! needs. The host's apt configuration is not read (hooks in it would act on the host), except for the way to the
//! network: proxies and time-outs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{KERNEL_PACKAGE, Suite, keyring};

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// One apt root for one release.
#[derive(Debug)]
pub struct AptRoot {
    dir: PathBuf,
    suite: Suite,
}

/// A package file in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Package {
    /// The file's name, which holds the package's name and version.
    pub file: String,
    /// Bytes to fetch.
    pub size: u64,
}

impl AptRoot {
    /// Sets up the root in `dir` (empty or used before) and brings its package lists up to date.
    pub fn open(dir: PathBuf, suite: Suite) -> Result<Self> {
        require_tools()?;
        let keyring = keyring::find(&dir)?;
        for folder in ["etc", "state/lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let mirror =
            std::env::var("FERRY_DEBIAN_MIRROR").unwrap_or_else(|_| DEFAULT_MIRROR.to_owned());
        fs::write(dir.join("status"), "")?;
        let source = |name: &str| {
            format!(
                "deb [arch=amd64 signed-by={}] {mirror} {name} main\n",
                keyring.display()
            )
        };
        let sources: String = suite.archives().iter().map(|name| source(name)).collect();
        fs::write(dir.join("etc/sources.list"), sources)?;
        fs::write(dir.join("etc/preferences"), suite.preferences())?;
        fs::write(
            dir.join("apt.conf"),
            configuration(&dir, &host_network_settings()?),
        )?;
        let root = Self { dir, suite };
        root.run("apt-get", &["update"], &root.dir)
            .with_context(|| {
                format!(
                    "cannot fetch the package lists of {} from {mirror}; check the network",
                    suite.name()
                )
            })?;
        Ok(root)
    }

    /// Names the files of `packages` and of everything they depend on.
    pub fn closure(&self, packages: &[&str]) -> Result<Vec<Package>> {
        let mut args = vec!["install", "--yes", "--print-uris"];
        args.extend(packages);
        Ok(parse_uris(&self.capture("apt-get", &args)?))
    }

    /// Fetches what [`AptRoot::closure`] named.
    pub fn fetch_closure(&self, packages: &[&str]) -> Result<()> {
        let mut args = vec!["install", "--yes", "--download-only"];
        args.extend(packages);
        self.run("apt-get", &args, &self.dir)
    }

    /// Names the package file of the current kernel of this release.
    pub fn kernel(&self) -> Result<Kernel> {
        let text = self.capture("apt-cache", &["depends", KERNEL_PACKAGE])?;
        let name = text
            .lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("Depends: ")
                    .filter(|name| name.starts_with("linux-image-"))
            })
            .with_context(|| {
                format!(
                    "{KERNEL_PACKAGE} of {} depends on no kernel",
                    self.suite.name()
                )
            })?
            .to_owned();
        let uris = parse_uris(&self.capture("apt-get", &["download", "--print-uris", &name])?);
        let package = uris
            .into_iter()
            .next()
            .with_context(|| format!("{name} cannot be downloaded"))?;
        Ok(Kernel {
            release: name.trim_start_matches("linux-image-").to_owned(),
            name,
            package,
        })
    }

    /// Fetches one package file without its dependencies.
    pub fn fetch_alone(&self, package: &str) -> Result<()> {
        self.run(
            "apt-get",
            &["download", package],
            &self.dir.join("archives"),
        )
    }

    /// The folder that fetched files land in.
    pub fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }

    /// Unpacks the fetched file of `package` into `target`.
    pub fn unpack(&self, package: &Package, target: &Path) -> Result<()> {
        let file = self.archives().join(&package.file);
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .arg(&file)
            .arg(target)
            .output()?;
        if !output.status.success() {
            bail!(
                "cannot unpack {}: {}",
                file.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Deletes the fetched files: once unpacked they are only bulk.
    pub fn discard_archives(&self) -> Result<()> {
        fs::remove_dir_all(self.archives()).context("cannot delete fetched packages")
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        command
    }

    fn capture(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program, args)
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command quietly: apt would speak of installing, which is not what happens.
    fn run(&self, program: &str, args: &[&str], directory: &Path) -> Result<()> {
        let output = self
            .command(program, args)
            .arg("-qq")
            .current_dir(directory)
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// The current kernel of a release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The release string, as in `/lib/modules/RELEASE`.
    pub release: String,
    /// The package's name.
    pub name: String,
    /// The package's file.
    pub package: Package,
}

fn require_tools() -> Result<()> {
    for tool in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            bail!(
                "{tool} is missing: the lab is built from Debian packages and needs a Debian-like host \
                 (Debian 12 or newer, Ubuntu 24.04)"
            );
        }
    }
    Ok(())
}

pub(super) fn configuration(dir: &Path, network: &str) -> String {
    let dir = dir.display();
    format!(
        r#"Dir "{dir}/";
Dir::Etc "{dir}/etc";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "{dir}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "{dir}/etc/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{dir}/state";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}";
Dir::Cache::archives "{dir}/archives";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
{network}"#
    )
}

pub(super) fn host_network_settings() -> Result<String> {
    let output = Command::new("apt-config")
        .arg("dump")
        .output()
        .context("cannot start apt-config")?;
    Ok(network_settings(&String::from_utf8_lossy(&output.stdout)))
}

fn network_settings(dump: &str) -> String {
    let ways = ["Acquire::http::", "Acquire::https::", "Acquire::ftp::"];
    dump.lines()
        .filter(|line| ways.iter().any(|way| line.starts_with(way)))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Reads the lines `'URI' FILE SIZE HASH` that apt-get prints instead of fetching.
fn parse_uris(text: &str) -> Vec<Package> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some(Package {
                file: words.next()?.to_owned(),
                size: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_told_from_the_chatter_around_them() {
        let text = "Reading package lists...\n\
                    'http://m/pool/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 4711 MD5Sum:00\n\
                    'http://m/pool/b_1_all.deb' b_1_all.deb 12 SHA256:00\n";
        assert_eq!(
            parse_uris(text),
            [
                Package {
                    file: "a_1%3a2_amd64.deb".into(),
                    size: 4711
                },
                Package {
                    file: "b_1_all.deb".into(),
                    size: 12
                }
            ]
        );
    }

    #[test]
    fn only_the_way_to_the_network_is_taken_from_the_host() {
        let dump = "APT::Update::Post-Invoke:: \"rm x\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::Languages \"de\";\n";
        assert_eq!(
            network_settings(dump),
            "Acquire::http::Proxy \"http://p:1\";\n"
        );
    }
}
