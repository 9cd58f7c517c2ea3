//! Interrupt lines of the host, and who shares them.

use super::function;
use super::problem::Problem;
use super::root::HostRoot;
use crate::pci::HostSbdf;

/// The line that a function's pin is wired to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptLine {
    /// Its number, as in `/proc/interrupts`.
    pub irq: u32,
    /// Those who listen to it: drivers, network interfaces, as the kernel names them.
    pub users: Vec<String>,
}

impl HostRoot {
    /// The line of an enabled function; `None` if it has none, or it can't be read.
    #[must_use]
    pub fn interrupt_line(&self, sbdf: HostSbdf) -> Option<InterruptLine> {
        let text = self.text_or_empty(function::directory(sbdf).join("irq"));
        let irq = text.parse().ok().filter(|irq| *irq != 0)?;
        // What /proc/interrupts shows behind the counts.
        let users = self.text_or_empty(format!("sys/kernel/irq/{irq}/actions"));
        let users = users
            .split(',')
            .map(str::trim)
            .filter(|user| !user.is_empty());
        Some(InterruptLine {
            irq,
            users: users.map(str::to_owned).collect(),
        })
    }
}

/// For a function that needs its line and can't share it.
#[must_use]
pub fn explain_shared_line(root: &HostRoot, sbdf: HostSbdf) -> Problem {
    let what = format!("{sbdf} can't be assigned: it can't share its interrupt line");
    let unmaskable = "the device has no Interrupt Disable that works, so it can't be told from others on the line";
    match root.interrupt_line(sbdf) {
        Some(InterruptLine { irq, users }) if !users.is_empty() => Problem::new(
            what,
            format!(
                "IRQ {irq} is also used by {}, and {unmaskable}",
                users.join(", ")
            ),
            format!(
                "take their drivers off, or put the card into another slot; they are told by: grep ' {irq}:' /proc/interrupts"
            ),
        ),
        _ => Problem::new(
            what,
            format!("another driver or another assigned device uses the line, and {unmaskable}"),
            "take the others off that line, or put the card into another slot; lines are told by: cat /proc/interrupts",
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::host::explain_shared_line;
    use crate::host::saved::{NIC, SavedHost, sbdf};

    #[test]
    fn users_of_a_line_are_named() {
        let host = SavedHost::intel();
        let nic = sbdf(NIC.0);
        host.file("sys/bus/pci/devices/0000:03:00.0/irq", "21\n");
        let text = || explain_shared_line(&host.root(), nic).to_string();
        assert!(
            text().contains("why: another driver or another assigned device uses the line"),
            "{}",
            text()
        );
        host.file("sys/kernel/irq/21/actions", "ehci_hcd:usb1,eth3\n");
        assert_eq!(
            text(),
            "0000:03:00.0 can't be assigned: it can't share its interrupt line\n  \
             why: IRQ 21 is also used by ehci_hcd:usb1, eth3, and the device has no Interrupt Disable that works, \
             so it can't be told from others on the line\n  \
             fix: take their drivers off, or put the card into another slot; they are told by: grep ' 21:' /proc/interrupts"
        );
        host.file("sys/bus/pci/devices/0000:03:00.0/irq", "0\n");
        assert_eq!(host.root().interrupt_line(nic), None);
    }
}
