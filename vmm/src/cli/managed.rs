//! `--device …,managed=on`: devices that are bound to vfio-pci for one run.

use super::bind::{Work, host_problem, load_vfio_pci};
use super::{Exit, Failure};
use devices::driver::Owner;
use devices::host::{BindRefusal, BindRequest, bindable};
use devices::pci::HostSbdf;
use std::time::Duration;

/// How long another ferry may bind and unbind meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// Devices that go back to their drivers when this is dropped.
pub(super) struct Managed(Vec<HostSbdf>);

impl Managed {
    /// Binds those that are not on vfio-pci already: all or none.
    ///
    /// # Errors
    /// Why they can't be bound. Nothing is changed then.
    pub(super) fn bind(devices: &[HostSbdf]) -> Result<Self, Failure> {
        if devices.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let work = Work::begin("run with managed=on", PATIENCE)?;
        let request = BindRequest {
            functions: devices,
            groups: false,
            force: false,
        };
        let mut functions = bindable(&work.root, &request).map_err(|refusals| Failure {
            exit: Exit::HostSetUp,
            problems: refusals.iter().map(BindRefusal::problem).collect(),
        })?;
        functions.retain(|function| !function.on_vfio());
        if functions.is_empty() {
            return Ok(Self(Vec::new()));
        }
        load_vfio_pci(&work.root).map_err(host_problem)?;
        let owner = Owner::of(&work.root, std::process::id());
        work.binder()
            .bind(&functions, owner)
            .map_err(|failure| Failure {
                exit: Exit::HostSetUp,
                problems: failure.problems(),
            })?;
        for function in &functions {
            log::info!("{function} is on vfio-pci for this run");
        }
        Ok(Self(
            functions.iter().map(|function| function.sbdf).collect(),
        ))
    }
}

impl Drop for Managed {
    /// The last first. What fails is told, and `ferry unbind` can try again.
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let work = match Work::begin("run with managed=on", PATIENCE) {
            Ok(work) => work,
            Err(failure) => {
                failure.report();
                return;
            }
        };
        for sbdf in self.0.iter().rev() {
            match work.binder().unbind(*sbdf) {
                Ok(driver) => log::info!(
                    "{sbdf} is back on {}",
                    driver.as_deref().unwrap_or("no driver")
                ),
                Err(error) => eprintln!("ferry: {}", error.problem()),
            }
        }
    }
}
