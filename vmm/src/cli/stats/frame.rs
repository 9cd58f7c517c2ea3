//! What the screen of `ferry stats --watch` shows: its devices at the top, what left the guest below, what it takes up last.

mod rates;

use crate::cli::info::span;
use rates::{Count, Rates};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The narrowest and the widest column of names.
const NAMES: (usize, usize) = (30, 72);
/// Of numbers by the second, and of those in all.
const NUMBERS: (usize, usize) = (14, 18);

/// The guest at one time.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) info: Value,
    pub(super) stats: Value,
}

/// A screen's contents, for any size of it.
pub(super) struct Frame {
    lines: Vec<Line>,
}

/// A line, and how soon it is left out where there is no room: those of rank 0 never, those of a higher one sooner.
struct Line {
    rank: usize,
    content: Content,
}

enum Content {
    Text(String),
    Heads,
    Row(Count),
}

/// Ranks of lines: what is always there, the first of the details, and the blank ones, which are worth more than what is the
/// fourth of its kind.
const ALWAYS: usize = 0;
const DETAIL: usize = 1;
const BLANK: usize = 4;

/// KVM's statistics of vCPUs that say most, as people call them.
const OF_KVM: [(&str, &str); 6] = [
    ("halt_exits", "halts"),
    ("irq_exits", "interrupts of the host"),
    ("irq_injections", "interrupts given to the guest"),
    ("pf_taken", "page faults that KVM served"),
    ("mmio_exits", "memory accesses"),
    ("io_exits", "port accesses"),
];

impl Frame {
    /// Of the guest called `label`; rates since `before`.
    pub(super) fn new(label: &str, before: Option<&Look>, now: &Look) -> Self {
        let seconds = before.map_or(1.0, |before| (now.at - before.at).as_secs_f64().max(0.001));
        let rates = Rates::new(before.map(|before| &before.stats), &now.stats, seconds);
        let mut frame = Self { lines: Vec::new() };
        frame.text(title(label, now));
        frame.line(ALWAYS, Content::Heads);
        frame.devices(&rates, &now.stats);
        frame.blank();
        frame.kvm(&rates);
        frame.row(rates.of("total", "exits", "EXITS TO FERRY"));
        frame.details(rates.busiest("exits"), |name| format!("  {name}"));
        frame.blank();
        frame.text(dma(&now.stats));
        frame.text(footing(&now.stats));
        frame
    }

    /// Says in place of its state that the guest called `label` has not answered for so long.
    pub(super) fn tell_silence(&mut self, label: &str, silent: Duration) {
        if let Some(title) = self.lines.first_mut() {
            let seconds = span(silent.as_secs());
            title.content = Content::Text(format!("{label}   NO ANSWER FOR {seconds}"));
        }
    }

    fn line(&mut self, rank: usize, content: Content) {
        self.lines.push(Line { rank, content });
    }

    fn text(&mut self, text: String) {
        self.line(ALWAYS, Content::Text(text));
    }

    fn blank(&mut self) {
        self.line(BLANK, Content::Text(String::new()));
    }

    fn row(&mut self, count: Count) {
        self.line(ALWAYS, Content::Row(count));
    }

    /// Rows of which the busiest are left out last, in an order that does not change with each look.
    fn details(&mut self, busiest: Vec<Count>, name: impl Fn(&str) -> String) {
        let mut ranked: Vec<_> = busiest.into_iter().enumerate().collect();
        ranked.sort_by(|(_, a), (_, b)| a.order.cmp(&b.order));
        for (nth, mut count) in ranked {
            count.name = name(&count.name);
            self.line(DETAIL + nth, Content::Row(count));
        }
    }

    fn devices(&mut self, rates: &Rates, stats: &Value) {
        let devices = stats["devices"].as_array().map_or(&[][..], Vec::as_slice);
        if devices.is_empty() {
            self.text("NO DEVICES".to_owned());
        }
        for device in devices {
            let id = device["id"].as_str().unwrap_or("?");
            self.text(heading(device));
            self.row(rates.of("interrupts", id, "  interrupts"));
            self.details(rates.busiest(&format!("{id} vectors")), |name| {
                format!("    {name}")
            });
            self.row(rates.of("traps", id, "  trapped accesses"));
            let places = rates.busiest(&format!("{id} traps"));
            // Those of when its driver was loaded say nothing any more.
            let now = places.into_iter().filter(|place| place.rate > 0.0);
            self.details(now.collect(), |name| format!("    {name}"));
        }
    }

    /// Not there on a kernel without statistics.
    fn kvm(&mut self, rates: &Rates) {
        if !rates.has("kvm", "exits") {
            return;
        }
        self.row(rates.of("kvm", "exits", "EXITS OF THE GUEST"));
        for (nth, (name, words)) in OF_KVM.into_iter().enumerate() {
            if rates.has("kvm", name) {
                let count = rates.of("kvm", name, &format!("  {words}"));
                self.line(DETAIL + nth, Content::Row(count));
            }
        }
        self.blank();
    }

    /// As much as a screen of this size has room for, its last line among it.
    pub(super) fn lines(&self, rows: usize, columns: usize) -> Vec<String> {
        let mut chosen: Vec<_> = self.lines.iter().enumerate().collect();
        chosen.sort_by_key(|(_, line)| line.rank);
        let last = (self.lines.len().saturating_sub(1), self.lines.last());
        if let (at, Some(line)) = last
            && chosen.iter().skip(rows).any(|(other, _)| *other == at)
        {
            // More that is always there than room; the way out is told all the same.
            chosen.truncate(rows.saturating_sub(1));
            chosen.push((at, line));
        }
        chosen.truncate(rows);
        chosen.sort_by_key(|(at, _)| *at);
        let room = columns.saturating_sub(NUMBERS.0 + NUMBERS.1);
        let width = room.clamp(NAMES.0, NAMES.1);
        let lines = chosen.into_iter();
        lines.map(|(_, line)| line.written(width)).collect()
    }
}

impl Line {
    fn written(&self, width: usize) -> String {
        match &self.content {
            Content::Text(text) => text.clone(),
            Content::Heads => columns("", "a second", "in all", width),
            Content::Row(count) => {
                columns(&count.name, &rate(count.rate), &whole(count.total), width)
            }
        }
    }
}

fn columns(name: &str, a_second: &str, in_all: &str, width: usize) -> String {
    let name: String = name.chars().take(width).collect();
    let (seconds, all) = NUMBERS;
    format!("{name:<width$}{a_second:>seconds$}{in_all:>all$}")
}

/// A number that can be read: by thousands.
fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What is less than ten has a decimal, so that a little is not taken for nothing.
fn rate(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive, and for the eye"
    )]
    let rounded = rate.round() as u64;
    match rate {
        0.0 => "0".to_owned(),
        _ if rate < 9.95 => format!("{rate:.1}"),
        _ => whole(rounded),
    }
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", whole(count))
}

fn title(label: &str, now: &Look) -> String {
    let state = now.info["state"].as_str().unwrap_or("?").to_uppercase();
    format!(
        "{label}   {state}   up {}   boot {}   {}   {} MiB",
        span(number(&now.stats, "/uptime") / 1_000_000),
        number(&now.stats, "/boots"),
        counted(number(&now.info, "/config/cpus/boot_vcpus"), "vCPU"),
        whole(number(&now.info, "/memory_actual_size") >> 20),
    )
}

fn heading(device: &Value) -> String {
    let word = |key: &str| device[key].as_str().unwrap_or("?");
    let (id, host) = (word("id"), word("host"));
    // Once, where it has no other name.
    let host = if id == host {
        String::new()
    } else {
        format!("{host} ")
    };
    let armed = device["armed_vectors"].as_array().map_or(0, Vec::len);
    format!(
        "DEVICE {id}   {}   {} armed   {host}as {}",
        counted(number(device, "/errors"), "error"),
        counted(armed as u64, "vector"),
        word("guest"),
    )
}

fn dma(stats: &Value) -> String {
    let pages = |size: &str| number(stats, &format!("/kvm/vm/pages_{size}"));
    let pages = match stats.pointer("/kvm/vm") {
        Some(_) => format!(
            "   pages {} of 4 KiB, {} of 2 MiB, {} of 1 GiB",
            whole(pages("4k")),
            whole(pages("2m")),
            whole(pages("1g"))
        ),
        None => String::new(),
    };
    format!(
        "DMA {} MiB in {}{pages}",
        whole(number(stats, "/dma/bytes") >> 20),
        counted(number(stats, "/dma/mappings"), "mapping"),
    )
}

fn footing(stats: &Value) -> String {
    format!(
        "FERRY peak {} MiB   {}   {}   q leaves",
        whole(number(stats, "/memory/peak_rss_without_guest_ram") >> 20),
        counted(number(stats, "/kvm/memslots"), "memslot"),
        counted(number(stats, "/kvm/gsis"), "GSI"),
    )
}

#[cfg(test)]
mod tests;
