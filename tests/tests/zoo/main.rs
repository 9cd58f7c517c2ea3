//! Whatever a host has, a guest can be given: one of everything.
//!
//! Booting takes most of the time, so each guest is asked everything at once and each test looks at one fact of the
//! answers.
//!
//! | Guest | vCPUs, RAM | Devices |
//! |---|---|---|
//! | [`lines::guest`] | 1, 512 MiB | e1000, rtl8139 and edu, all on one interrupt line |
//! | [`crowd::guest`] | 2, 1 GiB | two e1000e in one slot, a VF of igb, NVMe, xHCI, VGA, pci-testdev, ivshmem of 16 GiB, rtl8139 |
//! | `reboots`, rebooted many times beside the first guest | 1, 256 MiB | two e1000e, one by INTx, one by MSI-X |
//! | `growth`, drivers taken away many times, then one loaded for INTx and MSI-X in turn, then its device put to sleep | 1, 256 MiB | e1000 by INTx, e1000e by MSI-X |
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod bars;
mod crowd;
mod growth;
mod interrupts;
mod lines;
mod modes;
mod network;
mod power;
mod reboots;
mod registers;
mod storage;
mod virtual_function;
