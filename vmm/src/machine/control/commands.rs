//! What the API's clients ask for, carried out by the thread that owns the machine.

use super::{Control, Outcome};
use crate::api::{Answer, Call, Command, Done, Ping, Refusal, RefusalKind, Reply, State, VmInfo};
use crate::events::RebootReason;
use crate::machine::builder::chain;
use crate::machine::mailbox::StopCause;
use crate::machine::report;
use crate::spec::DeviceSpec;
use devices::host::Problem;
use event_manager::EventOps;

/// Commands that are carried out before signals, timers and the guest have their turn again.
const TURN: usize = 8;

impl Control {
    /// Carries out what waits, or the first part of it.
    pub(super) fn serve_api(&mut self, ops: &mut EventOps<'_>) {
        let Some(api) = self.api.clone() else { return };
        for _ in 0..TURN {
            if self.ended.is_some() {
                return;
            }
            let Some(Call { command, reply }) = api.next_call() else {
                return;
            };
            // What waited while its client went away is nobody's wish any longer.
            if !reply.abandoned() {
                self.carry_out(command, reply, ops);
            }
        }
        // Clients that ask as soon as they are answered would keep it here for ever.
        api.call_again();
    }

    fn carry_out(&mut self, command: Command, reply: Reply, ops: &mut EventOps<'_>) {
        let answer = match command {
            Command::Ping => Ok(Done::with(&Ping::own())),
            Command::Info => Ok(Done::with(&self.info())),
            Command::Stats => Ok(Done::with(&report::gather(&self.machine))),
            Command::Counters => Ok(Done::with(&report::gather(&self.machine).counters())),
            Command::Pause => self.pause(ops),
            Command::Resume => self.resume(),
            Command::Reboot => self.reboot(ops),
            Command::PowerButton => self.press_power_button(),
            Command::Shutdown => return self.shut_down(reply, ops),
            Command::Wait => {
                if let Some(api) = &self.api {
                    api.tell_end(reply);
                }
                return;
            }
            Command::AddDevice(device) => return self.add_devices(vec![device], false, reply),
            Command::AddDevices(devices) => return self.add_devices(devices, true, reply),
            Command::RemoveDevice { id, how } => return self.remove_device(id, how, reply, ops),
        };
        reply.send(answer);
    }

    fn info(&self) -> VmInfo {
        let assigned = self.machine.assigned.iter().flat_map(|all| &all.devices);
        let devices: Vec<&DeviceSpec> = assigned.map(|assigned| &assigned.spec).collect();
        let state = match self.paused {
            Some(_) => State::Paused,
            None => State::Running,
        };
        let (coming, populated) = self.arrivals.coming();
        VmInfo::new(&self.machine.spec, &devices, state).with_arriving(coming, populated)
    }

    fn pause(&mut self, ops: &mut EventOps<'_>) -> Answer {
        if self.paused.is_some() {
            return Err(state(
                "the guest is paused already",
                "ferry resume lets it run",
            ));
        }
        // A vCPU that waits for it would be sent away, and its write to a device's command register be lost.
        if !self.machine.pci.dma().is_ready() {
            let why = "guest RAM is still being mapped for its devices";
            return Err(state(why, "try again in a moment"));
        }
        // What has booted it again may have been followed by more.
        while self.settle(ops)? {}
        self.paused = Some(self.machine.pause());
        log::info!("the guest is paused");
        Ok(Done::Silently)
    }

    /// Takes the vCPUs out of the guest. What it did last comes before what a client wants: it may have been its end. `true`
    /// when it was booted again for that.
    fn settle(&mut self, ops: &mut EventOps<'_>) -> Result<bool, Refusal> {
        if !self.stop_vcpus() {
            self.ended = Some(Outcome::HostFailed("a vCPU thread panicked".to_owned()));
            return Err(ended());
        }
        let Some(cause) = self.machine.context.mailbox.take() else {
            return Ok(false);
        };
        self.stopped(cause, ops);
        match self.ended {
            Some(_) => Err(ended()),
            None => Ok(true),
        }
    }

    fn resume(&mut self) -> Answer {
        let Some(paused) = self.paused.take() else {
            return Err(state("the guest is not paused", "ferry pause pauses it"));
        };
        match self.machine.resume(paused) {
            Ok(threads) => {
                self.threads = threads;
                log::info!("the guest goes on");
                Ok(Done::Silently)
            }
            Err(error) => {
                let detail = format!("it can't go on: {}", chain(&error));
                self.ended = Some(Outcome::HostFailed(detail));
                Err(ended())
            }
        }
    }

    fn reboot(&mut self, ops: &mut EventOps<'_>) -> Answer {
        // A guest that has just been booted again for its own reset needs no other.
        if !self.settle(ops)? {
            self.boot_again(RebootReason::Api, ops);
        }
        match self.ended {
            Some(_) => Err(ended()),
            None => Ok(Done::Silently),
        }
    }

    fn press_power_button(&mut self) -> Answer {
        if self.paused.is_some() {
            let remedy = "let it run first: ferry resume";
            return Err(state("the guest is paused and hears no button", remedy));
        }
        self.machine.hotplug.press_power_button();
        Ok(Done::Silently)
    }

    /// The client is answered when all has been given back.
    fn shut_down(&mut self, reply: Reply, ops: &mut EventOps<'_>) {
        if let Some(api) = &self.api {
            api.confirm_end(reply);
        }
        self.stopped(StopCause::Stopped, ops);
    }
}

fn state(why: &str, remedy: &str) -> Refusal {
    let problem = Problem::new("the guest's state does not allow that", why, remedy);
    Refusal::new(RefusalKind::State, problem)
}

fn ended() -> Refusal {
    let problem = Problem::new(
        "the guest has ended",
        "it ended while the request was carried out",
        "see how, in the output of its ferry run",
    );
    Refusal::new(RefusalKind::Failed, problem)
}
