//! TCP through the assigned network card, out of the guest and into it.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::run::Run;
use super::side::{Guest, Side};
use super::statistics::{Spread, ratio};
use crate::borrowed::Function;

const SIDES: [Side; 2] = [Side::Ferry, Side::Q35];
const HOST: &str = "10.77.0.1";
const GUEST: &str = "10.77.0.2";
/// Seconds of each transfer.
const SECONDS: u32 = 5;
/// The guest prints this before each result.
const RESULT: &str = "ferry-bench: ";

/// Mbit/s.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    out: f64,
    into: f64,
}

/// Measures and prints.
pub(super) fn measure(guest: &Guest, peer: &Function, rounds: u32) -> Result<()> {
    let interface = peer
        .interface()
        .with_context(|| format!("{} has no network interface", peer.address()))?;
    host(&[
        "ip",
        "address",
        "replace",
        &format!("{HOST}/24"),
        "dev",
        &interface,
    ])?;
    host(&["ip", "link", "set", &interface, "up"])?;
    let _server = Server::start()?;
    let guest = Guest {
        cmdline: format!(
            "{} ferry.modules=igb ferry.run=\"{}\"",
            guest.cmdline,
            script()
        ),
        ..guest.clone()
    };
    let mut rates: BTreeMap<Side, Vec<Rates>> = BTreeMap::new();
    for round in 1..=rounds {
        for side in SIDES {
            let measured = one(side, &guest).with_context(|| format!("round {round}"))?;
            println!(
                "round {round}/{rounds}  {:<26}out {:5.0} Mbit/s  in {:5.0} Mbit/s",
                side.name(),
                measured.out,
                measured.into
            );
            rates.entry(side).or_default().push(measured);
        }
    }
    print!("\n{}", table(&rates));
    Ok(())
}

/// What the guest runs: wait for the link, warm up, send, receive.
fn script() -> String {
    format!(
        "ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; \
         until grep -q 1 /sys/class/net/eth0/carrier; do sleep 0.2; done; ping -c 2 {HOST} > /dev/null; \
         for way in --connect-timeout=5000 -R; do echo {RESULT}; \
         iperf3 -c {HOST} -t {SECONDS} -O 1 -f m $way | grep receiver; done; echo {RESULT}done; sleep 60"
    )
}

fn one(side: Side, guest: &Guest) -> Result<Rates> {
    let mut run = Run::start(side, guest)?;
    let (_, _) = run.wait_for(&format!("{RESULT}done"))?;
    let console = run.console_text();
    run.stop()?;
    rates(&console).with_context(|| format!("no rates in:\n{console}"))
}

/// The rates in the guest's output, in the order of [`script`].
fn rates(console: &str) -> Option<Rates> {
    let mut found = console
        .lines()
        .filter(|line| line.contains("receiver"))
        .filter_map(rate);
    Some(Rates {
        out: found.next()?,
        into: found.next()?,
    })
}

/// The figure before `Mbits/sec`.
fn rate(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Mbits/sec")?;
    words.get(unit.checked_sub(1)?)?.parse().ok()
}

fn table(rates: &BTreeMap<Side, Vec<Rates>>) -> String {
    let column = |side: Side, of: fn(&Rates) -> f64| -> Vec<f64> {
        let measured = rates.get(&side).map(Vec::as_slice).unwrap_or_default();
        measured.iter().map(of).collect()
    };
    let spread = |side, of| Spread::of(column(side, of));
    let out: fn(&Rates) -> f64 = |rates| rates.out;
    let into: fn(&Rates) -> f64 = |rates| rates.into;
    let mut text = format!(
        "{:<26}{:>24}    {:>24}\n{:<26}{:>8}{:>8}{:>8}    {:>8}{:>8}{:>8}\n",
        "",
        "guest to host, Mbit/s",
        "host to guest, Mbit/s",
        "",
        "median",
        "min",
        "max",
        "median",
        "min",
        "max"
    );
    for side in SIDES {
        if let (Some(out), Some(into)) = (spread(side, out), spread(side, into)) {
            text.push_str(&format!("{:<26}{out}    {into}\n", side.name()));
        }
    }
    let ratio = |of| ratio(&column(Side::Ferry, of), &column(Side::Q35, of));
    if let (Some(out), Some(into)) = (ratio(out), ratio(into)) {
        text.push_str(&format!(
            "{:<26}{:>8}{:16}    {:>8}\n",
            "Ferry / QEMU q35",
            format!("{out:.2}x"),
            "",
            format!("{into:.2}x")
        ));
    }
    text
}

fn host(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_at(1);
    let output = Command::new(program.first().copied().unwrap_or_default())
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {}", words.join(" ")))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The other end of the transfers.
struct Server(Child);

impl Server {
    fn start() -> Result<Self> {
        let server = Command::new("iperf3")
            .args(["-s", "-B", HOST])
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start iperf3")?;
        let mut server = Self(server);
        // It ends at once if it cannot listen.
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            if let Some(status) = server.0.try_wait()? {
                bail!("iperf3 -s ended: {status}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "ferry-bench: \n\
        [  5]   0.00-5.02   sec   170 MBytes   284 Mbits/sec                  receiver\n\
        ferry-bench: \n\
        [  5]   0.00-5.00   sec   250 MBytes   419 Mbits/sec                  receiver\n\
        ferry-bench: done\n";

    #[test]
    fn rates_are_read_in_the_order_of_the_transfers() {
        let expected = Rates {
            out: 284.0,
            into: 419.0,
        };
        assert_eq!(rates(CONSOLE), Some(expected));
        assert_eq!(rates("ferry-bench: \nferry-bench: done\n"), None);
    }

    #[test]
    fn guest_command_fits_the_kernels_command_line() {
        let script = script();
        assert!(script.len() < 1800 && !script.contains('"'), "{script}");
    }

    #[test]
    fn ratio_is_above_one_when_ferry_is_faster() {
        let rates = BTreeMap::from([
            (
                Side::Ferry,
                vec![Rates {
                    out: 300.0,
                    into: 400.0,
                }],
            ),
            (
                Side::Q35,
                vec![Rates {
                    out: 200.0,
                    into: 500.0,
                }],
            ),
        ]);
        let text = table(&rates);
        assert!(text.contains("1.50x") && text.contains("0.80x"), "{text}");
    }
}
