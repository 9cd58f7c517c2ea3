//! The part that runs next to the device: in the lab machine, or on a real one. Each step shows what it does and checks that
//! it worked; the first one that did not ends the demonstration.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::faults::dma_faults;
use super::figures::{Counts, added};
use super::guest::{Answer, Guest};
use super::host;
use super::page::{Page, Style};
use super::wire::{self, Door, Network};
use crate::borrowed::{Borrowed, Function};

/// What is sent each way.
const BYTES: usize = 64 << 20;
const PINGS: u32 = 5;

/// Who is on the other end of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// Another card of this machine, which gets this address, and the address that the guest takes.
    Own {
        /// The card.
        card: String,
        /// Its address.
        host: Network,
        /// The guest's address.
        guest: Network,
    },
    /// A network that was there before; the guest asks for an address if it is given none.
    Foreign {
        /// The guest's address.
        guest: Option<Network>,
        /// Whom to ping; otherwise the router, or this machine.
        peer: Option<Ipv4Addr>,
    },
}

/// What the stage needs to know.
#[derive(Debug, Clone)]
pub struct Script {
    /// The program.
    pub ferry: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs; see [`crate::image::demo_initramfs`].
    pub initramfs: PathBuf,
    /// The device to hand over.
    pub device: String,
    /// The other end.
    pub wire: Wire,
    /// How to print.
    pub style: Style,
    /// The number of the last heading so far.
    pub step: u32,
}

/// The addresses once they are known.
struct Addresses {
    /// Whom to ping.
    peer: Ipv4Addr,
    /// This machine's address on the wire, if it has one.
    own: Option<Ipv4Addr>,
}

/// Plays it.
pub fn play(script: &Script) -> Result<()> {
    let page = &mut Page::new(script.style, script.step);
    let function = Function::new(&script.device)?;
    let before = function.driver();
    let played = steps(script, function.clone(), page);
    if played.is_err() && before.is_some() && function.driver() == before {
        page.say("");
        page.say(&format!(
            "{} is with {} again.",
            function.short(),
            before.unwrap_or_default()
        ));
    }
    played
}

fn steps(script: &Script, function: Function, page: &mut Page) -> Result<()> {
    if matches!(script.wire, Wire::Foreign { .. }) {
        host::check(&function)?;
    }
    let faults = dma_faults()?;
    look(&function, page)?;
    let borrowed = lend(function, page)?;
    let own = set_up_wire(&script.wire, page)?;
    let mut guest = boot(script, &borrowed, page)?;
    prove_driver(&mut guest, &borrowed, page)?;
    let addresses = connect(&mut guest, &script.wire, own, page)?;
    ping(&mut guest, &addresses, page)?;
    match addresses.own {
        Some(own) => transfer(&mut guest, own, page)?,
        None => {
            page.heading("TCP through the assigned card: left out");
            page.say("This machine has no address of its own on that network, so nobody would answer the guest.");
        }
    }
    end(guest, borrowed, faults, page)?;
    page.close();
    Ok(())
}

fn look(function: &Function, page: &mut Page) -> Result<()> {
    page.heading(&format!("The machine that has {}", function.short()));
    let names = |folder: &str| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(folder).with_context(|| format!("no {folder}"))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let units = names("/sys/class/iommu")?;
    let groups = names("/sys/kernel/iommu_groups")?.len();
    page.say(&format!(
        "Linux {}, IOMMU {}, {groups} IOMMU groups, /dev/kvm",
        kernel.trim(),
        units.join(" ")
    ));
    if let Some(line) = lspci(function) {
        page.command(&format!("lspci -nn -s {}", function.short()));
        page.say(&line);
    }
    let driver = function.driver().unwrap_or_else(|| "none".to_owned());
    page.say(&format!(
        "driver {driver}, network interface {}, IOMMU group {}",
        function.interface().unwrap_or_else(|| "none".to_owned()),
        function.group().unwrap_or_else(|| "none".to_owned())
    ));
    Ok(())
}

/// The function's line, if this machine has lspci.
fn lspci(function: &Function) -> Option<String> {
    let output = Command::new("lspci")
        .args(["-nn", "-s", function.address()])
        .output()
        .ok()?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!line.is_empty()).then_some(line)
}

fn lend(function: Function, page: &mut Page) -> Result<Borrowed> {
    page.heading(&format!(
        "Taking {} from the host, for vfio-pci",
        function.short()
    ));
    for command in function.lending_commands() {
        page.command(&command);
    }
    let borrowed = Borrowed::new(function)?;
    let function = borrowed.function();
    page.check(
        function.interface().is_none(),
        &format!(
            "{} is on vfio-pci; the host has no network interface of it any more",
            function.short()
        ),
        "the interface is still there",
    )?;
    Ok(borrowed)
}

/// Gives this machine's card on the wire its address.
fn set_up_wire(wire: &Wire, page: &mut Page) -> Result<Option<Ipv4Addr>> {
    let Wire::Own { card, host, .. } = wire else {
        return Ok(None);
    };
    let card = Function::new(card)?;
    let interface = card
        .interface()
        .with_context(|| format!("{} has no network interface", card.short()))?;
    page.say("");
    page.say(&format!(
        "The other end of its wire, {}, stays with the host:",
        card.short()
    ));
    for command in [
        format!("ip address replace {host} dev {interface}"),
        format!("ip link set {interface} up"),
    ] {
        page.command(&command);
        let words: Vec<&str> = command.split(' ').collect();
        let (program, arguments) = words.split_at(1);
        let output = Command::new(program.concat()).args(arguments).output()?;
        if !output.status.success() {
            bail!(
                "{command}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(Some(host.address))
}

fn boot(script: &Script, borrowed: &Borrowed, page: &mut Page) -> Result<Guest> {
    let short = borrowed.function().short();
    page.heading(&format!("A guest that is given {short}"));
    let folder = std::env::temp_dir().join(format!("ferry-demo-{}.json", std::process::id()));
    let cmdline = "console=ttyS0 quiet panic=-1 ferry.run=ferry-demo";
    let options = [
        ("--kernel", script.kernel.display().to_string()),
        ("--initramfs", script.initramfs.display().to_string()),
        ("--cmdline", cmdline.to_owned()),
        ("--cpus", "2".to_owned()),
        ("--memory", "512M".to_owned()),
        ("--device", format!("host={short}")),
        ("--stats", folder.display().to_string()),
    ];
    let mut words = vec![script.ferry.display().to_string(), "run".to_owned()];
    page.command("ferry run \\");
    for (index, (name, value)) in options.iter().enumerate() {
        let end = if index + 1 < options.len() { " \\" } else { "" };
        let quote = if value.contains(' ') { "\"" } else { "" };
        page.say(&format!("      {name} {quote}{value}{quote}{end}"));
        words.extend([(*name).to_owned(), value.clone()]);
    }
    page.say("");
    page.say("Its console, live (in an emulated machine its first word takes some seconds):");
    let started = Instant::now();
    let mut guest = Guest::boot(&words, folder, page)?;
    let took = started.elapsed();
    let version = guest.run("uname -sr", page)?;
    let version = version.lines.concat();
    page.check(
        version.starts_with("Linux "),
        &format!("{version} is up after {:.1} s", took.as_secs_f64()),
        "the guest does not say what it is",
    )?;
    page.prove(format!(
        "{version} booted under Ferry with {short} of the host assigned."
    ));
    Ok(guest)
}

fn prove_driver(guest: &mut Guest, borrowed: &Borrowed, page: &mut Page) -> Result<()> {
    page.heading("The real driver has the real device");
    guest.run("lspci -nnk 2> /dev/null", page)?;
    guest.run(
        "dmesg | grep 0000:00: | grep -v -e 'BAR [0-9]' -e '^.*pci ' | tail -n 6",
        page,
    )?;
    let answer = guest.run("ethtool -i eth0", page)?;
    let Some(driver) = answer.field("driver") else {
        bail!(
            "the guest has no network card\n  why: none of its drivers took the card, see its console above\n  fix: ferry run with --cmdline 'console=ttyS0' shows what its kernel says"
        );
    };
    let expected = borrowed.driver().filter(|driver| *driver != "vfio-pci");
    page.check(
        expected.is_none_or(|expected| driver == expected),
        &format!("the driver that runs the card is the guest's own {driver}"),
        &format!("the host's driver was {}", expected.unwrap_or("another")),
    )?;
    page.prove(format!(
        "The guest's unmodified driver {driver} runs it, at {} in the guest.",
        answer.field("bus-info").unwrap_or("its address")
    ));
    Ok(())
}

/// Gives the guest its address and waits for the link.
fn connect(
    guest: &mut Guest,
    wire: &Wire,
    own: Option<Ipv4Addr>,
    page: &mut Page,
) -> Result<Addresses> {
    page.heading("Ping through the assigned card");
    let address = match wire {
        Wire::Own { guest, .. } => Some(*guest),
        Wire::Foreign { guest, .. } => *guest,
    };
    guest.run("ip link set eth0 up", page)?;
    let wait =
        "timeout 30 sh -c 'until grep -qs up /sys/class/net/eth0/operstate; do sleep 0.2; done'";
    if guest.run(wait, page)?.status != 0 {
        bail!(
            "the card has no link within 30 s\n  why: no cable, or nothing at its other end\n  fix: check the wire"
        );
    }
    let configure = address.map_or_else(
        || "udhcpc -i eth0 -n -q -t 8 -s /bin/ferry-demo-udhcpc".to_owned(),
        |address| format!("ip address add {address} dev eth0"),
    );
    if guest.run(&configure, page)?.status != 0 {
        bail!(
            "the guest got no address\n  why: {configure} failed\n  fix: give one with --address ADDRESS/LENGTH"
        );
    }
    let listing = guest.run("ip -o -4 address show dev eth0; ip route", page)?;
    let network = *wire::addresses(&listing.lines.join("\n"))
        .first()
        .context("the guest has no address")?;
    let own = match own {
        Some(own) => Some(own),
        None => wire::local_addresses()?
            .into_iter()
            .map(|local| local.address)
            .find(|local| network.contains(*local)),
    };
    let asked = match wire {
        Wire::Foreign { peer, .. } => *peer,
        Wire::Own { .. } => None,
    };
    let peer = asked.or_else(|| gateway(&listing)).or(own).context(
        "there is nobody to ping\n  why: the network named no router and this machine has no address on it\n  fix: name someone with --peer ADDRESS",
    )?;
    Ok(Addresses { peer, own })
}

/// The router, from the lines of `ip route`.
fn gateway(answer: &Answer) -> Option<Ipv4Addr> {
    let route = answer
        .lines
        .iter()
        .find_map(|line| line.strip_prefix("default via "))?;
    route.split_whitespace().next()?.parse().ok()
}

fn ping(guest: &mut Guest, addresses: &Addresses, page: &mut Page) -> Result<()> {
    let peer = addresses.peer;
    let answer = guest.run(&format!("ping -c {PINGS} -i 0.2 -W 2 {peer}"), page)?;
    let summary = answer
        .lines
        .iter()
        .find(|line| line.contains("packet loss"));
    let summary = summary.map_or("ping printed no summary", String::as_str);
    page.check(
        lossless(summary),
        &format!("{PINGS} of {PINGS} packets came back, 0% loss"),
        summary,
    )?;
    page.prove(format!("Ping to {peer}: {PINGS} of {PINGS} came back."));
    Ok(())
}

fn lossless(summary: &str) -> bool {
    summary.split(", ").any(|part| part == "0% packet loss")
        && summary.contains(&format!("{PINGS} packets received"))
}

fn transfer(guest: &mut Guest, own: Ipv4Addr, page: &mut Page) -> Result<()> {
    page.heading("64 MiB over TCP, there and back");
    let (there, back) = (Door::open(own)?, Door::open(own)?);
    let data = wire::random(BYTES)?;
    let expected = wire::sha256(&data)?;
    let command = format!(
        "nc {own} {} > /tmp/data && nc {own} {} < /tmp/data; sha256sum /tmp/data",
        there.port()?,
        back.port()?
    );
    guest.begin(&command, page)?;
    // From here until it has sent everything back the guest prints nothing.
    let stream = there.accept()?;
    let before = guest.figures()?;
    let started = Instant::now();
    wire::send(stream, &data)?;
    // The guest opens this connection when it has everything from the other.
    let stream = back.accept()?;
    let into = wire::rate(BYTES, started.elapsed());
    let started = Instant::now();
    let equal = wire::receive(stream, &data)?;
    let out = wire::rate(BYTES, started.elapsed());
    let after = guest.figures()?;
    let answer = guest.end("sha256sum", Duration::from_secs(120), page)?;
    page.command("sha256sum < what was sent");
    page.say(&expected);
    page.check(
        equal && answer.lines.iter().any(|line| line.starts_with(&expected)),
        &format!(
            "not a bit was lost: host to guest {into:.0} Mbit/s, guest to host {out:.0} Mbit/s"
        ),
        "the SHA-256 of the guest, or what came back, differs",
    )?;
    page.prove(format!(
        "64 MiB each way over TCP with equal SHA-256: {into:.0} Mbit/s in, {out:.0} Mbit/s out."
    ));
    let interrupts = added(&before.interrupts, &after.interrupts);
    costs(
        guest,
        &interrupts,
        &added(&before.exits, &after.exits),
        page,
    )
}

fn costs(guest: &mut Guest, interrupts: &Counts, exits: &Counts, page: &mut Page) -> Result<()> {
    page.heading("What the transfer cost");
    page.say("Interrupts while it ran, as the host counted them (ferry --stats, on SIGUSR1 before and after):");
    for (vector, count) in interrupts {
        page.say(&format!("  {vector}: {count:>7}"));
    }
    guest.run("grep -e CPU -e eth0 /proc/interrupts", page)?;
    let delivered: u64 = interrupts.values().sum();
    page.check(
        delivered > 0,
        &format!("{delivered} interrupts of the card went to the guest by KVM's irqfd, none by way of Ferry"),
        "the host counted no interrupt of the device",
    )?;
    page.say("(The guest counts fewer: one that comes while its vector is still pending is no second one to it.)");
    let total: u64 = exits.values().sum();
    let listed: Vec<String> = exits
        .iter()
        .map(|(name, count)| format!("{name}: {count}"))
        .collect();
    page.say("");
    page.say("A VMM that emulates a card is entered at every access to it. Ferry maps the card's registers into the guest,");
    page.say("the IOMMU translates its DMA, KVM delivers its interrupts: Ferry itself has nothing to do.");
    page.check(
        total == 0,
        "0 exits to user space while 128 MiB crossed the wire",
        &format!("there were {total} ({})", listed.join(", ")),
    )?;
    page.prove(format!(
        "{delivered} interrupts and 0 exits to user space during that transfer."
    ));
    Ok(())
}

fn end(mut guest: Guest, borrowed: Borrowed, faults: usize, page: &mut Page) -> Result<()> {
    page.heading("The end: power off, and give the card back");
    guest.begin("poweroff -f", page)?;
    let code = guest.exit(page)?;
    page.check(
        code == Some(0),
        "the guest powered off, Ferry's exit code is 0",
        &format!("Ferry's exit code is {code:?}"),
    )?;
    let wanted = borrowed.driver().unwrap_or("no driver").to_owned();
    let function = borrowed.give_back()?;
    page.check(
        true,
        &format!("{} is back on {wanted}", function.short()),
        "",
    )?;
    page.prove(format!(
        "The guest powered off; {} went back to {wanted}.",
        function.short()
    ));
    let more = dma_faults()?.saturating_sub(faults);
    page.check(
        more == 0,
        "the IOMMU refused no access of the card: all its DMA stayed inside the guest's memory",
        &format!("the kernel logged {more} DMA faults; see dmesg"),
    )?;
    page.prove("The IOMMU translated all of the card's DMA and logged no fault.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_summary_without_loss_is_lossless() {
        let summary = |text: &str| lossless(text);
        assert!(summary(
            "5 packets transmitted, 5 packets received, 0% packet loss"
        ));
        assert!(!summary(
            "5 packets transmitted, 0 packets received, 100% packet loss"
        ));
        assert!(!summary(
            "5 packets transmitted, 4 packets received, 20% packet loss"
        ));
        assert!(!summary(
            "0 packets transmitted, 0 packets received, 0% packet loss"
        ));
    }

    #[test]
    fn router_is_read_from_the_routes() {
        let answer = |lines: &[&str]| Answer {
            status: 0,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let routes = answer(&["default via 10.0.0.1 dev eth0", "10.0.0.0/24 dev eth0"]);
        assert_eq!(gateway(&routes), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(gateway(&answer(&["10.0.0.0/24 dev eth0"])), None);
    }
}
