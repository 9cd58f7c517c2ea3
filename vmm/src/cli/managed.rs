//! `--device …,managed=on`, and `vf=auto`: devices that are bound to vfio-pci for one run.

use super::Failure;
use super::bind::{Work, driver_name, host_problem, host_problems};
use super::device::Requested;
use super::unbind::held_open;
use devices::driver::{Binder, LinkSetting, Owner, free_virtual_function, has_own_address};
use devices::host::{BindRequest, HostError};
use devices::pci::HostSbdf;

const COMMAND: &str = "run with managed=on";

/// A device that is to be bound for one run.
pub(super) struct Loan {
    pub(super) sbdf: HostSbdf,
    /// What is set while it is bound, if it is a virtual function.
    settings: Vec<LinkSetting>,
}

/// What is to be bound for one run.
pub(super) struct Loans {
    pub(super) devices: Vec<Loan>,
    /// Held from the choice of a virtual function on, so that no other run chooses the same.
    work: Option<Work>,
}

impl Loans {
    /// Those of `requested`, where an address of a physical function becomes that of its virtual one that was chosen.
    ///
    /// # Errors
    /// Why there is none to choose.
    pub(super) fn choose(requested: &mut [Requested]) -> Result<Self, Failure> {
        let mut work = None;
        if requested.iter().any(|one| one.virtual_function) {
            let begun = Work::begin("run with vf=auto")?;
            let named = requested.iter().filter(|one| !one.virtual_function);
            let mut chosen: Vec<_> = named.map(|one| one.device.host).collect();
            for one in requested.iter_mut().filter(|one| one.virtual_function) {
                let physical = one.device.host;
                let records = begun.binder().records;
                let free = free_virtual_function(&begun.root, records, physical, &chosen);
                let free = free.map_err(|error| host_problem(error.problem()))?;
                log::info!("{free} is the virtual function of {physical} for this run");
                chosen.push(free);
                one.device.host = free;
            }
            work = Some(begun);
        }
        let managed = requested.iter().filter(|one| one.managed);
        let devices = managed.map(|one| Loan {
            sbdf: one.device.host,
            settings: one.settings.clone(),
        });
        Ok(Self {
            devices: devices.collect(),
            work,
        })
    }

    /// Their addresses.
    pub(super) fn addresses(&self) -> Vec<HostSbdf> {
        self.devices.iter().map(|loan| loan.sbdf).collect()
    }
}

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
    pub(super) fn bind(loans: Loans) -> Result<Self, Failure> {
        let none = Self {
            devices: Vec::new(),
            owner: None,
        };
        let wanted = loans.addresses();
        if wanted.is_empty() {
            return Ok(none);
        }
        let work = match loans.work {
            Some(work) => work,
            None => Work::begin(COMMAND)?,
        };
        let request = BindRequest {
            functions: &wanted,
            groups: false,
            force: false,
        };
        let owner = Owner::of(&work.root, std::process::id());
        let own_addresses: Vec<_> = wanted
            .iter()
            .map(|sbdf| has_own_address(&work.root, *sbdf))
            .collect();
        let functions = work.bind(&request, owner)?;
        let binder = work.binder();
        let devices = functions.iter().map(|function| function.sbdf);
        let devices: Vec<_> = devices
            .filter(|sbdf| is_ours(&binder, *sbdf, owner))
            .collect();
        for sbdf in &devices {
            log::info!("{sbdf} is on vfio-pci for this run");
        }
        let bound = Self { devices, owner };
        for (loan, own_address) in loans.devices.iter().zip(own_addresses) {
            if let Err(error) = binder.set_up(loan.sbdf, &loan.settings, own_address) {
                let failure = host_problem(error.problem());
                // Giving them back takes the lock again.
                drop(work);
                return Err(failure);
            }
        }
        Ok(bound)
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
        let work = match Work::begin(COMMAND) {
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
            let function = match work.root.function(*sbdf) {
                Ok(function) => function,
                // A virtual function went with its physical one's driver.
                Err(HostError::NoSuchFunction { .. }) => {
                    log::info!("{sbdf} is gone");
                    problems.extend(binder.records.remove(*sbdf).err().map(|e| e.problem()));
                    continue;
                }
                Err(error) => {
                    problems.push(error.problem());
                    continue;
                }
            };
            if let Some(problem) = held_open(&work.root, &function) {
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
