//! The control thread: waits for what ends, resets or interrupts a guest, and for the user.

use super::builder::{Machine, chain};
use super::console::ConsoleInput;
use super::mailbox::StopCause;
use super::vcpu_loop::VcpuThread;
use super::{MachineError, Outcome, platform, process, report};
use crate::kvm::Vcpu;
use devices::machine::MachineEvent;
use devices::pci::HostSbdf;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// What an event is about; the tag given to epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Mailbox,
    Input,
    Drained,
    StopSignal,
    StatsSignal,
    /// A device's error interrupt; its place among the assigned devices.
    DeviceError(u32),
    /// The host wants a device back.
    DeviceRequest(u32),
}

/// Tags from here on are devices', two each.
const FIRST_DEVICE_TAG: u32 = 16;

impl Source {
    fn tag(self) -> u32 {
        match self {
            Self::Mailbox => 0,
            Self::Input => 1,
            Self::Drained => 2,
            Self::StopSignal => 3,
            Self::StatsSignal => 4,
            Self::DeviceError(index) => FIRST_DEVICE_TAG + 2 * index,
            Self::DeviceRequest(index) => FIRST_DEVICE_TAG + 2 * index + 1,
        }
    }

    fn of(tag: u32) -> Option<Self> {
        let fixed = [
            Self::Mailbox,
            Self::Input,
            Self::Drained,
            Self::StopSignal,
            Self::StatsSignal,
        ];
        match tag.checked_sub(FIRST_DEVICE_TAG) {
            None => fixed.into_iter().find(|source| source.tag() == tag),
            Some(tag) if tag.is_multiple_of(2) => Some(Self::DeviceError(tag / 2)),
            Some(tag) => Some(Self::DeviceRequest(tag / 2)),
        }
    }
}

/// Runs the guest until it ends.
///
/// # Errors
/// [`MachineError`] when the host can't start the machine.
pub fn run(machine: Machine) -> Result<Outcome, MachineError> {
    let mut manager = EventManager::new()
        .map_err(|error| process("epoll")(io::Error::other(error.to_string())))?;
    let id = manager.add_subscriber(Control::new(machine)?);
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
    stop_signal: UnixStream,
    stats_signal: UnixStream,
    /// Error and request triggers, in the devices' order.
    triggers: Vec<(EventFd, EventFd)>,
    ended: Option<Outcome>,
}

impl Control {
    fn new(mut machine: Machine) -> Result<Self, MachineError> {
        let stop_signal = signal_pipe(&[SIGTERM, SIGINT, SIGHUP])?;
        let stats_signal = signal_pipe(&[SIGUSR1])?;
        let triggers = device_triggers(&machine)?;
        let input = ConsoleInput::new(&machine)?;
        let threads = machine.start()?;
        Ok(Self {
            machine,
            threads,
            input,
            stop_signal,
            stats_signal,
            triggers,
            ended: None,
        })
    }

    /// Takes every vCPU out of the guest. `None` when a vCPU thread panicked.
    fn stop_vcpus(&mut self) -> Option<Vec<Vcpu>> {
        self.machine.context.mailbox.hold();
        self.machine.pci.dma().hold();
        for thread in &self.threads {
            thread.kick();
        }
        let joined: Vec<_> = self.threads.drain(..).map(VcpuThread::join).collect();
        joined.into_iter().collect()
    }

    fn stopped(&mut self, cause: StopCause) {
        let Some(vcpus) = self.stop_vcpus() else {
            let failed = Outcome::HostFailed("a vCPU thread panicked".to_owned());
            self.ended = Some(failed);
            return;
        };
        self.machine.vcpus = vcpus;
        let no_reboot = self.machine.spec.no_reboot;
        let outcome = match cause {
            StopCause::Device(MachineEvent::PowerOff) => Outcome::PoweredOff,
            StopCause::Device(MachineEvent::DebugExit { value }) => Outcome::GuestStatus(value),
            StopCause::Device(MachineEvent::Reset(_)) if no_reboot => Outcome::Reset,
            StopCause::TripleFault { vcpu } if no_reboot => {
                Outcome::Crashed(format!("triple fault on vCPU {vcpu}"))
            }
            StopCause::Device(MachineEvent::Reset(source)) => {
                return self.boot_again(&format!("reset through {source:?}"));
            }
            StopCause::TripleFault { vcpu } => {
                // Some kernels reboot this way on purpose; mostly it is a crash that nothing else tells of.
                log::warn!("triple fault on vCPU {vcpu}");
                return self.boot_again("triple fault");
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

    fn boot_again(&mut self, why: &str) {
        log::info!("booting the guest again: {why}");
        let started = self.machine.reset().and_then(|()| self.machine.start());
        match started {
            Ok(threads) => self.threads = threads,
            Err(error) => {
                let detail = format!("it can't be booted again: {}", chain(&error));
                self.ended = Some(Outcome::HostFailed(detail));
            }
        }
    }

    fn device_lost(&mut self, index: u32, what: &str) {
        let host: Option<HostSbdf> = usize::try_from(index)
            .ok()
            .and_then(|index| self.machine.assigned.as_ref()?.devices.get(index))
            .map(|assigned| assigned.spec.host);
        let name = host.map_or_else(String::new, |host| host.to_string());
        if let Some(vcpus) = self.stop_vcpus() {
            self.machine.vcpus = vcpus;
        }
        self.ended = Some(Outcome::HostFailed(format!("{name} {what}")));
    }

    fn write_stats(&self) {
        if let Err(error) = report::write(&self.machine) {
            log::error!("--stats: {error}");
        }
    }

    /// The end, in the order of ARCHITECTURE.md, "Teardown".
    fn finish(mut self) {
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
                if let Some(cause) = self.machine.context.mailbox.take() {
                    self.stopped(cause);
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
                drain(&mut self.stop_signal);
                self.stopped(StopCause::Stopped);
            }
            Source::StatsSignal => {
                drain(&mut self.stats_signal);
                self.write_stats();
            }
            Source::DeviceError(index) => {
                self.device_lost(index, "reported an uncorrectable error");
            }
            Source::DeviceRequest(index) => self.device_lost(index, "is wanted back by the host"),
        }
    }

    fn read_input(&mut self, ops: &mut EventOps<'_>, event: Events) {
        let (Some(input), Some(console)) = (&mut self.input, &self.machine.console) else {
            return;
        };
        match input.read(&console.serial) {
            Ok(Some(())) => {}
            Ok(None) => self.stopped(StopCause::Stopped),
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
        let mailbox = &self.machine.context.mailbox;
        let mut sources = vec![
            (mailbox.notified().as_raw_fd(), Source::Mailbox),
            (self.stop_signal.as_raw_fd(), Source::StopSignal),
            (self.stats_signal.as_raw_fd(), Source::StatsSignal),
        ];
        if let (Some(_), Some(console)) = (&self.input, &self.machine.console) {
            sources.push((rustix::stdio::stdin().as_raw_fd(), Source::Input));
            sources.push((console.drained.as_raw_fd(), Source::Drained));
        }
        for (index, (error, request)) in (0..).zip(&self.triggers) {
            sources.push((error.as_raw_fd(), Source::DeviceError(index)));
            sources.push((request.as_raw_fd(), Source::DeviceRequest(index)));
        }
        for (fd, source) in sources {
            let events = Events::with_data_raw(fd, source.tag(), EventSet::IN);
            if let Err(error) = ops.add(events) {
                // A regular file as standard input can't be waited for (EPERM).
                log::debug!("{source:?} can't be waited for: {error}");
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

fn signal_pipe(signals: &[i32]) -> Result<UnixStream, MachineError> {
    let pair = || -> io::Result<UnixStream> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
        }
        Ok(reader)
    };
    pair().map_err(process("catching signals"))
}

fn drain(pipe: &mut UnixStream) {
    let mut bytes = [0; 64];
    while pipe.read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
}

fn device_triggers(machine: &Machine) -> Result<Vec<(EventFd, EventFd)>, MachineError> {
    let Some(assigned) = &machine.assigned else {
        return Ok(Vec::new());
    };
    let mut triggers = Vec::with_capacity(assigned.devices.len());
    for assigned in &assigned.devices {
        let (error, request) = (platform::eventfd()?, platform::eventfd()?);
        let device = &assigned.device;
        let host = assigned.spec.host;
        // Not every device has them; without them the host's wishes are not heard.
        for (what, set) in [
            ("error", device.set_error_trigger(&error)),
            ("request", device.set_request_trigger(&request)),
        ] {
            if let Err(error) = set {
                log::debug!("{host} has no {what} interrupt: {}", chain(&error));
            }
        }
        triggers.push((error, request));
    }
    Ok(triggers)
}
