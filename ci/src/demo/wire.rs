//! The other end of the wire: this machine's own address on the network that the guest's card is on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// Waits for one connection from the guest.
pub(super) struct Door(TcpListener);

impl Door {
    /// Opens a port of its own on `address`.
    pub(super) fn open(address: Ipv4Addr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self(listener))
    }

    /// The port.
    pub(super) fn port(&self) -> Result<u16> {
        Ok(self
            .0
            .local_addr()
            .map(|address: SocketAddr| address.port())?)
    }

    /// The connection.
    pub(super) fn accept(&self) -> Result<TcpStream> {
        let end = Instant::now() + STALL;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(STALL))?;
                    stream.set_write_timeout(Some(STALL))?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("no connection from the guest"),
            }
            if Instant::now() > end {
                bail!("the guest does not connect within {} s", STALL.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sends all of `data` and closes.
pub(super) fn send(mut stream: TcpStream, data: &[u8]) -> Result<()> {
    stream.write_all(data).context("the guest takes no more")
}

/// Receives as much as `expected` is long and says whether it is the same.
pub(super) fn receive(mut stream: TcpStream, expected: &[u8]) -> Result<bool> {
    let mut received = vec![0; expected.len()];
    stream
        .read_exact(&mut received)
        .context("the guest sends no more")?;
    Ok(received == expected)
}

/// Bytes that nothing on the way could guess.
pub(super) fn random(len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The SHA-256 of `bytes`, by the program that prints it.
pub(super) fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum, a part of coreutils")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(bytes)?;
    }
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    let sum = output.split_whitespace().next();
    Ok(sum.context("sha256sum printed nothing")?.to_owned())
}

/// An IPv4 address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: Ipv4Addr,
    /// The prefix length.
    pub prefix: u8,
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not of the form ADDRESS/LENGTH, such as 10.0.0.2/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// Whether `other` can be reached without a router.
    pub(super) fn contains(self, other: Ipv4Addr) -> bool {
        let bits = 32 - u32::from(self.prefix);
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
        (u32::from(self.address) ^ u32::from(other)) & mask == 0
    }
}

/// The first address in the output of `ip -o -4 address`.
pub(super) fn addresses(listing: &str) -> Vec<Network> {
    let words = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == "inet")?;
        words.next()
    });
    words.filter_map(|word| word.parse().ok()).collect()
}

/// This machine's addresses.
pub(super) fn local_addresses() -> Result<Vec<Network>> {
    let output = Command::new("ip")
        .args(["-o", "-4", "address"])
        .output()
        .context("cannot start ip, a part of iproute2")?;
    let all = addresses(&String::from_utf8_lossy(&output.stdout));
    Ok(all
        .into_iter()
        .filter(|network| !IpAddr::V4(network.address).is_loopback())
        .collect())
}

/// Mbit/s.
pub(super) fn rate(bytes: usize, took: Duration) -> f64 {
    let megabits = u32::try_from(bytes / 125_000).map_or(f64::MAX, f64::from);
    megabits / took.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_need_an_address_and_a_length() {
        let network: Network = "10.77.0.2/24".parse().unwrap();
        assert_eq!(network.to_string(), "10.77.0.2/24");
        for bad in ["", "10.77.0.2", "10.77.0.2/33", "10.77.0/24", "x/24"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let network: Network = "192.168.1.10/24".parse().unwrap();
        assert!(network.contains(Ipv4Addr::new(192, 168, 1, 200)));
        assert!(!network.contains(Ipv4Addr::new(192, 168, 2, 10)));
        let all: Network = "1.2.3.4/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::new(200, 0, 0, 1)));
        let one: Network = "1.2.3.4/32".parse().unwrap();
        assert!(
            one.contains(Ipv4Addr::new(1, 2, 3, 4)) && !one.contains(Ipv4Addr::new(1, 2, 3, 5))
        );
    }

    #[test]
    fn addresses_are_read_from_the_listing() {
        let listing = "1: lo    inet 127.0.0.1/8 scope host lo\n\
                       2: eth0    inet 10.0.0.7/16 brd 10.0.255.255 scope global eth0\n";
        let found = addresses(listing);
        assert_eq!(found[1].to_string(), "10.0.0.7/16");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn rate_is_in_megabits() {
        assert_eq!(rate(125_000_000, Duration::from_secs(10)), 100.0);
    }

    #[test]
    fn sha256_of_nothing() {
        assert!(sha256(b"").unwrap().starts_with("e3b0c442"));
    }
}
