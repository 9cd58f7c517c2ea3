//! What the host's kernel says from some moment on.

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Words of a DMA fault: a device reached for memory that the IOMMU has not given it. VT-d writes
/// "DMAR: [DMA Read NO_PASID] Request device … fault addr …", AMD-Vi "AMD-Vi: Event logged
/// [IO_PAGE_FAULT …".
const FAULTS: [&str; 4] = [
    "handling fault status",
    "fault addr",
    "fault reason",
    "IO_PAGE_FAULT",
];

/// A place in the host's kernel log.
#[derive(Debug)]
pub struct KernelLog {
    kmsg: OwnedFd,
    lines: Vec<String>,
}

impl KernelLog {
    /// The log from now on.
    ///
    /// # Panics
    /// When `/dev/kmsg` can't be read.
    #[must_use]
    pub fn from_now() -> Self {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = open("/dev/kmsg", flags, Mode::empty())
            .and_then(|kmsg| seek(&kmsg, SeekFrom::End(0)).map(|_| kmsg));
        match opened {
            Ok(kmsg) => Self {
                kmsg,
                lines: Vec::new(),
            },
            Err(error) => panic!("/dev/kmsg: {error}"),
        }
    }

    /// The lines since then.
    ///
    /// # Panics
    /// When `/dev/kmsg` can't be read.
    pub fn lines(&mut self) -> &[String] {
        // One read gives one record (Documentation/ABI/testing/dev-kmsg).
        let mut record = [0; 8192];
        loop {
            match rustix::io::read(&self.kmsg, &mut record) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(record.get(..count).unwrap_or_default());
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    self.lines.push(message.trim_end().to_owned());
                }
                Err(Errno::AGAIN) => return &self.lines,
                Err(Errno::PIPE) => panic!("the kernel's log was overwritten before it was read"),
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }

    /// The lines about devices that reached for memory that was not their guest's.
    ///
    /// # Panics
    /// When `/dev/kmsg` can't be read.
    #[must_use]
    pub fn dma_faults(&mut self) -> Vec<String> {
        let lines = self.lines().iter();
        lines.filter(|line| is_dma_fault(line)).cloned().collect()
    }

    /// Fails the test when there is such a line.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_no_dma_fault(&mut self) {
        let faults = self.dma_faults();
        assert!(faults.is_empty(), "DMA faults: {faults:#?}");
    }
}

fn is_dma_fault(line: &str) -> bool {
    FAULTS.iter().any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_from_other_lines_of_the_driver() {
        assert!(is_dma_fault(
            "DMAR: [DMA Write NO_PASID] Request device [05:00.0] fault addr 0x1e8f000 \
             [fault reason 0x05] PTE Write access is not set"
        ));
        assert!(is_dma_fault("DMAR: DRHD: handling fault status reg 2"));
        assert!(!is_dma_fault(
            "DMAR: Intel(R) Virtualization Technology for Directed I/O"
        ));
        assert!(!is_dma_fault(
            "pci 0000:01:00.0: DMAR: default domain is identity"
        ));
    }
}
