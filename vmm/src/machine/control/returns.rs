//! Devices on their way from the guest back to the host. Closing one waits for its reset, the last one for guest RAM to be
//! unpinned, and a driver may take seconds: so each departure has a thread, which the control thread does not wait for.

use super::Control;
use crate::api::{Answer, Refusal, RefusalKind, Reply};
use crate::machine::assigned::Assigned;
use crate::machine::custody::Custodian;
use crate::spec::DeviceSpec;
use crate::stats::Departure;
use devices::host::Problem;
use devices::pci::HostSbdf;
use devices::vfio::VfioPciDevice;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// How long a vCPU's access to a device that is leaving may take.
const LAST_ACCESS: Duration = Duration::from_secs(5);

/// What leaves together.
pub(super) struct Leaving {
    /// Off the guest's bus.
    pub(super) devices: Vec<Assigned>,
    /// Closed already, and to go back to the drivers that they had.
    pub(super) closed: Vec<HostSbdf>,
    pub(super) how: Departure,
    /// Who waits for it, and what for.
    pub(super) replies: Vec<Reply>,
    pub(super) answer: Answer,
}

/// What has left.
struct Returned {
    hosts: Vec<HostSbdf>,
    /// With the number of their errors.
    devices: Vec<(DeviceSpec, u64)>,
    how: Departure,
}

/// All departures.
pub(super) struct Returns {
    returned: EventFd,
    sender: Sender<Returned>,
    results: Receiver<Returned>,
    /// What is on its way.
    hosts: Vec<HostSbdf>,
    threads: Vec<JoinHandle<()>>,
}

impl Returns {
    /// None; `returned` will be readable when one has an end.
    pub(super) fn new(returned: EventFd) -> Self {
        let (sender, results) = mpsc::channel();
        Self {
            returned,
            sender,
            results,
            hosts: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// Becomes readable when a departure has an end.
    pub(super) fn returned(&self) -> &EventFd {
        &self.returned
    }

    /// Whether `host` is still on its way.
    pub(super) fn awaits(&self, host: HostSbdf) -> bool {
        self.hosts.contains(&host)
    }

    /// Waits until all are back.
    pub(super) fn wait(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic of it was printed.
            let _ = thread.join();
        }
    }

    fn begin(&mut self, leaving: Leaving, custodian: Arc<dyn Custodian>) {
        let hosts = leaving.hosts();
        self.hosts.extend(&hosts);
        let end = End {
            returned: Some(Returned {
                hosts,
                devices: leaving.specs(),
                how: leaving.how,
            }),
            sender: self.sender.clone(),
            notified: self.returned.try_clone(),
        };
        let replies = Arc::new(Mutex::new(leaving.replies));
        let told = Arc::clone(&replies);
        let (devices, closed, answer) = (leaving.devices, leaving.closed, leaving.answer.clone());
        let work = move || {
            // Told however this ends.
            let _end = end;
            let problems = give_back(devices, closed, custodian.as_ref());
            send_all(&told, &with(answer, problems));
        };
        let thread = thread::Builder::new().name("give-back".to_owned());
        match thread.spawn(work) {
            Ok(thread) => {
                self.threads.retain(|one| !one.is_finished());
                self.threads.push(thread);
            }
            Err(error) => {
                // What the thread was given is dropped: the devices are closed all the same.
                let problem = Problem::new(
                    "a device is not back on its driver",
                    format!("the thread that binds it can't be made: {error}"),
                    "a managed one goes back when the guest ends",
                );
                log::error!("{problem}");
                send_all(&replies, &with(leaving.answer, vec![problem]));
            }
        }
    }
}

impl Leaving {
    fn hosts(&self) -> Vec<HostSbdf> {
        let open = self.devices.iter().map(|assigned| assigned.spec.host);
        open.chain(self.closed.iter().copied()).collect()
    }

    fn specs(&self) -> Vec<(DeviceSpec, u64)> {
        let devices = self.devices.iter();
        devices
            .map(|assigned| (assigned.spec.clone(), assigned.errors))
            .collect()
    }
}

/// Tells the control thread of the end of a departure when it is dropped.
struct End {
    returned: Option<Returned>,
    sender: Sender<Returned>,
    notified: std::io::Result<EventFd>,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(returned) = self.returned.take() {
            let _ = self.sender.send(returned);
        }
        let notified = self.notified.as_ref().map(|notified| notified.write(1));
        if !matches!(notified, Ok(Ok(()))) {
            log::error!("the control thread can't be told that a device has left");
        }
    }
}

fn give_back(
    devices: Vec<Assigned>,
    closed: Vec<HostSbdf>,
    custodian: &dyn Custodian,
) -> Vec<Problem> {
    let mut hosts = Vec::new();
    // All of them first: those of one group go back together.
    for Assigned { spec, device, .. } in devices {
        close(device, &spec);
        hosts.push(spec.host);
    }
    hosts.extend(closed);
    let back = hosts.iter().map(|host| custodian.give_back(*host));
    let problems: Vec<_> = back.filter_map(Result::err).flatten().collect();
    for problem in &problems {
        log::warn!("{problem}");
    }
    problems
}

/// Closes the device, whereupon the kernel resets it. A vCPU that found it before it left the bus may still be in it.
fn close(mut device: Arc<VfioPciDevice>, spec: &DeviceSpec) {
    let started = Instant::now();
    loop {
        match Arc::try_unwrap(device) {
            Ok(device) => return drop(device),
            Err(shared) if started.elapsed() < LAST_ACCESS => device = shared,
            Err(_) => {
                // The host waits until the access ends, whatever is done here.
                log::error!("{}: still being accessed, closed later", spec.host);
                return;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What clients are told when `problems` came up on the way back.
fn with(answer: Answer, problems: Vec<Problem>) -> Answer {
    if problems.is_empty() {
        return answer;
    }
    let (kind, mut all) = match answer {
        Ok(_) => (RefusalKind::Failed, Vec::new()),
        Err(refusal) => (refusal.kind, refusal.problems),
    };
    all.extend(problems);
    Err(Refusal {
        kind,
        problems: all,
    })
}

fn send_all(replies: &Mutex<Vec<Reply>>, answer: &Answer) {
    let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
    for reply in replies.drain(..) {
        reply.send(answer.clone());
    }
}

impl Control {
    /// Sends devices back to the host.
    pub(super) fn send_back(&mut self, leaving: Leaving) {
        let custodian = Arc::clone(&self.custodian);
        self.returns.begin(leaving, custodian);
    }

    /// Takes note of what is back.
    pub(super) fn note_returned(&mut self) {
        let _ = self.returns.returned.read();
        while let Ok(returned) = self.returns.results.try_recv() {
            for host in &returned.hosts {
                let mut hosts = self.returns.hosts.iter();
                if let Some(at) = hosts.position(|other| other == host) {
                    self.returns.hosts.remove(at);
                }
            }
            for (spec, errors) in &returned.devices {
                self.tell_removed(spec, *errors, returned.how);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Done;

    #[test]
    fn what_came_up_on_the_way_back_is_added_to_what_was_told_anyway() {
        let problem = |what: &str| Problem::new(what, "why", "fix");
        assert_eq!(with(Ok(Done::Silently), Vec::new()), Ok(Done::Silently));
        let refused = with(Ok(Done::Silently), vec![problem("a")]).unwrap_err();
        assert_eq!(refused, Refusal::new(RefusalKind::Failed, problem("a")));
        let conflict = Refusal::new(RefusalKind::Conflict, problem("a"));
        let refused = with(Err(conflict), vec![problem("b")]).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Conflict);
        assert_eq!(refused.problems, [problem("a"), problem("b")]);
    }
}
