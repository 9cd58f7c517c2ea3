//! GSI routes and irqfds: how an eventfd becomes a guest interrupt inside the kernel.
//!
//! GSIs 0 to 23 lead to the IOAPIC's pins. Those above carry one message-signalled vector each.

use super::sys::from_errno;
use super::vm::Vm;
use arch::x86_64::layout::IOAPIC_PINS;
use devices::interrupt::{IntxRouter, IrqLine, MsiMessage, MsiRouter, MsiVector};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// `KVM_MAX_IRQ_ROUTES` of x86.
const MAX_ROUTES: u32 = 4096;

/// Why the machine's interrupt routes could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The first table was refused.
    #[error("KVM_SET_GSI_ROUTING failed")]
    Table(#[source] io::Error),
}

/// The machine's GSI routing table; clones share it, and so do the vectors it hands out.
#[derive(Clone)]
pub struct GsiRouting {
    table: Arc<Table>,
}

struct Table {
    vm: Arc<Vm>,
    /// GSI → message; `None` while the GSI is reserved but has no route yet.
    messages: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl GsiRouting {
    /// Routes the IOAPIC's pins.
    ///
    /// # Errors
    /// [`RoutingError`].
    pub fn new(vm: Arc<Vm>) -> Result<Self, RoutingError> {
        let table = Table {
            vm,
            messages: Mutex::default(),
        };
        table
            .install(&BTreeMap::new())
            .map_err(RoutingError::Table)?;
        Ok(Self {
            table: Arc::new(table),
        })
    }

    /// Makes `trigger` raise the edge-triggered interrupt of IOAPIC pin `gsi`.
    ///
    /// # Errors
    /// The errno of `KVM_IRQFD`.
    pub fn attach_edge(&self, gsi: u32, trigger: &EventFd) -> io::Result<()> {
        let vm = self.table.vm.fd();
        vm.register_irqfd(trigger, gsi).map_err(from_errno)
    }

    /// The line to IOAPIC pin `gsi`, which the guest takes as level-triggered.
    #[must_use]
    pub fn line(&self, gsi: u32) -> Box<dyn IrqLine> {
        let vm = Arc::clone(&self.table.vm);
        Box::new(Line { vm, gsi })
    }

    /// How many message-signalled GSIs are reserved.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.table.lock().len()
    }
}

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Option<MsiMessage>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the kernel's table: the IOAPIC's pins and `messages`.
    fn install(&self, messages: &BTreeMap<u32, Option<MsiMessage>>) -> io::Result<()> {
        let pins = (0..IOAPIC_PINS).map(ioapic_entry);
        let vectors = messages
            .iter()
            .filter_map(|(gsi, message)| message.map(|message| msi_entry(*gsi, message)));
        let entries: Vec<_> = pins.chain(vectors).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOSPC))?;
        self.vm.fd().set_gsi_routing(&table).map_err(from_errno)
    }

    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut messages = self.lock();
        let before = messages.insert(gsi, Some(message)).flatten();
        if before == Some(message) {
            return Ok(());
        }
        let installed = self.install(&messages);
        if installed.is_err() {
            messages.insert(gsi, before);
        }
        installed
    }
}

fn ioapic_entry(pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip {
        irqchip: KVM_IRQCHIP_IOAPIC,
        pin,
    };
    entry
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of the address are its two fields"
)]
fn msi_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// One message-signalled GSI and its irqfd.
struct Vector {
    table: Arc<Table>,
    gsi: u32,
    trigger: EventFd,
    attached: Mutex<bool>,
}

impl MsiRouter for GsiRouting {
    fn allocate(&self) -> io::Result<Box<dyn MsiVector>> {
        let trigger = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let mut messages = self.table.lock();
        let gsi = (IOAPIC_PINS..MAX_ROUTES)
            .find(|gsi| !messages.contains_key(gsi))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        messages.insert(gsi, None);
        Ok(Box::new(Vector {
            table: Arc::clone(&self.table),
            gsi,
            trigger,
            attached: Mutex::new(false),
        }))
    }
}

impl MsiVector for Vector {
    fn trigger(&self) -> &EventFd {
        &self.trigger
    }

    fn attach(&self, message: MsiMessage) -> io::Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        // The route first: an irqfd without a route would lose what arrives in between.
        self.table.route(self.gsi, message)?;
        if !*attached {
            let vm = self.table.vm.fd();
            vm.register_irqfd(&self.trigger, self.gsi)
                .map_err(from_errno)?;
            *attached = true;
        }
        Ok(())
    }

    fn detach(&self) -> io::Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if *attached {
            let vm = self.table.vm.fd();
            vm.unregister_irqfd(&self.trigger, self.gsi)
                .map_err(from_errno)?;
            *attached = false;
        }
        Ok(())
    }

    fn pending(&self) -> bool {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if *attached {
            return false;
        }
        // Nobody else reads the eventfd of a detached vector, so what was taken is put back whole.
        let waiting = self.trigger.read().is_ok();
        if waiting && let Err(error) = self.trigger.write(1) {
            log::error!("GSI {}: a pending interrupt was lost: {error}", self.gsi);
        }
        waiting
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            log::error!("GSI {}: the irqfd could not be removed: {error}", self.gsi);
        }
        // The stale route stays in the kernel's table until the next change: nothing triggers it.
        self.table.lock().remove(&self.gsi);
    }
}

impl IntxRouter for GsiRouting {
    fn attach(&self, gsi: u32, trigger: &EventFd, resample: &EventFd) -> io::Result<()> {
        let vm = self.table.vm.fd();
        vm.register_irqfd_with_resample(trigger, resample, gsi)
            .map_err(from_errno)
    }

    fn detach(&self, gsi: u32, trigger: &EventFd) -> io::Result<()> {
        let vm = self.table.vm.fd();
        vm.unregister_irqfd(trigger, gsi).map_err(from_errno)
    }
}

/// A line that Ferry drives itself.
struct Line {
    vm: Arc<Vm>,
    gsi: u32,
}

impl IrqLine for Line {
    fn set_level(&self, asserted: bool) -> io::Result<()> {
        let set = self.vm.fd().set_irq_line(self.gsi, asserted);
        set.map_err(from_errno)
    }
}
