//! Screens of different sizes.

use super::*;
use serde_json::json;

fn device(id: &str, interrupts: u64, traps: u64) -> Value {
    json!({
        "id": id, "host": "0000:01:00.0", "guest": "0000:00:01.0", "errors": 0, "armed_vectors": [0, 1, 10],
        "interrupts": {"msix": {"0": interrupts, "1": 0, "2": 40, "10": 50}},
        "dma": {"mappings": 1, "bytes": 512 << 20},
        "bar_traps": [
            {"bar": "BAR 3", "offset": "0x8", "reads": 0, "writes": 12},
            {"bar": "BAR 3", "offset": "0x10", "reads": 0, "writes": traps},
        ],
    })
}

fn look(at: Instant, exits: u64, interrupts: u64, traps: u64) -> Look {
    Look {
        at,
        info: json!({"state": "Running", "memory_actual_size": 512 << 20, "config": {"cpus": {"boot_vcpus": 1}}}),
        stats: json!({
            "uptime": 5_000_000, "boots": 1,
            "vcpus": [{"exits": exits + 1, "others": {"interrupted": 1}, "accesses": [
                {"access": "port_write", "range": "serial 0x3f8", "count": exits}],
                "kvm": {"exits": 1_234_567 + exits, "halt_exits": 50, "irq_injections": 60}}],
            "devices": [device("nic0", interrupts, traps)],
            "kvm": {"memslots": 3, "gsis": 2, "vm": {"pages_4k": 1200, "pages_2m": 7}},
            "dma": {"mappings": 1, "bytes": 512 << 20},
            "memory": {"peak_rss_without_guest_ram": 9 << 20}
        }),
    }
}

/// Two looks, two seconds apart.
fn frame() -> Frame {
    let start = Instant::now();
    let before = look(start, 100, 1000, 20);
    let now = look(start + Duration::from_secs(2), 300, 1500, 23);
    Frame::new("web1", Some(&before), &now)
}

#[test]
fn a_guest_that_is_silent_keeps_its_figures_on_the_screen() {
    let mut frame = frame();
    let before = frame.lines(24, 80);
    frame.tell_silence("web1", Duration::from_millis(3_400));
    let lines = frame.lines(24, 80);
    assert_eq!(lines[0], "web1   NO ANSWER FOR 3 s");
    assert_eq!(lines[1..], before[1..]);
}

#[test]
fn a_screen_shows_devices_first_then_rates_and_totals() {
    let lines = frame().lines(24, 80);
    let expected = "\
web1   RUNNING   up 5 s   boot 1   1 vCPU   512 MiB
                                                      a second            in all
DEVICE nic0   0 errors   3 vectors armed   0000:01:00.0 as 0000:00:01.0
  interrupts                                               250             1,590
    msix 0                                                 250             1,500
    msix 2                                                   0                40
    msix 10                                                  0                50
  trapped accesses                                         1.5                35
    BAR 3 0x10 write                                       1.5                23

EXITS OF THE GUEST                                         100         1,234,867
  halts                                                      0                50
  interrupts given to the guest                              0                60

EXITS TO FERRY                                             100               301
  interrupted                                                0                 1
  port write serial 0x3f8                                  100               300

DMA 512 MiB in 1 mapping   pages 1,200 of 4 KiB, 7 of 2 MiB, 0 of 1 GiB
FERRY peak 9 MiB   3 memslots   2 GSIs   q leaves";
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
}

#[test]
fn the_least_busy_and_the_blank_lines_go_first_where_there_is_no_room() {
    let frame = frame();
    let lines = frame.lines(12, 80);
    assert_eq!(lines.len(), 12);
    assert!(lines.iter().all(|line| !line.is_empty()), "{lines:#?}");
    let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    assert!(
        has(&lines, "msix 0 ") && !has(&lines, "msix 2 "),
        "{lines:#?}"
    );
    assert!(has(&lines, "halts") && !has(&lines, "given"), "{lines:#?}");
    // Too small for what is always there: the way out is shown.
    let lines = frame.lines(4, 80);
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("RUNNING") && lines[3].ends_with("q leaves"));
    assert_eq!(frame.lines(1, 80).len(), 1);
}

#[test]
fn a_wide_screen_has_room_for_long_names() {
    let lines = frame().lines(24, 200);
    let heads = lines[1].chars().count();
    assert_eq!(heads, NAMES.1 + NUMBERS.0 + NUMBERS.1);
    // Fewer columns than the figures need cut the names, and the terminal's edge what is left.
    let lines = frame().lines(24, 20);
    assert!(lines[3].starts_with("  interrupts "));
}

#[test]
fn the_first_screen_has_no_rates_yet() {
    let lines = Frame::new("web1", None, &look(Instant::now(), 100, 1000, 20)).lines(24, 80);
    let exits = lines.iter().find(|line| line.starts_with("EXITS TO FERRY"));
    let words: Vec<_> = exits.unwrap().split_whitespace().collect();
    assert_eq!(words[3..], ["0", "101"]);
    assert!(
        !lines.iter().any(|line| line.contains("BAR 3")),
        "{lines:#?}"
    );
}

#[test]
fn a_kernel_without_statistics_has_no_lines_for_them() {
    let mut now = look(Instant::now(), 100, 1000, 20);
    now.stats["kvm"].as_object_mut().unwrap().remove("vm");
    now.stats["vcpus"][0].as_object_mut().unwrap().remove("kvm");
    now.stats["devices"] = json!([]);
    let lines = Frame::new("web1", None, &now).lines(24, 80);
    assert_eq!(lines[2], "NO DEVICES");
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("GUEST") || line.contains("pages"))
    );
}
