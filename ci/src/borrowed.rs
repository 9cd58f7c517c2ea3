//! A PCI function lent to vfio-pci, and given back whatever happens.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const DEVICES: &str = "/sys/bus/pci/devices";
const VFIO_PCI: &str = "vfio-pci";
/// How long the kernel may take to make what a write to sysfs asks for.
const MOMENT: Duration = Duration::from_secs(20);
/// Gives the function back as soon as this process is gone, killed or not.
const GIVE_BACK: &str = include_str!("../../resources/demo/give-back");

/// A PCI function of the machine that this program runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    address: String,
}

impl Function {
    /// The function at `address`, with or without the domain.
    pub fn new(address: &str) -> Result<Self> {
        let address = match address.matches(':').count() {
            1 => format!("0000:{address}"),
            _ => address.to_owned(),
        };
        let plain = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
        if address.len() != "0000:00:00.0".len() || !address.chars().all(plain) {
            bail!("{address} is no address of a PCI function; it looks like 0000:01:00.0");
        }
        Ok(Self { address })
    }

    /// The address with the domain.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address as most people write it.
    pub fn short(&self) -> &str {
        self.address.strip_prefix("0000:").unwrap_or(&self.address)
    }

    /// A file of the function in sysfs.
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new(DEVICES).join(&self.address).join(name)
    }

    /// Whether there is such a function.
    pub fn exists(&self) -> bool {
        self.file("").is_dir()
    }

    /// The text of one of its files.
    pub fn attribute(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The driver it is on.
    pub fn driver(&self) -> Option<String> {
        target_name(&self.file("driver"))
    }

    /// Its IOMMU group.
    pub fn group(&self) -> Option<String> {
        target_name(&self.file("iommu_group"))
    }

    /// The network interface that its driver made of it.
    pub fn interface(&self) -> Option<String> {
        let entry = fs::read_dir(self.file("net")).ok()?.next()?.ok()?;
        entry.file_name().into_string().ok()
    }

    /// The commands that lend it, as a person would type them.
    pub fn lending_commands(&self) -> Vec<String> {
        let Self { address } = self;
        let mut commands = vec![format!(
            "echo {VFIO_PCI} > {DEVICES}/{address}/driver_override"
        )];
        if self.driver().is_some() {
            commands.push(format!(
                "echo {address} > {DEVICES}/{address}/driver/unbind"
            ));
        }
        commands.push(format!("echo {address} > /sys/bus/pci/drivers_probe"));
        commands
    }
}

/// A function on vfio-pci.
#[derive(Debug)]
pub struct Borrowed {
    function: Function,
    driver: Option<String>,
    /// `None` when the function was on vfio-pci before.
    keeper: Option<Child>,
}

impl Borrowed {
    /// Takes the function from its driver and lends it to vfio-pci until the value, or this process, is gone.
    pub fn new(function: Function) -> Result<Self> {
        let driver = function.driver();
        if driver.as_deref() == Some(VFIO_PCI) {
            return Ok(Self {
                function,
                driver,
                keeper: None,
            });
        }
        // There before anything is changed; in a process group of its own, so that Ctrl-C does not reach it.
        let keeper = Command::new("sh")
            .args(["-c", GIVE_BACK, "give-back", &function.address])
            .arg(driver.as_deref().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let borrowed = Self {
            function,
            driver,
            keeper: Some(keeper),
        };
        borrowed.take()?;
        Ok(borrowed)
    }

    /// The function.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// The driver it will go back to.
    pub fn driver(&self) -> Option<&str> {
        self.driver.as_deref()
    }

    /// Gives it back now, and says whether its driver has it again.
    pub fn give_back(mut self) -> Result<Function> {
        let function = self.function.clone();
        let driver = self.driver.clone();
        self.release();
        until(
            || function.driver() == driver,
            || {
                format!(
                    "{} did not go back to {}",
                    function.address,
                    driver.as_deref().unwrap_or("no driver")
                )
            },
        )?;
        Ok(function)
    }

    fn take(&self) -> Result<()> {
        let function = &self.function;
        write(&function.file("driver_override"), VFIO_PCI)?;
        if self.driver.is_some() {
            write(&function.file("driver/unbind"), &function.address)?;
        }
        write(Path::new("/sys/bus/pci/drivers_probe"), &function.address)?;
        until(
            || function.driver().as_deref() == Some(VFIO_PCI),
            || format!("{} did not go to {VFIO_PCI}", function.address),
        )?;
        let node = Path::new("/dev/vfio").join(function.group().unwrap_or_default());
        until(|| node.exists(), || format!("no {}", node.display()))
    }

    fn release(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.release();
    }
}

/// Waits until `holds`; otherwise the error says `what`.
fn until(holds: impl Fn() -> bool, what: impl Fn() -> String) -> Result<()> {
    let end = Instant::now() + MOMENT;
    while !holds() {
        if Instant::now() >= end {
            bail!("{} within {} s", what(), MOMENT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("echo {text} > {} failed", path.display()))
}

fn target_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_the_domain() {
        let function = Function::new("01:00.0").unwrap();
        assert_eq!(function.address(), "0000:01:00.0");
        assert_eq!(function.short(), "01:00.0");
        assert_eq!(
            Function::new("0001:01:00.0").unwrap().short(),
            "0001:01:00.0"
        );
        for bad in ["", "eth0", "01:00", "../../etc", "0000:01:00.0/x"] {
            assert!(Function::new(bad).is_err(), "{bad}");
        }
    }
}
