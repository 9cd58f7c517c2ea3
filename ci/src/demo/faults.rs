//! Accesses of a device that the IOMMU refused, as the kernel logs them.

use std::process::Command;

use anyhow::{Context, Result};

/// How many lines of the kernel log report an access that the IOMMU refused.
pub(super) fn dma_faults() -> Result<usize> {
    let output = Command::new("dmesg")
        .output()
        .context("cannot start dmesg")?;
    Ok(faults_in(&String::from_utf8_lossy(&output.stdout)))
}

fn faults_in(log: &str) -> usize {
    log.lines()
        .filter(|line| {
            let intel = line.contains("DMAR:") && line.to_lowercase().contains("fault");
            intel || line.contains("IO_PAGE_FAULT")
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_both_makes_are_counted() {
        let log = "DMAR: DRHD: handling fault status reg 2\n\
                   AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0]\n\
                   DMAR: IOMMU enabled\n";
        assert_eq!(faults_in(log), 2);
    }
}
