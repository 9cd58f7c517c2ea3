//! `--device …,managed=on`: devices that are bound to vfio-pci for one run.

use super::Failure;
use super::bind::{Work, driver_name, host_problems};
use super::unbind::held_open;
use devices::driver::{Binder, Owner};
use devices::host::BindRequest;
use devices::pci::HostSbdf;
use std::time::Duration;

/// How long another ferry may bind and unbind meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const COMMAND: &str = "run with managed=on";

/// Devices that go back to their drivers when this is dropped.
pub(super) struct Managed {
    devices: Vec<HostSbdf>,
    /// Ferry itself, as the records have it.
    owner: Option<Owner>,
}

impl Managed {
    /// Binds those that are not on vfio-pci already: all or none. What a run that was killed has left there becomes this
    /// run's.
    ///
    /// # Errors
    /// Why they can't be bound. Nothing is changed then.
    pub(super) fn bind(devices: &[HostSbdf]) -> Result<Self, Failure> {
        let none = Self {
            devices: Vec::new(),
            owner: None,
        };
        if devices.is_empty() {
            return Ok(none);
        }
        let work = Work::begin(COMMAND, PATIENCE)?;
        let request = BindRequest {
            functions: devices,
            groups: false,
            force: false,
        };
        let owner = Owner::of(&work.root, std::process::id());
        let functions = work.bind(&request, owner)?;
        let binder = work.binder();
        let devices = functions.iter().map(|function| function.sbdf);
        let devices: Vec<_> = devices
            .filter(|sbdf| is_ours(&binder, *sbdf, owner))
            .collect();
        for sbdf in &devices {
            log::info!("{sbdf} is on vfio-pci for this run");
        }
        Ok(Self { devices, owner })
    }
}

/// Whether a function is bound for this process. Meanwhile a guest may have let go of it, and somebody have unbound it or
/// bound it for good.
fn is_ours(binder: &Binder<'_>, sbdf: HostSbdf, owner: Option<Owner>) -> bool {
    let record = binder.records.read(sbdf).ok().flatten();
    owner.is_some() && record.is_some_and(|record| record.owner == owner)
}

impl Drop for Managed {
    /// The last first. What fails is told, and `ferry unbind` can try again.
    fn drop(&mut self) {
        if self.devices.is_empty() {
            return;
        }
        let work = match Work::begin(COMMAND, PATIENCE) {
            Ok(work) => work,
            Err(failure) => {
                failure.report();
                return;
            }
        };
        let binder = work.binder();
        let mut problems = Vec::new();
        for sbdf in self.devices.iter().rev() {
            if !is_ours(&binder, *sbdf, self.owner) {
                log::info!("{sbdf} stays as it is: it is not this run's any more");
                continue;
            }
            let held = work.root.function(*sbdf).ok();
            if let Some(problem) = held.and_then(|function| held_open(&work.root, &function)) {
                problems.push(problem);
                continue;
            }
            match binder.unbind(*sbdf) {
                Ok(driver) => log::info!("{sbdf} is back on {}", driver_name(driver.as_deref())),
                Err(error) => problems.push(error.problem()),
            }
        }
        if !problems.is_empty() {
            host_problems(problems).report();
        }
    }
}
