//! The API by which a program drives a running guest: HTTP/1.1 and JSON over a Unix socket. `openapi.yaml` describes it.
//!
//! Paths, methods, bodies and statuses are those of Cloud Hypervisor's API where both have them; Ferry's own begin with `ferry.`.
//!
//! Deliberately absent: the machine. A request becomes a [`Command`], which the control thread takes from [`Server::next_call`]
//! and answers through its [`Reply`].
//!
//! Threads: `api` accepts; each client has one, `api-client`, for as long as it is connected. They wait for bytes with deadlines
//! and for answers as long as their client does. The control thread waits for none of them.

mod answer;
mod client;
mod command;
mod connection;
mod connections;
mod message;
mod request;
mod route;
mod server;
mod socket;
mod view;

#[cfg(test)]
mod description;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Done, Refusal, RefusalKind, problems};
pub use client::{Asked, ClientError, ask};
pub use command::{Call, Command, NewDevice, RemovalRequest, Reply};
pub use message::{BODY_LIMIT, HEAD_LIMIT, Head, Malformed};
pub use request::LONGEST_TIMEOUT;
pub use route::ROOT;
pub use server::Server;
pub use socket::{ApiSocket, SocketError};
pub use view::{AddedDevice, Ping, State, VmInfo};

/// Understands the first request of what a client has sent, and does nothing with it.
#[cfg(fuzzing)]
pub fn understand(bytes: &[u8]) {
    if let Ok(Some(head)) = Head::parse(bytes) {
        let rest = bytes.get(head.len..).unwrap_or_default();
        let body = rest
            .get(..head.body_len.min(rest.len()))
            .unwrap_or_default();
        let _ = route::command(&head.method, &head.path, body);
    }
}
