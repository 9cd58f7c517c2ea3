//! Which command a path means, and with which method; described for clients by `openapi.yaml`.

use super::answer::{Answer, Done, Refusal, RefusalKind};
use super::command::Command;
use super::message::Response;
use super::request;
use devices::host::Problem;

/// What all paths begin with.
pub const ROOT: &str = "/api/v1/";

/// A path.
pub(super) struct Route {
    /// Behind [`ROOT`].
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    /// The statuses that it answers with, but for those that any request may get.
    pub(super) statuses: &'static [u16],
    pub(super) parse: fn(&[u8]) -> Result<Command, Refusal>,
}

/// Makes the parser of a command without a body.
macro_rules! plain {
    ($command:expr) => {
        |body| request::nothing(body).map(|()| $command)
    };
}

/// All paths.
pub(super) const ROUTES: [Route; 15] = [
    Route {
        name: "vmm.ping",
        method: "GET",
        statuses: &[200],
        parse: plain!(Command::Ping),
    },
    Route {
        name: "vmm.shutdown",
        method: "PUT",
        statuses: &[204],
        parse: plain!(Command::Shutdown),
    },
    Route {
        name: "vm.info",
        method: "GET",
        statuses: &[200],
        parse: plain!(Command::Info),
    },
    Route {
        name: "vm.counters",
        method: "GET",
        statuses: &[200],
        parse: plain!(Command::Counters),
    },
    Route {
        name: "vm.pause",
        method: "PUT",
        statuses: &[204, 405],
        parse: plain!(Command::Pause),
    },
    Route {
        name: "vm.resume",
        method: "PUT",
        statuses: &[204, 405],
        parse: plain!(Command::Resume),
    },
    Route {
        name: "vm.reboot",
        method: "PUT",
        statuses: &[204],
        parse: plain!(Command::Reboot),
    },
    Route {
        name: "vm.power-button",
        method: "PUT",
        statuses: &[204, 405],
        parse: plain!(Command::PowerButton),
    },
    Route {
        name: "vm.shutdown",
        method: "PUT",
        statuses: &[204],
        parse: plain!(Command::Shutdown),
    },
    Route {
        name: "vm.add-device",
        method: "PUT",
        statuses: &[200, 404, 409],
        parse: request::add_device,
    },
    Route {
        name: "ferry.add-devices",
        method: "PUT",
        statuses: &[200, 404, 409],
        parse: request::add_devices,
    },
    Route {
        name: "vm.remove-device",
        method: "PUT",
        statuses: &[204, 404],
        parse: request::remove_device,
    },
    Route {
        name: "ferry.remove-device",
        method: "PUT",
        statuses: &[204, 404, 405],
        parse: request::ferry_remove_device,
    },
    Route {
        name: "ferry.stats",
        method: "GET",
        statuses: &[200],
        parse: plain!(Command::Stats),
    },
    Route {
        name: "ferry.wait",
        method: "GET",
        statuses: &[200],
        parse: plain!(Command::Wait),
    },
];

/// The command that a request means, or what the client gets instead.
pub(super) fn command(method: &str, path: &str, body: &[u8]) -> Result<Command, Response> {
    let found = path
        .strip_prefix(ROOT)
        .and_then(|name| ROUTES.iter().find(|route| route.name == name));
    let Some(route) = found else {
        let problem = Problem::new(
            format!("{path} is not understood"),
            "there is no such path",
            "use one that docs/api.md lists, e.g. /api/v1/vm.info",
        );
        return Err(Response::refusal(&Refusal::new(
            RefusalKind::Unknown,
            problem,
        )));
    };
    if route.method != method {
        let problem = Problem::new(
            format!("{method} {path} is not understood"),
            format!("this path has the method {}", route.method),
            format!("use {}", route.method),
        );
        return Err(Response {
            allow: Some(route.method),
            ..Response::refusal(&Refusal::new(RefusalKind::State, problem))
        });
    }
    (route.parse)(body).map_err(|refusal| Response::refusal(&refusal))
}

/// Statuses of any command: it makes no sense, there are too many, or it failed.
const OF_ANY: [u16; 3] = [400, 429, 500];

/// Whether the description knows that a request like this may get `status`.
pub(super) fn is_listed(method: &str, path: &str, status: u16) -> bool {
    let named = |name| ROUTES.iter().find(|route| route.name == name);
    match path.strip_prefix(ROOT).and_then(named) {
        None => status == 404,
        Some(route) if route.method != method => status == 405,
        Some(route) => OF_ANY.contains(&status) || route.statuses.contains(&status),
    }
}

/// The response that an answer is.
pub(super) fn response(answer: &Answer) -> Response {
    match answer {
        Ok(Done::Silently) => Response {
            status: 204,
            allow: None,
            body: None,
        },
        Ok(Done::With(body)) => Response {
            status: 200,
            allow: None,
            body: Some(body.to_string()),
        },
        Err(refusal) => Response::refusal(refusal),
    }
}
