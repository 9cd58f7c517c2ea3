use super::*;
use crate::events::RebootReason;
use rustix::fs::{Mode, OFlags, fcntl_getfl, mkfifoat, open};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

fn reboot(boots: u64) -> Event {
    Event::GuestReboot {
        why: RebootReason::Api,
        boots,
    }
}

/// Lines that are whole, as objects.
fn parsed(text: &str) -> Vec<Value> {
    assert!(text.ends_with('\n'), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What is in a FIFO now.
fn drain(reader: &mut File) -> String {
    let mut bytes = Vec::new();
    // It ends with an error when the FIFO is empty, since Ferry might write more.
    let _ = reader.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn fifo(folder: &Path) -> (EventMonitor, File) {
    let path = folder.join("fifo");
    mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    // Nobody reads yet, and that is no error.
    let monitor = EventMonitor::new(EventOutput::open(&path).unwrap(), Instant::now());
    let reader = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    (monitor, reader.into())
}

/// Tells events until some are dropped; gives how many were told.
fn overflow(monitor: &EventMonitor) -> u64 {
    let dropped = || monitor.writer.as_ref().unwrap().borrow().dropped;
    let mut told = 0;
    while dropped() < 3 {
        told += 1;
        assert!(told < 100_000);
        monitor.tell(&reboot(told));
    }
    told
}

#[test]
fn a_line_has_the_time_of_day_and_since_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    fs::write(&path, "{\"event\":\"of another run\"}\n").unwrap();
    let monitor = EventMonitor::new(EventOutput::open(&path).unwrap(), Instant::now());
    monitor.tell(&reboot(2));
    monitor.end(&reboot(3));
    let text = fs::read_to_string(&path).unwrap();
    let lines = parsed(&text);
    assert_eq!(lines.len(), 3, "it is appended to: {text}");
    assert_eq!(
        (&lines[1]["event"], &lines[1]["boots"]),
        (&"guest_reboot".into(), &2.into())
    );
    let [first, second] = [1, 2].map(|line| lines[line]["uptime"].as_u64().unwrap());
    assert!(first <= second && second < 60_000_000, "{text}");
    let timestamp = lines[1]["timestamp"].as_str().unwrap();
    assert!(
        timestamp.starts_with("20") && timestamp.len() == 27,
        "{timestamp}"
    );
    assert!(lines[1].get("dropped").is_none());
}

#[test]
fn times_are_those_of_rfc_3339() {
    let at = |micros| rfc3339(UNIX_EPOCH + Duration::from_micros(micros));
    assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
    assert_eq!(at(1_709_209_845_000_012), "2024-02-29T12:30:45.000012Z");
}

#[test]
fn what_a_slow_reader_has_no_room_for_is_counted_in_the_next_line() {
    let folder = tempfile::tempdir().unwrap();
    let (monitor, mut reader) = fifo(folder.path());
    let told = overflow(&monitor);
    let mut text = drain(&mut reader);
    monitor.go_on();
    text += &drain(&mut reader);
    monitor.tell(&reboot(told + 1));
    text += &drain(&mut reader);
    let lines = parsed(&text);
    let boots = |line: &Value| line["boots"].as_u64().unwrap();
    let (last, kept) = lines.split_last().unwrap();
    let expected: Vec<_> = (1..=told - 3).collect();
    assert_eq!(kept.iter().map(boots).collect::<Vec<_>>(), expected);
    assert!(kept.iter().all(|line| line.get("dropped").is_none()));
    assert_eq!((boots(last), &last["dropped"]), (told + 1, &3.into()));
    // What waits is bounded: what the pipe holds, and as much again.
    assert!(text.len() < 2 * WAITING_MAX + 4096, "{}", text.len());
}

#[test]
fn the_last_event_waits_for_a_slow_reader_but_not_long() {
    let folder = tempfile::tempdir().unwrap();
    let (monitor, mut reader) = fifo(folder.path());
    overflow(&monitor);
    let started = Instant::now();
    monitor.end(&reboot(0));
    let took = started.elapsed();
    assert!(took >= LAST_WAIT && took < 10 * LAST_WAIT, "{took:?}");
    // The same with one that reads on.
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        while !text.contains(&format!("\"boots\":{}}}", u64::MAX)) {
            std::thread::sleep(Duration::from_millis(1));
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes);
            text += &String::from_utf8(bytes).unwrap();
        }
        text
    });
    monitor.end(&reboot(u64::MAX));
    let text = read.join().unwrap();
    assert_eq!(parsed(&text).last().unwrap()["boots"], u64::MAX);
}

/// The writing end of what `reader` reads from is not made to wait, and a reader that goes ends the monitor.
fn ends_with_its_reader(writer: OwnedFd, reader: impl Read) {
    let monitor = EventMonitor::new(EventOutput::passed(writer).unwrap(), Instant::now());
    overflow(&monitor);
    drop(reader);
    for boots in 0..3 {
        monitor.tell(&reboot(boots));
    }
    monitor.end(&reboot(3));
    let writer = monitor.writer.as_ref().unwrap().borrow();
    assert!(writer.ended && writer.waiting.is_empty());
}

#[test]
fn a_reader_that_goes_ends_the_monitor_and_nothing_else() {
    let (reader, writer) = std::io::pipe().unwrap();
    ends_with_its_reader(writer.into(), reader);
    let (reader, writer) = UnixStream::pair().unwrap();
    ends_with_its_reader(writer.into(), reader);
}

#[test]
fn lines_wait_for_a_full_disk_and_the_end_does_not() {
    let full = EventOutput::open(Path::new("/dev/full")).unwrap();
    let monitor = EventMonitor::new(full, Instant::now());
    monitor.tell(&reboot(2));
    let started = Instant::now();
    monitor.end(&reboot(3));
    assert!(started.elapsed() < LAST_WAIT);
    let writer = monitor.writer.as_ref().unwrap().borrow();
    assert!(!writer.ended && writer.waiting.len() == 2);
}

#[test]
fn a_pipe_that_others_write_to_as_well_stays_as_it_is_for_them() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let passed = writer.try_clone().unwrap();
    let _output = EventOutput::passed(passed.into()).unwrap();
    assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
}
