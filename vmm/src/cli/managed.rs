//! `--device …,managed=on`, and `vf=auto`: devices that are bound to vfio-pci for one run.

use super::Failure;
use super::bind::Work;
use super::device::Requested;
use super::unbind;
use devices::driver::{Binder, LinkSetting, Owner, free_virtual_function, has_own_address};
use devices::host::{BindRequest, Problem};
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
                let free = free.map_err(|error| Failure::host(error.problem()))?;
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

    /// Waits until no other ferry binds or unbinds. Nothing is changed yet.
    ///
    /// # Errors
    /// When one does for too long, or this is not root.
    pub(super) fn take_turn(&mut self) -> Result<(), Failure> {
        if self.work.is_none() {
            self.work = Some(Work::begin(COMMAND)?);
        }
        Ok(())
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
    owner: Owner,
}

impl Managed {
    /// Binds those that are not on vfio-pci already: all or none. What a run that was killed has left there becomes this
    /// run's. None if there is nothing to be bound.
    ///
    /// # Errors
    /// Why they can't be bound. Nothing is changed then.
    pub(super) fn bind(loans: Loans) -> Result<Option<Self>, Failure> {
        let wanted = loans.addresses();
        let Some(work) = loans.work.filter(|_| !wanted.is_empty()) else {
            return Ok(None);
        };
        let pid = std::process::id();
        let owner = Owner::of(&work.root, pid).ok_or_else(|| {
            Failure::host(Problem::new(
                "devices can't be bound for this run",
                format!(
                    "/proc/{pid}/stat can't be read, so nobody could tell later whose they are"
                ),
                "see whether procfs is there: findmnt /proc",
            ))
        })?;
        let request = BindRequest {
            functions: &wanted,
            groups: false,
            force: false,
        };
        let own_addresses: Vec<_> = wanted
            .iter()
            .map(|sbdf| has_own_address(&work.root, *sbdf))
            .collect();
        let functions = work.bind(&request, Some(owner))?;
        let binder = work.binder();
        let devices = functions.iter().map(|function| function.sbdf);
        let devices: Vec<_> = devices
            .filter(|sbdf| is_ours(&binder, *sbdf, owner))
            .collect();
        for sbdf in &devices {
            log::info!("{sbdf} is on vfio-pci for this run");
        }
        let bound = Self { devices, owner };
        let loans = loans.devices.iter().zip(own_addresses);
        // One that somebody else has is not set up.
        for (loan, own_address) in loans.filter(|(loan, _)| bound.devices.contains(&loan.sbdf)) {
            if let Err(error) = binder.set_up(loan.sbdf, &loan.settings, own_address) {
                let failure = Failure::host(error.problem());
                // Giving them back takes the lock again.
                drop(work);
                return Err(failure);
            }
        }
        Ok(Some(bound))
    }

    /// The last first.
    fn give_back(&self) -> Vec<Problem> {
        let work = match Work::begin(COMMAND) {
            Ok(work) => work,
            Err(failure) => return failure.problems,
        };
        let binder = work.binder();
        let mut problems = Vec::new();
        for sbdf in self.devices.iter().rev() {
            if !is_ours(&binder, *sbdf, self.owner) {
                log::info!("{sbdf} stays as it is: it is not this run's any more");
                continue;
            }
            let given_back = unbind::idle(&binder, *sbdf).and_then(|function| {
                let to = function.map(|function| unbind::give_back(&binder, &function));
                to.transpose()
            });
            match given_back {
                Ok(Some(to)) => log::info!("{sbdf} is back on {to}"),
                Ok(None) => log::info!("{sbdf} is gone"),
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }
}

/// Whether a function is bound for this process. Meanwhile a guest may have let go of it, and somebody have unbound it or
/// bound it for good.
fn is_ours(binder: &Binder<'_>, sbdf: HostSbdf, owner: Owner) -> bool {
    let record = binder.records.read(sbdf).ok().flatten();
    record.is_some_and(|record| record.owner == Some(owner))
}

impl Drop for Managed {
    fn drop(&mut self) {
        let mut problems = self.give_back();
        if problems.is_empty() {
            return;
        }
        for problem in &mut problems {
            let remedy = std::mem::take(&mut problem.remedy);
            problem.remedy = format!("{remedy}; then: sudo ferry unbind --stale");
        }
        let addresses: Vec<_> = self.devices.iter().map(ToString::to_string).collect();
        log::warn!(
            "not all of {} went back to their drivers",
            addresses.join(", ")
        );
        Failure::of_host(problems).report();
    }
}
