//! `--device …,managed=on`, and `vf=auto`: devices that are bound to vfio-pci for one run, from its start on or later.

use super::Failure;
use super::bind::Work;
use super::device::Requested;
use super::unbind;
use devices::driver::{Binder, LinkSetting, Owner, free_virtual_function, has_own_address};
use devices::host::{BindRequest, HostRoot, Problem};
use devices::pci::HostSbdf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm::machine::Custodian;

const COMMAND: &str = "run with managed=on";

/// A device that is to be bound for one run.
pub(super) struct Loan {
    pub(super) sbdf: HostSbdf,
    /// What is set while it is bound, if it is a virtual function.
    settings: Vec<LinkSetting>,
}

impl Loan {
    /// Nothing is set.
    fn plain(sbdf: HostSbdf) -> Self {
        Self {
            sbdf,
            settings: Vec::new(),
        }
    }
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

/// Devices that are bound to vfio-pci for this run. They go back to their drivers one by one, at the latest when this is
/// dropped.
#[derive(Default)]
pub(super) struct Managed {
    devices: Mutex<Devices>,
    /// Whose turn it is to bind or give back. Another ferry is waited for with a deadline, one's own threads without.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Devices {
    /// All that were taken and are not back.
    taken: Vec<HostSbdf>,
    /// Those of them that the guest has let go of.
    due: Vec<HostSbdf>,
}

impl Devices {
    fn forget(&mut self, device: HostSbdf) {
        self.taken.retain(|other| *other != device);
        self.due.retain(|other| *other != device);
    }
}

impl Managed {
    /// Binds those that are not on vfio-pci already: all or none. What a run that was killed has left there becomes this
    /// run's.
    ///
    /// # Errors
    /// Why they can't be bound. Nothing is changed then.
    pub(super) fn bind(loans: Loans) -> Result<Self, Failure> {
        let managed = Self::default();
        if let Some(work) = loans.work.filter(|_| !loans.devices.is_empty()) {
            managed.bind_with(work, &loans.devices)?;
        }
        Ok(managed)
    }

    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Even after an error devices may have been bound: they are listed then.
    fn bind_with(&self, work: Work, loans: &[Loan]) -> Result<(), Failure> {
        let wanted: Vec<_> = loans.iter().map(|loan| loan.sbdf).collect();
        let owner = owner(&work)?;
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
        self.lock().taken.extend(&devices);
        // One that somebody else has is not set up.
        let set_up = loans.iter().zip(own_addresses);
        for (loan, own_address) in set_up.filter(|(loan, _)| devices.contains(&loan.sbdf)) {
            if let Err(error) = binder.set_up(loan.sbdf, &loan.settings, own_address) {
                return Err(Failure::host(error.problem()));
            }
        }
        Ok(())
    }
}

impl Custodian for Managed {
    fn take(&self, devices: &[HostSbdf]) -> Result<(), Vec<Problem>> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let work = Work::begin(COMMAND).map_err(|failure| failure.problems)?;
        let loans: Vec<_> = devices.iter().copied().map(Loan::plain).collect();
        let bound = self.bind_with(work, &loans);
        drop(turn);
        bound.map_err(|failure| {
            let back = devices.iter().rev().map(|device| self.give_back(*device));
            let more = back.filter_map(Result::err).flatten().collect();
            [failure.problems, more].concat()
        })
    }

    fn give_back(&self, device: HostSbdf) -> Result<(), Vec<Problem>> {
        let due = {
            let mut devices = self.lock();
            if devices.taken.contains(&device) && !devices.due.contains(&device) {
                devices.due.push(device);
            }
            devices.due.clone()
        };
        if due.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let work = Work::begin(COMMAND).map_err(|failure| failure.problems)?;
        let mut problems = Vec::new();
        for device in due {
            if is_held_here(&work.root, device) {
                log::info!("{device} stays on vfio-pci until the rest of its IOMMU group has left");
                continue;
            }
            let mut mine = give_back(&work, &[device]);
            if mine.is_empty() {
                self.lock().forget(device);
            } else {
                // Tried again at the end of the run.
                self.lock().due.retain(|other| *other != device);
                problems.append(&mut mine);
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(problems),
        }
    }
}

/// Whether this process has the group of `device` open, for another device in it.
fn is_held_here(root: &HostRoot, device: HostSbdf) -> bool {
    let group = root.function(device).ok().and_then(|found| found.group);
    let holders = group.and_then(|group| root.holders_of_group(group).ok());
    let pid = std::process::id();
    holders.is_some_and(|holders| holders.iter().any(|holder| holder.pid == pid))
}

/// Ferry itself, as the records have it.
fn owner(work: &Work) -> Result<Owner, Failure> {
    let pid = std::process::id();
    Owner::of(&work.root, pid).ok_or_else(|| {
        Failure::host(Problem::new(
            "devices can't be bound for this run",
            format!("/proc/{pid}/stat can't be read, so nobody could tell later whose they are"),
            "see whether procfs is there: findmnt /proc",
        ))
    })
}

/// Gives those back that are this run's; the last first.
fn give_back(work: &Work, devices: &[HostSbdf]) -> Vec<Problem> {
    let owner = match owner(work) {
        Ok(owner) => owner,
        Err(failure) => return failure.problems,
    };
    let binder = work.binder();
    let mut problems = Vec::new();
    for sbdf in devices.iter().rev() {
        if !is_ours(&binder, *sbdf, owner) {
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

/// Whether a function is bound for this process. Meanwhile a guest may have let go of it, and somebody have unbound it or
/// bound it for good.
fn is_ours(binder: &Binder<'_>, sbdf: HostSbdf, owner: Owner) -> bool {
    let record = binder.records.read(sbdf).ok().flatten();
    record.is_some_and(|record| record.owner == Some(owner))
}

impl Drop for Managed {
    fn drop(&mut self) {
        let devices = std::mem::take(&mut *self.lock()).taken;
        if devices.is_empty() {
            return;
        }
        let mut problems = match Work::begin(COMMAND) {
            Ok(work) => give_back(&work, &devices),
            Err(failure) => failure.problems,
        };
        if problems.is_empty() {
            return;
        }
        for problem in &mut problems {
            let remedy = std::mem::take(&mut problem.remedy);
            problem.remedy = format!("{remedy}; then: sudo ferry unbind --stale");
        }
        let addresses: Vec<_> = devices.iter().map(ToString::to_string).collect();
        log::warn!(
            "not all of {} went back to their drivers",
            addresses.join(", ")
        );
        Failure::of_host(problems).report();
    }
}
