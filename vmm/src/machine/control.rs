//! The control thread: waits for what ends, resets or interrupts a guest, and for the user.

mod arrivals;
mod commands;
mod crash;
mod departures;
mod returns;
mod source;
mod termination;
mod told;
mod triggers;

use self::arrivals::Arrivals;
use self::departures::Departures;
use self::returns::Returns;
use self::source::Source;
use self::termination::Termination;
use self::triggers::Triggers;
use super::builder::{Machine, chain};
use super::console::ConsoleInput;
use super::custody::Custodian;
use super::mailbox::StopCause;
use super::pause::Paused;
use super::removal::{ErrorResponse, respond};
use super::signals::{Caught, RunSignals};
use super::vcpu_loop::VcpuThread;
use super::{MachineError, Outcome, platform, process, report};
use crate::api::Server;
use crate::events::{EventMonitor, RebootReason};
use crate::spec::DeviceSpec;
use crate::stats::Departure;
use devices::machine::MachineEvent;
use devices::pci::GuestBdf;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::timerfd::TimerFd;

/// Who has to do with a machine from outside.
pub struct Surroundings {
    /// Where clients ask for something.
    pub api: Option<Arc<Server>>,
    /// Where it is told what happens, but for the end.
    pub events: EventMonitor,
    /// Who has devices between their drivers and the guest.
    pub custodian: Arc<dyn Custodian>,
}

/// Runs the guest until it ends, or one of `signals` stops it: a signal that came before this, too.
///
/// # Errors
/// [`MachineError`] when the host can't start the machine.
pub fn run(
    machine: Machine,
    signals: RunSignals,
    surroundings: Surroundings,
) -> Result<Outcome, MachineError> {
    let mut manager = EventManager::new()
        .map_err(|error| process("epoll")(io::Error::other(error.to_string())))?;
    let id = manager.add_subscriber(Control::new(machine, signals, surroundings)?);
    let mut failed = None;
    while failed.is_none() {
        failed = manager.run().err();
        let ended = manager
            .subscriber_mut(id)
            .is_ok_and(|control| control.ended.is_some());
        if ended {
            break;
        }
    }
    // Its descriptors are still registered: first out of epoll, then closed.
    let mut control = manager
        .remove_subscriber(id)
        .map_err(|error| process("epoll")(io::Error::other(error.to_string())))?;
    // The guest has run: whatever the host did to it is an outcome by now.
    let outcome = control.ended.take().unwrap_or_else(|| {
        let why = failed.map_or_else(String::new, |error| error.to_string());
        control.stop_vcpus();
        Outcome::HostFailed(format!("waiting for events: {why}"))
    });
    control.finish();
    Ok(outcome)
}

struct Control {
    machine: Machine,
    threads: Vec<VcpuThread>,
    input: Option<ConsoleInput>,
    stop_signal: Caught,
    terminate_signal: Caught,
    stats_signal: Caught,
    triggers: Triggers,
    custodian: Arc<dyn Custodian>,
    arrivals: Arrivals,
    departures: Departures,
    returns: Returns,
    /// Runs until the next deadline of `departures` and `termination`.
    timer: TimerFd,
    api: Option<Arc<Server>>,
    events: EventMonitor,
    /// Since when no vCPU runs, if that is what the user wants.
    paused: Option<Option<Paused>>,
    termination: Option<Termination>,
    ended: Option<Outcome>,
}

impl Control {
    fn new(
        mut machine: Machine,
        signals: RunSignals,
        surroundings: Surroundings,
    ) -> Result<Self, MachineError> {
        let Surroundings {
            api,
            events,
            custodian,
        } = surroundings;
        let assigned = machine.assigned.as_ref();
        let triggers = Triggers::of(assigned.map_or(&[], |all| &all.devices))?;
        let arrivals = Arrivals::new(platform::eventfd()?);
        let timer =
            TimerFd::new().map_err(|error| process("timerfd_create")(io::Error::from(error)))?;
        let input = ConsoleInput::new(&machine)?;
        let threads = machine.start()?;
        Ok(Self {
            machine,
            threads,
            input,
            stop_signal: signals.stop,
            terminate_signal: signals.terminate,
            stats_signal: signals.stats,
            triggers,
            custodian,
            arrivals,
            departures: Departures::default(),
            returns: Returns::new(platform::eventfd()?),
            timer,
            api,
            events,
            paused: None,
            termination: None,
            ended: None,
        })
    }

    /// Takes every vCPU out of the guest, if it is not out. `false` when a vCPU thread panicked.
    fn stop_vcpus(&mut self) -> bool {
        self.machine.context.mailbox.hold();
        self.machine.pci.dma().hold();
        for thread in &self.threads {
            thread.kick();
        }
        let joined: Vec<_> = self.threads.drain(..).map(VcpuThread::join).collect();
        let all = joined.iter().all(Option::is_some);
        self.machine.vcpus.extend(joined.into_iter().flatten());
        self.hear_notices();
        all
    }

    fn stopped(&mut self, cause: StopCause, ops: &mut EventOps<'_>) {
        if !self.stop_vcpus() {
            let failed = Outcome::HostFailed("a vCPU thread panicked".to_owned());
            self.ended = Some(failed);
            return;
        }
        let no_reboot = self.machine.spec.no_reboot;
        let outcome = match cause {
            StopCause::Device(MachineEvent::PowerOff) => Outcome::PoweredOff,
            StopCause::Device(MachineEvent::Panicked) => match self.panicked() {
                Some(outcome) => outcome,
                None => return self.boot_again(RebootReason::Panic, ops),
            },
            StopCause::Device(MachineEvent::DebugExit { value }) => Outcome::GuestStatus(value),
            StopCause::Device(MachineEvent::Reset(_)) if no_reboot => Outcome::Reset,
            StopCause::TripleFault { vcpu } if no_reboot => {
                Outcome::Crashed(format!("triple fault on vCPU {vcpu}"))
            }
            StopCause::Device(MachineEvent::Reset(source)) => {
                return self.boot_again(source.into(), ops);
            }
            StopCause::TripleFault { vcpu } => {
                // Some kernels reboot this way on purpose; mostly it is a crash that nothing else tells of.
                log::warn!("triple fault on vCPU {vcpu}");
                return self.boot_again(RebootReason::TripleFault, ops);
            }
            StopCause::Crash { vcpu, detail } => Outcome::Crashed(format!("vCPU {vcpu}: {detail}")),
            StopCause::Host { vcpu, detail } => {
                Outcome::HostFailed(format!("vCPU {vcpu}: {detail}"))
            }
            StopCause::Memory(problem) => Outcome::MemoryFailed(problem),
            StopCause::Stopped => Outcome::Stopped,
        };
        self.ended = Some(outcome);
    }

    fn boot_again(&mut self, why: RebootReason, ops: &mut EventOps<'_>) {
        log::info!("booting the guest again: {why}");
        self.tell_reboot(why);
        if self.paused.take().is_some() {
            self.machine.start_devices();
        }
        self.leave_at_reboot(ops);
        let started = self.machine.reset().and_then(|()| self.machine.start());
        match started {
            Ok(threads) => self.threads = threads,
            Err(error) => {
                let detail = format!("it can't be booted again: {}", chain(&error));
                self.ended = Some(Outcome::HostFailed(detail));
            }
        }
    }

    /// What is known of the device at `guest`, unless it has left.
    fn spec(&self, guest: GuestBdf) -> Option<DeviceSpec> {
        let mut devices = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let found = devices.find(|assigned| assigned.spec.guest == guest)?;
        Some(found.spec.clone())
    }

    fn device_failed(&mut self, guest: GuestBdf, ops: &mut EventOps<'_>) {
        self.triggers.take_error(guest);
        let Some(spec) = self.spec(guest) else { return };
        let mut devices = self
            .machine
            .assigned
            .iter_mut()
            .flat_map(|all| &mut all.devices);
        if let Some(assigned) = devices.find(|assigned| assigned.spec.guest == guest) {
            assigned.errors += 1;
            let errors = assigned.errors;
            self.tell_error(&spec, errors);
        }
        match respond(&spec) {
            ErrorResponse::Stop(problem) => {
                self.stop_vcpus();
                self.ended = Some(Outcome::DeviceFailed(problem));
            }
            ErrorResponse::TakeAway => {
                log::warn!("{} reported an uncorrectable error", spec.host);
                self.take_away(guest.device(), Departure::Taken, ops);
            }
            ErrorResponse::GoOn => {
                log::warn!("{} reported an uncorrectable error", spec.host);
            }
        }
    }

    fn set_timer(&mut self) {
        let now = Instant::now();
        let termination = self.termination.map(|termination| termination.next(now));
        let next = self
            .departures
            .next(now)
            .into_iter()
            .chain(termination)
            .min();
        let set = match next {
            // Zero would stop it.
            Some(left) => self.timer.reset(left.max(Duration::from_millis(1)), None),
            None => self.timer.clear(),
        };
        if let Err(error) = set {
            log::error!("the timer for what is to end can't be set: {error}");
        }
    }

    fn overdue(&mut self, ops: &mut EventOps<'_>) {
        // The timer is not read: another event of the same batch may have set it anew, and the read would block. Setting it
        // takes its expiry back.
        // What the guest has ejected by now it did in time.
        self.take_ejected(ops);
        self.end_patience(ops);
        self.end_termination(ops);
        self.set_timer();
    }

    fn write_stats(&self) {
        if let Err(error) = report::write(&self.machine) {
            log::error!("--stats: {error}");
        }
    }

    /// The end, in the order of ARCHITECTURE.md, "Teardown".
    fn finish(mut self) {
        self.arrivals.give_up();
        self.returns.wait();
        self.note_returned();
        self.write_stats();
        // A guest that never got its input leaves nothing behind; the terminal is put back here.
        self.input = None;
        if let Some(console) = &self.machine.console {
            console.serial.flush();
        }
        self.machine.shut_down();
    }

    fn handle(&mut self, source: Source, ops: &mut EventOps<'_>, event: Events) {
        match source {
            Source::Mailbox => {
                self.hear_notices();
                if let Some(cause) = self.machine.context.mailbox.take() {
                    self.stopped(cause, ops);
                }
            }
            Source::Input => self.read_input(ops, event),
            Source::Drained => {
                if let (Some(input), Some(console)) = (&mut self.input, &self.machine.console) {
                    let _ = console.drained.read();
                    input.feed(&console.serial);
                }
            }
            Source::StopSignal => {
                self.stop_signal.take();
                self.stopped(StopCause::Stopped, ops);
            }
            Source::TerminateSignal => {
                let count = self.terminate_signal.take();
                self.terminate(count, ops);
            }
            Source::StatsSignal => {
                self.stats_signal.take();
                self.write_stats();
            }
            Source::Ejected => self.take_ejected(ops),
            Source::Overdue => self.overdue(ops),
            Source::Arrived => self.arrived(ops),
            Source::Returned => {
                self.note_returned();
                self.begin_arrival();
            }
            Source::Api => self.serve_api(ops),
            Source::EventReader => self.events.go_on(),
            Source::DeviceError(guest) => self.device_failed(guest, ops),
            Source::DeviceRequest(guest) => self.device_wanted(guest, ops),
        }
    }

    fn read_input(&mut self, ops: &mut EventOps<'_>, event: Events) {
        let (Some(input), Some(console)) = (&mut self.input, &self.machine.console) else {
            return;
        };
        match input.read(&console.serial) {
            Ok(Some(())) => {}
            Ok(None) => self.stopped(StopCause::Stopped, ops),
            Err(error) => {
                // The end of input is no end of the guest.
                log::debug!("no more console input: {error}");
                if let Err(error) = ops.remove(event) {
                    log::warn!("standard input stays in epoll: {error}");
                }
            }
        }
    }
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.tell_start();
        let mailbox = &self.machine.context.mailbox;
        let mut sources = vec![
            (mailbox.notified().as_raw_fd(), Source::Mailbox),
            (self.stop_signal.as_raw_fd(), Source::StopSignal),
            (self.terminate_signal.as_raw_fd(), Source::TerminateSignal),
            (self.stats_signal.as_raw_fd(), Source::StatsSignal),
            (self.machine.hotplug.notified().as_raw_fd(), Source::Ejected),
            (self.timer.as_raw_fd(), Source::Overdue),
            (self.arrivals.arrived().as_raw_fd(), Source::Arrived),
            (self.returns.returned().as_raw_fd(), Source::Returned),
        ];
        if let (Some(_), Some(console)) = (&self.input, &self.machine.console) {
            sources.push((rustix::stdio::stdin().as_raw_fd(), Source::Input));
            sources.push((console.drained.as_raw_fd(), Source::Drained));
        }
        if let Some(api) = &self.api {
            sources.push((api.notified().as_raw_fd(), Source::Api));
        }
        let reader = self.events.descriptor();
        sources.extend(reader.map(|fd| (fd, Source::EventReader)));
        self.triggers.listen(ops);
        for (fd, source) in sources {
            let events = Events::with_data_raw(fd, source.tag(), source.wakes_at());
            match ops.add(events) {
                // A regular file as standard input can't be (EPERM).
                Err(error) if source == Source::Input => log::debug!("no console input: {error}"),
                // Nor one that events are written to.
                Err(error) if source == Source::EventReader => log::debug!("events: {error}"),
                Err(error) => log::error!("{source:?} can't be waited for: {error}"),
                Ok(()) => {}
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if self.ended.is_some() {
            return;
        }
        if let Some(source) = Source::of(events.data()) {
            self.handle(source, ops, events);
        }
    }
}
