//! Interrupt routers that count.

use super::host::lock;
use crate::interrupt::{IntxRouter, MsiMessage, MsiRouter, MsiVector};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Counts GSIs, and records what they carry.
#[derive(Default)]
pub(in crate::vfio::tests) struct FakeRouter {
    routes: Arc<Mutex<Routes>>,
}

#[derive(Default)]
pub(in crate::vfio::tests) struct Routes {
    next: u32,
    /// GSI → message of the attached; `None` for the detached.
    pub(in crate::vfio::tests) msi: BTreeMap<u32, Option<MsiMessage>>,
    pub(in crate::vfio::tests) intx: BTreeMap<u32, RawFd>,
    /// How many GSIs there are left.
    pub(in crate::vfio::tests) left: Option<u32>,
    last_trigger: Option<EventFd>,
}

struct FakeVector {
    gsi: u32,
    trigger: EventFd,
    routes: Arc<Mutex<Routes>>,
}

impl FakeRouter {
    pub(in crate::vfio::tests) fn routes(&self) -> MutexGuard<'_, Routes> {
        lock(&self.routes)
    }

    /// Signals the vector that was allocated last, as its device does.
    pub(in crate::vfio::tests) fn signal_last(&self) {
        let trigger = self.routes().last_trigger.as_ref().map(EventFd::try_clone);
        trigger.unwrap().unwrap().write(1).unwrap();
    }

    /// The messages of the attached vectors.
    pub(in crate::vfio::tests) fn messages(&self) -> Vec<MsiMessage> {
        self.routes().msi.values().copied().flatten().collect()
    }
}

impl MsiRouter for FakeRouter {
    fn allocate(&self) -> io::Result<Box<dyn MsiVector>> {
        let mut routes = self.routes();
        if let Some(left) = &mut routes.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        }
        let gsi = routes.next;
        routes.next += 1;
        routes.msi.insert(gsi, None);
        let trigger = EventFd::new(EFD_NONBLOCK)?;
        routes.last_trigger = Some(trigger.try_clone()?);
        Ok(Box::new(FakeVector {
            gsi,
            trigger,
            routes: Arc::clone(&self.routes),
        }))
    }
}

impl MsiVector for FakeVector {
    fn trigger(&self) -> &EventFd {
        &self.trigger
    }

    fn attach(&self, message: MsiMessage) -> io::Result<()> {
        let mut routes = lock(&self.routes);
        routes.msi.insert(self.gsi, Some(message));
        Ok(())
    }

    fn detach(&self) -> io::Result<()> {
        lock(&self.routes).msi.insert(self.gsi, None);
        Ok(())
    }

    fn pending(&self) -> bool {
        let pending = self.trigger.read().is_ok();
        if pending {
            self.trigger.write(1).unwrap();
        }
        pending
    }
}

impl Drop for FakeVector {
    fn drop(&mut self) {
        lock(&self.routes).msi.remove(&self.gsi);
    }
}

impl IntxRouter for FakeRouter {
    fn attach(&self, gsi: u32, trigger: &EventFd, _: &EventFd) -> io::Result<()> {
        self.routes().intx.insert(gsi, trigger.as_raw_fd());
        Ok(())
    }

    fn detach(&self, gsi: u32, trigger: &EventFd) -> io::Result<()> {
        let removed = self.routes().intx.remove(&gsi);
        assert_eq!(
            removed,
            Some(trigger.as_raw_fd()),
            "detached what is not there"
        );
        Ok(())
    }
}
