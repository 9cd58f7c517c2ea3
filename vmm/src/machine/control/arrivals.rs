//! Devices that clients of the API give to the running guest, one call after another.

use super::Control;
use super::returns::Leaving;
use super::triggers::Triggers;
use crate::api::{AddedDevice, Answer, Done, NewDevice, Refusal, RefusalKind, Reply};
use crate::events::Origin;
use crate::machine::arrival::{Arrival, Prepared, refusal};
use crate::machine::{MachineError, process};
use crate::spec::{DeviceSpec, PlacementError, Present, place_beside};
use crate::stats::Departure;
use devices::host::Problem;
use event_manager::EventOps;
use std::collections::VecDeque;
use vmm_sys_util::eventfd::EventFd;

/// Clients whose devices may wait for others'.
const WAITING: usize = 8;

/// Devices that are to come, and what their client waits for.
struct Wanted {
    devices: Vec<NewDevice>,
    /// Whether the answer is a list.
    list: bool,
    reply: Reply,
}

/// Devices that are being opened.
struct Coming {
    arrival: Arrival,
    list: bool,
    reply: Reply,
}

/// All of them.
pub(super) struct Arrivals {
    arrived: EventFd,
    coming: Option<Coming>,
    waiting: VecDeque<Wanted>,
}

impl Arrivals {
    /// None; `arrived` will be readable when a device is open.
    pub(super) fn new(arrived: EventFd) -> Self {
        Self {
            arrived,
            coming: None,
            waiting: VecDeque::new(),
        }
    }

    /// Becomes readable when devices are open, or can't be opened.
    pub(super) fn arrived(&self) -> &EventFd {
        &self.arrived
    }

    /// What is being opened, and the bytes of guest RAM that were faulted in for it.
    pub(super) fn coming(&self) -> (&[DeviceSpec], u64) {
        let coming = self.coming.as_ref();
        coming.map_or((&[], 0), |coming| {
            (&coming.arrival.specs, coming.arrival.populated())
        })
    }

    /// Queues them. Those whose clients went away meanwhile are nobody's wish any longer, and hold the contents of their ROM files
    /// no longer.
    fn queue(&mut self, wanted: Wanted) {
        self.waiting.retain(|one| !one.reply.abandoned());
        if self.waiting.len() < WAITING {
            return self.waiting.push_back(wanted);
        }
        wanted.reply.send(Err(busy()));
    }

    /// Lets go of all that has not arrived. Waits for the thread that opens a device.
    pub(super) fn give_up(&mut self) {
        self.waiting.clear();
        self.coming = None;
    }
}

impl Control {
    /// Has `devices` opened when those that were asked for earlier have come.
    pub(super) fn add_devices(&mut self, devices: Vec<NewDevice>, list: bool, reply: Reply) {
        self.arrivals.queue(Wanted {
            devices,
            list,
            reply,
        });
        self.begin_arrival();
    }

    /// Goes on with those that wait, if it is their turn.
    pub(super) fn begin_arrival(&mut self) {
        while self.arrivals.coming.is_none() {
            let Some(wanted) = self.arrivals.waiting.pop_front() else {
                return;
            };
            if wanted.reply.abandoned() {
                continue;
            }
            let mut hosts = wanted.devices.iter().map(|new| new.device.host);
            if hosts.any(|host| self.returns.awaits(host)) {
                // It has left, and is not back yet.
                return self.arrivals.waiting.push_front(wanted);
            }
            match self.open(&wanted.devices) {
                Ok(arrival) => {
                    self.arrivals.coming = Some(Coming {
                        arrival,
                        list: wanted.list,
                        reply: wanted.reply,
                    });
                }
                Err(refusal) => wanted.reply.send(Err(refusal)),
            }
        }
    }

    fn open(&self, devices: &[NewDevice]) -> Result<Arrival, Refusal> {
        let assigned = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let there: Vec<DeviceSpec> = assigned.map(|assigned| assigned.spec.clone()).collect();
        let present = Present {
            devices: &there,
            lost: self.departures.lost(),
        };
        let requests: Vec<_> = devices.iter().map(|new| new.device.clone()).collect();
        let specs = place_beside(&present, &requests).map_err(|error| misplaced(&error))?;
        let managed = devices.iter().filter(|new| new.managed);
        let managed = managed.map(|new| new.device.host).collect();
        for spec in &specs {
            log::info!("{} is to join the guest at {}", spec.host, spec.guest);
        }
        let preparer = self.machine.preparer(specs, managed, &self.custodian);
        let arrived = self.arrivals.arrived.try_clone();
        let arrived = arrived.map_err(|error| refusal(&process("eventfd")(error)))?;
        Arrival::start(preparer, arrived).map_err(|error| refusal(&error))
    }

    /// The guest gets what is open.
    pub(super) fn arrived(&mut self, ops: &mut EventOps<'_>) {
        let _ = self.arrivals.arrived.read();
        let Some(coming) = self.arrivals.coming.take() else {
            return;
        };
        let result = coming.arrival.result();
        let opened = result.is_ok();
        let answer = result.and_then(|prepared| self.admit(&coming, prepared, ops));
        match answer {
            // They are closed again.
            Err(refusal) if opened => self.send_back(Leaving {
                devices: Vec::new(),
                closed: coming.arrival.managed.clone(),
                how: Departure::Taken,
                replies: vec![coming.reply],
                answer: Err(refusal),
            }),
            answer => coming.reply.send(answer),
        }
        self.begin_arrival();
    }

    fn admit(&mut self, coming: &Coming, prepared: Prepared, ops: &mut EventOps<'_>) -> Answer {
        let specs = &coming.arrival.specs;
        let triggers = self.join(specs, prepared);
        let triggers = triggers.map_err(|error| refusal(&error))?;
        self.triggers.join(triggers, ops);
        for spec in specs {
            log::info!("{} is in the guest at {}", spec.host, spec.guest);
            self.tell_added(spec, Origin::Api);
        }
        let mut added = specs.iter().map(AddedDevice::of);
        Ok(match (coming.list, added.next()) {
            (false, Some(only)) => Done::with(&only),
            (_, first) => Done::with(&first.into_iter().chain(added).collect::<Vec<_>>()),
        })
    }

    fn join(&mut self, specs: &[DeviceSpec], prepared: Prepared) -> Result<Triggers, MachineError> {
        let devices = self.machine.realise(specs, prepared)?;
        let triggers = Triggers::of(&devices)?;
        self.machine.insert(devices)?;
        Ok(triggers)
    }
}

fn busy() -> Refusal {
    let problem = Problem::new(
        "the device is not added",
        format!("the devices of {WAITING} clients are waiting to be added already"),
        "try again when they have been",
    );
    Refusal::new(RefusalKind::Busy, problem)
}

fn misplaced(error: &PlacementError) -> Refusal {
    let kind = match error {
        PlacementError::HostBridgeSlot(_) | PlacementError::NoFunctionZero { .. } => {
            RefusalKind::Invalid
        }
        _ => RefusalKind::Conflict,
    };
    Refusal::new(kind, error.problem())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> (Wanted, impl FnOnce() -> Option<Answer>) {
        let (reply, answers, client) = Reply::new();
        let wanted = Wanted {
            devices: Vec::new(),
            list: false,
            reply,
        };
        // Whoever has this waits.
        let answer = move || {
            drop(client);
            answers.try_recv().ok()
        };
        (wanted, answer)
    }

    #[test]
    fn clients_that_come_and_go_leave_nothing_behind_and_too_many_are_told_so() {
        let mut arrivals = Arrivals::new(EventFd::new(0).unwrap());
        for _ in 0..100 {
            let (one, client) = wanted();
            arrivals.queue(one);
            drop(client);
        }
        assert!(arrivals.waiting.len() <= 1);
        let mut clients = Vec::new();
        for _ in 0..=WAITING {
            let (one, client) = wanted();
            arrivals.queue(one);
            clients.push(client);
        }
        assert_eq!(arrivals.waiting.len(), WAITING);
        let answers = clients.into_iter().map(|client| client());
        let answers: Vec<_> = answers.collect();
        let (last, others) = answers.split_last().unwrap();
        assert!(others.iter().all(Option::is_none));
        let Some(Err(refusal)) = last else {
            panic!("{last:?}");
        };
        assert_eq!(refusal.status(), 429);
    }
}
