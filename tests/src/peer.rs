//! The host's side of the wire that the guest's network card is on.

use crate::{Exits, Guest, HostDevice, MOMENT, site, until};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// The host's end of the wire, as one of the guest's network cards sees it.
#[derive(Debug)]
pub struct Peer {
    device: HostDevice,
    /// The guest's interface.
    interface: String,
    /// The host's address.
    host: String,
    /// The guest's.
    guest: String,
}

/// What a transfer both ways took.
#[derive(Debug)]
pub struct Exchange {
    /// Exits to user space while it ran.
    pub exits: Exits,
    /// Host to guest, in Mbit/s.
    pub to_guest: f64,
    /// Guest to host, in Mbit/s.
    pub from_guest: f64,
}

/// A transfer without end.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
}

impl Peer {
    /// Brings the host's card on the wire up, for the guest's only network card.
    ///
    /// # Panics
    /// When that can't be done.
    #[must_use]
    #[track_caller]
    pub fn up() -> Self {
        Self::of("eth0", 0)
    }

    /// The same for a card that is the guest's `interface` and shares the wire with others: each has a
    /// `subnet` of its own, so that what is sent through one does not come through another.
    ///
    /// # Panics
    /// When that can't be done.
    #[must_use]
    #[track_caller]
    pub fn of(interface: &str, subnet: u8) -> Self {
        let device = site::device("peer");
        let own = device.interface();
        let [host, guest] = [1, 2].map(|number| format!("10.77.{subnet}.{number}"));
        // "replace" for the address that an earlier test has left.
        command(&[
            "ip",
            "address",
            "replace",
            &format!("{host}/24"),
            "dev",
            &own,
        ]);
        command(&["ip", "link", "set", &own, "up"]);
        Self {
            device,
            interface: interface.to_owned(),
            host,
            guest,
        }
    }

    /// Waits until the host's card has a link and sends what it is given.
    #[track_caller]
    pub fn wait_for_link(&self) {
        let interface = self.device.interface();
        let state = format!("/sys/class/net/{interface}/operstate");
        until("a link on the host's side of the wire", MOMENT, || {
            let up = fs::read_to_string(&state).is_ok_and(|text| text.trim() == "up");
            up.then_some(())
        });
        // For the same reason as in the guest.
        command(&["ip", "link", "set", &interface, "up"]);
    }

    /// Gives the guest's network card its address and waits for the link.
    ///
    /// # Panics
    /// When there is no link.
    #[track_caller]
    pub fn set_up_guest(&self, guest: &mut Guest) {
        guest.bring_up(&self.interface, &format!("{}/24", self.guest));
        self.wait_for_link();
    }

    /// Sets the guest's end up and has it ping this one.
    ///
    /// # Panics
    /// When an answer is missing.
    #[track_caller]
    pub fn is_reached_by(&self, guest: &mut Guest) {
        self.set_up_guest(guest);
        guest.pings(&self.host);
    }

    /// Lets the guest ping the host and gives what `ping` printed.
    #[must_use]
    #[track_caller]
    pub fn ping(&self, guest: &mut Guest, count: u32) -> String {
        guest
            .run(&format!("ping -c {count} -i 0.2 -W 2 {}", self.host))
            .text
    }

    /// Pings this end from a network card that is the host's again. The card is put into a network
    /// namespace of its own for that, since the kernel would not send to itself through a wire.
    ///
    /// # Panics
    /// When packets are lost.
    #[track_caller]
    pub fn ping_from(&self, device: &HostDevice) {
        let interface = device.interface();
        let (host, guest) = (&self.host, &self.guest);
        self.wait_for_link();
        // The namespace lasts as long as a process is in it. /sys shows the devices of the old one.
        let script = format!(
            "unshare --net sleep infinity & holder=$!
            while [ \"$(readlink /proc/$holder/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do
                sleep 0.01
            done
            inside() {{ nsenter --target $holder --net \"$@\"; }}
            use() {{
                inside ip address add {guest}/24 dev {interface} &&
                inside ip link set {interface} up || return
                for try in $(seq 300); do
                    inside ip link show {interface} | grep -q 'state UP' && break
                    sleep 0.1
                done
                inside ip link set {interface} up
                inside ping -c 5 -i 0.2 -W 2 {host}
            }}
            ip link set {interface} netns $holder && use
            status=$?
            inside ip link set {interface} netns 1
            kill $holder
            exit $status"
        );
        command(&["sh", "-c", &script]);
    }

    /// Sends `size` bytes to the guest, has it check their CRC and send them back, and compares.
    ///
    /// Between the two readings of the counters the guest's console is silent: it starts before, and
    /// says how it went after.
    ///
    /// # Panics
    /// When a byte is wrong or the transfer stands still.
    #[track_caller]
    pub fn exchange(&self, guest: &mut Guest, size: usize) -> Exchange {
        let host = &self.host;
        let (there, back) = (listen(host), listen(host));
        let data = noise(size);
        guest.begin(&format!(
            "nc {host} {} > /tmp/data && nc {host} {} < /tmp/data; crc32 < /tmp/data",
            port(&there),
            port(&back)
        ));
        let mut stream = accept(&there);
        let before = guest.figures().exits();
        let started = Instant::now();
        send(&mut stream, &data);
        // The end of the first connection is what the guest waits for before it opens the second.
        drop(stream);
        let mut stream = accept(&back);
        let to_guest = rate(size, started);
        let started = Instant::now();
        let mut returned = vec![0; size];
        if let Err(error) = stream.read_exact(&mut returned) {
            panic!("the guest sends no more: {error}{}", guest.ferry().state());
        }
        let from_guest = rate(size, started);
        let exits = guest.figures().exits().since(&before);
        drop(stream);
        assert!(returned == data, "what came back is not what was sent");
        let checked = guest.end(MOMENT).text;
        let expected = format!("{:08x}", crc32(&data));
        assert!(
            checked.contains(&expected),
            "CRC {expected} expected: {checked}"
        );
        Exchange {
            exits,
            to_guest,
            from_guest,
        }
    }

    /// Sends to the guest without end, beside whatever else the guest does. Returns once the transfer
    /// runs; it goes on until [`Flood::stop`], or until the guest or its Ferry is gone.
    #[must_use]
    #[track_caller]
    pub fn flood(&self, guest: &mut Guest) -> Flood {
        let host = &self.host;
        let listener = listen(host);
        guest.ok(&format!("nc {host} {} > /dev/null &", port(&listener)));
        let mut stream = accept(&listener);
        let data = noise(1 << 20);
        // More than all buffers in between hold, so the guest has taken some of it.
        for _ in 0..16 {
            send(&mut stream, &data);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        thread::spawn(move || {
            while stream.write_all(&data).is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Flood { sent }
    }
}

impl Flood {
    /// MiB sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it from the guest's side.
    #[track_caller]
    pub fn stop(self, guest: &mut Guest) {
        guest.ok("killall nc");
    }
}

fn rate(bytes: usize, started: Instant) -> f64 {
    let bits = u32::try_from(bytes / 125_000).map_or(f64::MAX, f64::from);
    bits / started.elapsed().as_secs_f64()
}

/// Runs a program of the host.
#[track_caller]
fn command(words: &[&str]) {
    let (program, arguments) = words.split_at(1);
    let output = Command::new(program.first().copied().unwrap_or_default())
        .args(arguments)
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{}: {}\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("{}: {error}", words.join(" ")),
    }
}

#[track_caller]
fn listen(host: &str) -> TcpListener {
    let listener = TcpListener::bind((host, 0))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    match listener {
        Ok(listener) => listener,
        Err(error) => panic!("{host} can't be listened on: {error}"),
    }
}

#[track_caller]
fn port(listener: &TcpListener) -> u16 {
    match listener.local_addr() {
        Ok(address) => address.port(),
        Err(error) => panic!("the listener's port: {error}"),
    }
}

#[track_caller]
fn accept(listener: &TcpListener) -> TcpStream {
    let stream = until("a connection from the guest", STALL, || {
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("no connection from the guest: {error}"),
        }
    });
    let set = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(STALL)))
        .and_then(|()| stream.set_write_timeout(Some(STALL)));
    match set {
        Ok(()) => stream,
        Err(error) => panic!("a connection from the guest: {error}"),
    }
}

#[track_caller]
fn send(stream: &mut TcpStream, data: &[u8]) {
    if let Err(error) = stream.write_all(data) {
        panic!("the guest takes no more: {error}");
    }
}

/// Bytes without a pattern that a faulty copy could keep (xorshift64).
#[must_use]
pub fn noise(len: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The CRC of gzip and PNG, which busybox calls crc32.
fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (index, entry) in (0_u32..).zip(&mut table) {
        *entry = (0..8).fold(index, |crc, _| {
            if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            }
        });
    }
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        table.get(usize::from(low ^ byte)).copied().unwrap_or(0) ^ (crc >> 8)
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn noise_has_no_short_period() {
        let bytes = noise(1 << 16);
        assert_eq!(bytes.len(), 1 << 16);
        assert_ne!(bytes[..4096], bytes[4096..8192]);
    }
}
