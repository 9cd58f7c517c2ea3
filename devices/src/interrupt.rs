//! Interrupts as devices see them: edge lines and message-signalled vectors, both by eventfd.
//!
//! Nothing on an interrupt's path runs in Ferry: the device's (or VFIO's) write to an eventfd is
//! turned into a guest interrupt inside the kernel (KVM irqfd). What is here only sets that path up.

use std::io;
use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt as a guest programs it (PCI 3.0 section 6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message Address, upper and lower dword.
    pub address: u64,
    /// Message Data.
    pub data: u32,
}

/// One GSI that can carry a message-signalled interrupt, with the eventfd that raises it.
///
/// While detached the eventfd only counts: a device's interrupt stays pending in it and is delivered
/// once when the vector is attached, which is what PCI asks of a masked vector (PCI 3.0 section
/// 6.8.3.4).
pub trait MsiVector: Send + Sync {
    /// The eventfd which the device signals. It stays the same for the vector's life.
    fn trigger(&self) -> &EventFd;

    /// Routes the vector to `message` and attaches the eventfd to it.
    ///
    /// # Errors
    /// The errno of `KVM_SET_GSI_ROUTING` or `KVM_IRQFD`.
    fn attach(&self, message: MsiMessage) -> io::Result<()>;

    /// Detaches the eventfd, so that interrupts stay pending in it.
    ///
    /// # Errors
    /// The errno of `KVM_IRQFD`.
    fn detach(&self) -> io::Result<()>;

    /// Whether an interrupt waits in the eventfd of a detached vector (the PBA bit).
    fn pending(&self) -> bool;
}

/// Hands out [`MsiVector`]s.
pub trait MsiRouter: Send + Sync {
    /// Reserves a GSI, detached. It is given back when the vector is dropped.
    ///
    /// # Errors
    /// `ENOSPC` when the machine has no GSI left, or the errno of making the eventfd.
    fn allocate(&self) -> io::Result<Box<dyn MsiVector>>;
}

/// Wires a level-triggered PCI INTx line (KVM irqfd with a resample eventfd).
pub trait IntxRouter: Send + Sync {
    /// Connects `trigger` to `gsi`; the kernel signals `resample` when the guest has ended the
    /// interrupt.
    ///
    /// # Errors
    /// The errno of `KVM_IRQFD`.
    fn attach(&self, gsi: u32, trigger: &EventFd, resample: &EventFd) -> io::Result<()>;

    /// Undoes [`IntxRouter::attach`].
    ///
    /// # Errors
    /// The errno of `KVM_IRQFD`.
    fn detach(&self, gsi: u32, trigger: &EventFd) -> io::Result<()>;
}

/// A level-triggered line that a device asserts for as long as it has something to say.
pub trait IrqLine: Send + Sync {
    /// Asserts the line or takes that back.
    ///
    /// # Errors
    /// The errno of `KVM_IRQ_LINE`.
    fn set_level(&self, asserted: bool) -> io::Result<()>;
}

#[cfg(test)]
pub(crate) mod line {
    use super::IrqLine;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Remembers its level; clones are the same line.
    #[derive(Clone, Default)]
    pub(crate) struct FakeLine(Arc<AtomicBool>);

    impl FakeLine {
        pub(crate) fn asserted(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl IrqLine for FakeLine {
        fn set_level(&self, asserted: bool) -> io::Result<()> {
            self.0.store(asserted, Ordering::SeqCst);
            Ok(())
        }
    }
}
