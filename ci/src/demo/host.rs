//! Whether the demonstration may take a card from the very machine it runs on. Everything is looked at before anything is
//! changed, and a refusal says what, why and what to do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::borrowed::Function;

/// Fails with three lines if the demonstration cannot, or should not, run on this machine.
pub(super) fn check(function: &Function) -> Result<()> {
    let bdf = function.short();
    if !function.exists() {
        refuse(
            &format!("there is no PCI function {bdf}"),
            &format!("{} does not exist", function.file("").display()),
            "choose a network card: lspci -D | grep -i -e ethernet -e network",
        )?;
    }
    if fs::metadata("/proc/self")?.uid() != 0 {
        refuse(
            "cargo ci demo --host needs root",
            &format!("it takes {bdf} from its driver, and gives it back at the end"),
            "sudo -E env \"PATH=$PATH\" cargo ci demo --host BDF",
        )?;
    }
    if !function.attribute("class")?.starts_with("0x02") {
        refuse(
            &format!("{bdf} is no network card"),
            &format!(
                "its class is {}; the demonstration pings",
                function.attribute("class")?
            ),
            "choose another: lspci -D | grep -i -e ethernet -e network",
        )?;
    }
    check_machine(function)?;
    check_group(function)?;
    check_use(function)
}

fn check_machine(function: &Function) -> Result<()> {
    if !Path::new("/dev/kvm").exists() {
        refuse(
            "this machine has no /dev/kvm",
            "its processor does not virtualise, the firmware has that off, or the module is missing",
            "modprobe kvm_intel (or kvm_amd), and enable VT-x or SVM in the firmware",
        )?;
    }
    if function.group().is_none() {
        refuse(
            &format!("{} is behind no IOMMU", function.short()),
            "the firmware has VT-d (AMD-Vi) off, or the kernel does: /sys/kernel/iommu_groups has no group with it",
            "enable it in the firmware, boot with intel_iommu=on; without one, run: cargo ci demo",
        )?;
    }
    let loaded = Command::new("modprobe").arg("vfio-pci").status();
    if !loaded.is_ok_and(|status| status.success()) {
        refuse(
            "vfio-pci cannot be loaded",
            "modprobe vfio-pci failed; its message is above",
            "install the distribution's full kernel package (not a cloud kernel)",
        )?;
    }
    Ok(())
}

/// The group goes as a whole; bridges in it do no harm.
fn check_group(function: &Function) -> Result<()> {
    let mut others = Vec::new();
    for entry in fs::read_dir(function.file("iommu_group/devices"))?.flatten() {
        let Some(other) = entry
            .file_name()
            .to_str()
            .and_then(|name| Function::new(name).ok())
        else {
            continue;
        };
        let bridge = other.attribute("class")?.starts_with("0x0604");
        let driver = other.driver();
        let harmless = matches!(driver.as_deref(), None | Some("vfio-pci" | "pci-stub"));
        if other != *function && !bridge && !harmless {
            others.push(format!(
                "{} on {}",
                other.short(),
                driver.unwrap_or_default()
            ));
        }
    }
    if !others.is_empty() {
        refuse(
            &format!("{} shares its IOMMU group", function.short()),
            &format!("the IOMMU cannot tell it from {}", others.join(", ")),
            "choose a card with a group of its own, or put it into another slot",
        )?;
    }
    Ok(())
}

/// A card that the machine, or the person at the other end of a connection, lives by is not taken.
fn check_use(function: &Function) -> Result<()> {
    let Some(interface) = function.interface() else {
        return Ok(());
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let default = has_default_route(&read("/proc/net/route"), &interface)
        || has_default_route_6(&read("/proc/net/ipv6_route"), &interface);
    let reason = if default {
        Some("this machine's default route goes through it".to_owned())
    } else {
        upper(&function.file("net").join(&interface)).map(|name| format!("it is a part of {name}"))
    };
    if let Some(reason) = reason {
        refuse(
            &format!("{} is in use as {interface}", function.short()),
            &reason,
            "choose a card that this machine can do without for a minute",
        )?;
    }
    Ok(())
}

/// A bridge, a bond or a VLAN on top of an interface.
fn upper(interface: &Path) -> Option<String> {
    let entries = fs::read_dir(interface).ok()?.flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("upper_").map(str::to_owned))
}

/// `/proc/net/route`: interface, destination, …, mask in the eighth column.
fn has_default_route(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first() == Some(&interface)
            && words.get(1) == Some(&"00000000")
            && words.get(7) == Some(&"00000000")
    })
}

/// `/proc/net/ipv6_route`: destination, prefix length, …, interface last. The kernel's own refusal is on lo.
fn has_default_route_6(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.last() == Some(&interface)
            && words.get(1) == Some(&"00")
            && words.first().is_some_and(|to| to.chars().all(|c| c == '0'))
    })
}

fn refuse(what: &str, why: &str, fix: &str) -> Result<()> {
    bail!("{what}\n  why: {why}\n  fix: {fix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_route_is_told_from_other_routes() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                     eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert!(has_default_route(table, "eth0"));
        assert!(!has_default_route(table, "eth1"));
        assert!(!has_default_route(table, "eth"));
    }

    #[test]
    fn default_route_of_ipv6_is_found_too() {
        let zero = "0".repeat(32);
        let table = format!(
            "{zero} 00 {zero} 00 fe80 00000400 00000001 00000000 00000003 eth0\n\
             fe80{} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth1\n",
            "0".repeat(28)
        );
        assert!(has_default_route_6(&table, "eth0"));
        assert!(!has_default_route_6(&table, "eth1"));
    }

    #[test]
    fn refusal_says_what_why_and_what_to_do() {
        let error = refuse("no", "because", "do").unwrap_err().to_string();
        assert_eq!(error, "no\n  why: because\n  fix: do");
    }
}
