//! `--event-monitor`: what a program is told of a guest's life, and that nobody waits for it.

use crate::small;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::TempDir;
use tests::site::{self, Kernel};
use tests::{Api, GUEST_RAM, Guest, MOMENT, Run, until};

/// A place for a file or FIFO with events.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("events")
    }

    /// A FIFO there, open for reading and, so that it exists without Ferry, for writing.
    fn fifo(&self) -> File {
        mkfifoat(CWD, self.path(), Mode::RUSR | Mode::WUSR).unwrap();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(self.path(), flags, Mode::empty()).unwrap().into()
    }

    fn of(&self, run: Run) -> Run {
        run.option("--event-monitor", self.path())
    }

    /// All that is in the file.
    fn events(&self) -> Vec<Value> {
        parsed(&fs::read_to_string(self.path()).unwrap())
    }
}

/// Lines as objects; the last one is whole, too.
fn parsed(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let lines = text.lines().map(serde_json::from_str);
    lines.map(Result::unwrap).collect()
}

/// What happened, without when.
fn timeless(events: &[Value]) -> Vec<Value> {
    let mut last = 0;
    let mut rest = Vec::new();
    for event in events {
        let mut event = event.clone();
        let fields = event.as_object_mut().unwrap();
        let uptime = fields.remove("uptime").unwrap().as_u64().unwrap();
        assert!(uptime >= last, "{events:#?}");
        last = uptime;
        let timestamp = fields.remove("timestamp").unwrap();
        let timestamp = timestamp.as_str().unwrap();
        let form = timestamp.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(form, "0000-00-00T00:00:00.000000Z");
        rest.push(event);
    }
    rest
}

fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["event"].as_str());
    names.map(Option::unwrap).collect()
}

/// What a FIFO holds now.
fn drain(fifo: &mut File) -> String {
    let mut bytes = Vec::new();
    // The end is an error: Ferry or the test itself may write more.
    let _ = fifo.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

/// Fills a FIFO.
fn fill(fifo: &mut File) {
    let mut filled = 0;
    while let Ok(count) = fifo.write(b"\n") {
        filled += count;
    }
    assert!(filled >= 4096);
}

/// A guest that panics at [`panic`].
fn fragile(place: &Place, kernel: Kernel) -> Run {
    place.of(Run::new(kernel).modules("pvpanic_mmio"))
}

fn panic(guest: &mut Guest) {
    guest.begin("echo c > /proc/sysrq-trigger");
}

#[test]
fn a_guests_life_with_a_device_is_told_in_its_order() {
    let (place, api) = (Place::new(), Api::new());
    let nic = site::device("nic").assign();
    let run = Run::new(Kernel::Elf)
        .cpus(2)
        .modules("igb")
        .cmdline("loglevel=1")
        .device(&nic, ",addr=6,id=nic0");
    let mut guest = api.of(place.of(run)).boot();
    let pid = guest.ferry().pid();
    guest.begin("reboot -f");
    guest.wait_for_shell();
    api.ok(&["reboot"]);
    guest.wait_for_shell();
    let address = nic.address().to_owned();
    let unbound = thread::spawn({
        let address = address.clone();
        move || fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", address)
    });
    until("the end of the device in the guest", MOMENT, || {
        names(&place.events())
            .contains(&"device_removed")
            .then_some(())
    });
    unbound.join().unwrap().unwrap();
    nic.give_back();
    assert_eq!(guest.power_off(), 0);

    let mut told = timeless(&place.events());
    // The host may have said it more than once.
    told.dedup();
    let version = told[0]["version"].clone();
    let device = |mut rest: Value, event: &str| {
        rest["event"] = event.into();
        rest["id"] = "nic0".into();
        rest["host"] = address.clone().into();
        rest["guest"] = "0000:00:06.0".into();
        rest
    };
    let mut in_slot = device(json!({}), "");
    in_slot.as_object_mut().unwrap().remove("event");
    let expected = [
        json!({"event": "started", "version": version, "pid": pid, "cpus": 2, "memory": GUEST_RAM}),
        device(json!({"how": "start"}), "device_added"),
        json!({"event": "guest_reboot", "why": "acpi_reset", "boots": 2}),
        json!({"event": "guest_reboot", "why": "api", "boots": 3}),
        device(json!({}), "request_interrupt"),
        json!({"event": "eject_requested", "devices": [in_slot], "why": "host"}),
        device(json!({"how": "ejected", "errors": 0}), "device_removed"),
        json!({"event": "shutdown", "outcome": "powered_off", "exit_code": 0}),
    ];
    assert_eq!(told, expected, "{told:#?}");
}

/// With `panic=-1`, as all guests here have it, the kernel resets itself right after that: the panic came first.
#[test]
fn a_panic_ends_the_guest_with_an_exit_code_of_its_own() {
    for kernel in [Kernel::Elf, Kernel::Older] {
        let place = Place::new();
        let mut guest = fragile(&place, kernel).cpus(2).boot();
        panic(&mut guest);
        assert_eq!(guest.ferry_mut().exit(MOMENT), 16, "{kernel:?}");
        let errors = guest.ferry().errors().text();
        assert_eq!(errors, "ferry: the guest's kernel panicked\n");
        let told = timeless(&place.events());
        let expected = [
            json!({"event": "panic", "what": "panicked", "then": "stop"}),
            json!({"event": "shutdown", "outcome": "panicked", "exit_code": 16}),
        ];
        assert_eq!(told[1..], expected, "{kernel:?}");
    }
}

#[test]
fn a_guest_can_be_booted_again_after_its_panic() {
    let place = Place::new();
    let mut guest = fragile(&place, Kernel::Elf)
        .option("--on-panic", "reboot")
        .boot();
    panic(&mut guest);
    guest.wait_for_shell();
    assert_eq!(guest.power_off(), 0);
    let told = timeless(&place.events());
    let expected = [
        json!({"event": "panic", "what": "panicked", "then": "reboot"}),
        json!({"event": "guest_reboot", "why": "panic", "boots": 2}),
        json!({"event": "shutdown", "outcome": "powered_off", "exit_code": 0}),
    ];
    assert_eq!(told[1..], expected);
}

#[test]
fn a_guest_whose_panic_is_only_reported_does_what_its_kernel_was_told_to() {
    let place = Place::new();
    let mut guest = fragile(&place, Kernel::Elf)
        .option("--on-panic", "report")
        .flag("--no-reboot")
        .boot();
    // What a kernel writes that hands over to a crash kernel, which this guest has none of.
    for _ in 0..3 {
        guest.ok("printf '\\2' | dd of=/dev/port bs=1 seek=$((0x505)) count=1 2>/dev/null");
    }
    panic(&mut guest);
    assert_eq!(guest.ferry_mut().exit(MOMENT), 12);
    let told = timeless(&place.events());
    let expected = [
        json!({"event": "panic", "what": "crash_loaded", "then": "report"}),
        json!({"event": "panic", "what": "panicked", "then": "report"}),
        json!({"event": "shutdown", "outcome": "reset", "exit_code": 12}),
    ];
    assert_eq!(told[1..], expected);
}

#[test]
fn a_reader_that_does_not_read_stalls_nobody_and_gets_all_when_it_does() {
    let place = Place::new();
    let mut fifo = place.fifo();
    fill(&mut fifo);
    let mut guest = place.of(small()).boot();
    guest.begin("reboot -f");
    guest.wait_for_shell();
    guest.ok("true");
    // Nothing happens to the guest any more: that there is room again is enough.
    let mut text = drain(&mut fifo);
    until("the events that waited", MOMENT, || {
        text += &drain(&mut fifo);
        text.contains("guest_reboot").then_some(())
    });
    fill(&mut fifo);
    assert_eq!(guest.power_off(), 0);
    let errors = guest.ferry().errors().text();
    assert!(errors.contains("were not read in time"), "{errors}");
    assert_eq!(
        names(&parsed(text.trim_start())),
        ["started", "guest_reboot"]
    );
}

#[test]
fn a_reader_that_goes_away_takes_nothing_with_it() {
    let place = Place::new();
    mkfifoat(CWD, place.path(), Mode::RUSR | Mode::WUSR).unwrap();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut reader: File = open(place.path(), flags, Mode::empty()).unwrap().into();
    let pass = format!("exec 5>{}; exec \"$@\"", quoted(&place.path()));
    let mut guest = small()
        .option("--event-monitor", "fd=5")
        .through(&["sh", "-c", &pass, "sh"])
        .boot();
    assert_eq!(names(&parsed(&drain(&mut reader))), ["started"]);
    drop(reader);
    for _ in 0..2 {
        guest.begin("reboot -f");
        guest.wait_for_shell();
    }
    assert_eq!(guest.power_off(), 0);
    let errors = guest.ferry().errors().text();
    assert_eq!(
        errors,
        "ferry: warn: --event-monitor: no more events are told: the reader is gone\n"
    );
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
