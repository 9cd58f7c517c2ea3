//! What there is to tell. Names and fields are a promise to programs; `docs/events.md` lists them.

use crate::machine::Outcome;
use crate::spec::{DeviceSpec, ErrorPolicy, MachineSpec};
use crate::stats::Departure;
use devices::machine::ResetSource;
use serde::Serialize;
use std::fmt;

/// Something that has happened to a guest or its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The guest runs: the first event.
    Started {
        /// Ferry's version.
        version: &'static str,
        /// Ferry's process.
        pid: u32,
        /// Number of vCPUs.
        cpus: u8,
        /// Guest RAM in bytes.
        memory: u64,
    },
    /// The guest has a device.
    DeviceAdded {
        /// Which.
        #[serde(flatten)]
        device: DeviceAddress,
        /// How it came.
        how: Origin,
    },
    /// The guest no longer has a device, which has been given back to the host.
    DeviceRemoved {
        /// Which.
        #[serde(flatten)]
        device: DeviceAddress,
        /// Uncorrectable errors that it had reported.
        errors: u64,
        /// How it left.
        how: Departure,
    },
    /// The guest was asked to let go of a slot.
    EjectRequested {
        /// All devices in it.
        devices: Vec<DeviceAddress>,
        /// Who wants that.
        why: EjectReason,
    },
    /// A device reported an uncorrectable error.
    ErrorInterrupt {
        /// Which.
        #[serde(flatten)]
        device: DeviceAddress,
        /// Errors that it has reported, with this one.
        errors: u64,
        /// What follows.
        then: ErrorConsequence,
    },
    /// The host wants a device back. It says so again while it waits.
    RequestInterrupt {
        /// Which.
        #[serde(flatten)]
        device: DeviceAddress,
    },
    /// The guest is booted again.
    GuestReboot {
        /// Why.
        why: RebootReason,
        /// How often it will have been booted then.
        boots: u64,
    },
    /// The guest's kernel has crashed.
    Panic {
        /// How.
        what: PanicKind,
        /// What follows.
        then: PanicConsequence,
    },
    /// The guest has ended and its devices have been given back: the last event.
    Shutdown {
        /// How it ended.
        outcome: RunEnd,
        /// Ferry's exit code.
        exit_code: u8,
        /// More about that, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

/// A device by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceAddress {
    /// The user's id.
    pub id: String,
    /// Address on the host.
    pub host: String,
    /// Address in the guest.
    pub guest: String,
}

impl From<&DeviceSpec> for DeviceAddress {
    fn from(spec: &DeviceSpec) -> Self {
        Self {
            id: spec.id.clone(),
            host: spec.host.to_string(),
            guest: spec.guest.to_string(),
        }
    }
}

/// How a device came to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was there from the start.
    Start,
    /// A client of the API added it.
    Api,
}

/// Who wants a device to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EjectReason {
    /// The host.
    Host,
    /// A client of the API.
    Api,
}

/// What follows from an uncorrectable error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorConsequence {
    /// The guest ends.
    Stop,
    /// The guest loses the device.
    Unplug,
    /// Nothing.
    Report,
}

impl From<ErrorPolicy> for ErrorConsequence {
    fn from(policy: ErrorPolicy) -> Self {
        match policy {
            ErrorPolicy::Stop => Self::Stop,
            ErrorPolicy::Unplug => Self::Unplug,
            ErrorPolicy::Report => Self::Report,
        }
    }
}

/// Why a guest is booted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RebootReason {
    /// It wrote to the ACPI reset register.
    AcpiReset,
    /// It had the keyboard controller reset it.
    KeyboardReset,
    /// A vCPU shut down.
    TripleFault,
    /// It panicked, and the user wants it booted again then.
    Panic,
    /// A client of the API wants it.
    Api,
}

impl From<ResetSource> for RebootReason {
    fn from(source: ResetSource) -> Self {
        match source {
            ResetSource::Acpi => Self::AcpiReset,
            ResetSource::I8042 => Self::KeyboardReset,
        }
    }
}

impl fmt::Display for RebootReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcpiReset => "reset through the ACPI register",
            Self::KeyboardReset => "reset through the keyboard controller",
            Self::TripleFault => "triple fault",
            Self::Panic => "it panicked",
            Self::Api => "asked for through the API",
        })
    }
}

/// How a guest's kernel has crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicKind {
    /// It panicked.
    Panicked,
    /// It panicked, and a crash kernel takes over.
    CrashLoaded,
}

/// What follows when a guest's kernel has crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicConsequence {
    /// The guest ends.
    Stop,
    /// It is booted again.
    Reboot,
    /// Nothing: what its kernel does next is its own affair.
    Report,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It powered off.
    PoweredOff,
    /// It handed back a status.
    GuestStatus,
    /// It reset itself and was not to be booted again.
    Reset,
    /// It crashed.
    Crashed,
    /// Its kernel panicked.
    Panicked,
    /// The host failed it.
    HostFailed,
    /// Its RAM could not be made reachable for devices.
    MemoryFailed,
    /// A device failed.
    DeviceFailed,
    /// It was stopped.
    Stopped,
}

impl Event {
    /// The guest that `spec` describes runs.
    #[must_use]
    pub fn started(spec: &MachineSpec) -> Self {
        Self::Started {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            cpus: spec.cpus.get(),
            memory: spec.memory.bytes(),
        }
    }

    /// The guest has ended.
    #[must_use]
    pub fn shutdown(outcome: &Outcome, exit_code: u8) -> Self {
        let problem = |problem: &devices::host::Problem| {
            let devices::host::Problem { what, why, .. } = problem;
            Some(format!("{what}: {why}"))
        };
        let (end, detail) = match outcome {
            Outcome::PoweredOff => (RunEnd::PoweredOff, None),
            Outcome::GuestStatus(_) => (RunEnd::GuestStatus, None),
            Outcome::Reset => (RunEnd::Reset, None),
            Outcome::Crashed(detail) => (RunEnd::Crashed, Some(detail.clone())),
            Outcome::Panicked => (RunEnd::Panicked, None),
            Outcome::HostFailed(detail) => (RunEnd::HostFailed, Some(detail.clone())),
            Outcome::MemoryFailed(why) => (RunEnd::MemoryFailed, problem(why)),
            Outcome::DeviceFailed(why) => (RunEnd::DeviceFailed, problem(why)),
            Outcome::Stopped => (RunEnd::Stopped, None),
        };
        Self::Shutdown {
            outcome: end,
            exit_code,
            detail,
        }
    }
}
