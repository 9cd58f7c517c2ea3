//! Looking at a guest, pausing and rebooting it.

use crate::{served, small};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};
use tests::site::{self, Kernel};
use tests::{Api, GUEST_RAM, Guest, MOMENT, Peer, Run, figure, shell, until};

/// How long guests are paused here: longer than the second that a clock may be behind.
const PAUSE: Duration = Duration::from_secs(5);

fn uptime(guest: &mut Guest) -> f64 {
    let text = guest.ok("cat /proc/uptime");
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_guest_tells_what_it_is_made_of() {
    let nic = site::device("nic").assign();
    let api = Api::new();
    let mut guest = api
        .of(Run::new(Kernel::Elf)
            .cpus(2)
            .device(&nic, ",id=nic0,addr=6"))
        .boot();
    let info = api.info();
    assert_eq!(info["state"], "Running");
    assert_eq!(info["config"]["cpus"]["boot_vcpus"], 2);
    assert_eq!(info["config"]["memory"]["size"], GUEST_RAM);
    assert_eq!(info["memory_actual_size"], GUEST_RAM);
    let kernel = Kernel::Elf.path();
    assert_eq!(
        info["config"]["payload"]["kernel"],
        kernel.to_str().unwrap()
    );
    let path = format!("/sys/bus/pci/devices/{}", nic.address());
    let device = json!({"path": path, "id": "nic0", "iommu": false, "pci_segment": 0});
    assert_eq!(info["config"]["devices"], json!([device]));
    assert_eq!(info["device_tree"]["nic0"]["pci_bdf"], "0000:00:06.0");
    let (status, ping) = api.request("GET", "vmm.ping", "");
    assert_eq!((status, &ping["pid"]), (200, &json!(guest.ferry().pid())));
    let (_, counters) = api.request("GET", "vm.counters", "");
    assert!(counters["_vcpu1"]["exits"].as_u64() > Some(0), "{counters}");
    assert!(counters["nic0"]["errors"] == 0, "{counters}");
    assert_eq!(api.stats()["devices"][0]["host"], nic.address());
    let text = api.ok(&["info"]);
    assert!(text.contains("nic0") && text.contains("running"), "{text}");
    guest.stop();
}

/// Whatever it keeps time by: the paravirtual clock, or the processor's time stamp counter.
#[test]
fn a_paused_guests_clocks_stand_still() {
    for clock in ["kvm-clock", "tsc"] {
        let api = Api::new();
        let run = small().cpus(2).cmdline("tsc=reliable");
        let mut guest = api.of(run.cmdline(&format!("clocksource={clock}"))).boot();
        let source = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
        assert_eq!(guest.ok(source).trim(), clock);
        let (before, started) = (uptime(&mut guest), Instant::now());
        api.ok(&["pause"]);
        assert_eq!(api.info()["state"], "Paused");
        thread::sleep(PAUSE);
        api.ok(&["resume"]);
        let (passed, real) = (uptime(&mut guest) - before, started.elapsed().as_secs_f64());
        figure(&format!(
            "{clock}: {passed:.2} s in the guest, {real:.2} s outside"
        ));
        assert!(
            passed > 0.0 && passed < real - PAUSE.as_secs_f64() + 0.5,
            "{clock}: {passed} of {real}"
        );
        assert_eq!(api.info()["state"], "Running");
        // A watchdog that saw the gap would have said so.
        let log = guest.ok("dmesg | grep -icE 'soft lockup|stall|unstable' || true");
        assert_eq!(log.trim(), "0");
        guest.stop();
    }
}

#[test]
fn a_paused_guest_loses_no_packet() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let api = Api::new();
    let run = Run::new(Kernel::Elf)
        .cpus(2)
        .modules("igb")
        .device(&nic, "");
    let mut guest = api.of(run).boot();
    peer.set_up_guest(&mut guest);
    let before = peer.ping(&mut guest, 3);
    assert!(before.contains(" 0% packet loss"), "{before}");
    let flood = peer.flood(&mut guest);
    guest.begin("ping -c 20 -i 0.2 -W 5 10.77.0.1");
    for _ in 0..3 {
        api.ok(&["pause"]);
        let sent = flood.sent();
        thread::sleep(Duration::from_secs(2));
        // What was on its way when it stopped, and not what two seconds bring.
        assert!(flood.sent() - sent <= 4, "{} MiB", flood.sent() - sent);
        api.ok(&["resume"]);
        thread::sleep(Duration::from_millis(300));
    }
    let ping = guest.end(MOMENT).text;
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    flood.stop(&mut guest);
    let exchange = peer.exchange(&mut guest, 16 << 20);
    assert_eq!(exchange.exits.total(), 0, "{}", exchange.exits);
    guest.stop();
}

/// The driver's write that lets the card do DMA may be waiting for RAM to be mapped when the guest is paused: it must not get lost.
#[test]
fn a_guest_that_is_paused_all_the_time_it_boots_has_its_network_card() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let api = Api::new();
    let run = Run::new(Kernel::Elf)
        .memory("5G")
        .modules("igb")
        .device(&nic, "");
    let ferry = api.of(run).start();
    until("the socket", MOMENT, || api.socket().exists().then_some(()));
    let (mut refused, mut paused) = (0, 0);
    while !ferry.console().text().contains("# ") {
        let (status, body) = api.request("PUT", "vm.pause", "");
        match status {
            204 => paused += 1,
            _ => {
                assert!(body[1].as_str().unwrap().contains("being mapped"), "{body}");
                refused += 1;
            }
        }
        let _ = api.request("PUT", "vm.resume", "");
        // The guest reaches its driver before RAM is mapped.
        let threads = format!("/proc/{}/task", ferry.pid());
        shell(&format!(
            "cd {threads} && for thread in $(grep -l dma-map */comm); do chrt -i -p 0 ${{thread%/comm}} || true; done"
        ));
        thread::sleep(Duration::from_millis(200));
    }
    figure(&format!("{refused} pauses refused, {paused} made"));
    assert!(refused > 0);
    let mut guest = Guest::of(ferry);
    peer.set_up_guest(&mut guest);
    let ping = peer.ping(&mut guest, 5);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    guest.stop();
}

#[test]
fn commands_that_the_state_does_not_allow_are_refused_in_three_lines() {
    let (mut guest, api) = served();
    let refused = |words: &[&str]| {
        let told = api.ferry(words);
        assert_eq!(told.code, Some(4), "{told:?}");
        assert_eq!(told.errors.lines().count(), 3, "{told:?}");
    };
    refused(&["resume"]);
    api.ok(&["pause"]);
    refused(&["pause"]);
    refused(&["power-button"]);
    assert_eq!(api.request("PUT", "vm.pause", "").0, 405);
    assert_eq!(api.request("GET", "vm.pause", "").0, 405);
    assert_eq!(api.request("GET", "vm.nothing", "").0, 404);
    assert_eq!(api.request("PUT", "vm.resume", "").0, 204);
    guest.ok("true");
    guest.stop();
}

#[test]
fn a_reboot_boots_again_whether_the_guest_is_paused_or_not() {
    let (mut guest, api) = served();
    api.ok(&["reboot"]);
    guest.wait_for_shell();
    api.ok(&["pause"]);
    api.ok(&["reboot"]);
    assert_eq!(api.info()["state"], "Running");
    guest.wait_for_shell();
    assert_eq!(api.stats()["boots"], 3);
    // One after the other while it boots.
    api.ok(&["reboot"]);
    api.ok(&["reboot"]);
    api.ok(&["pause"]);
    api.ok(&["resume"]);
    guest.wait_for_shell();
    assert_eq!(api.stats()["boots"], 5);
    guest.stop();
}

/// Two clients that pause and resume each other's guest.
#[test]
fn two_clients_at_once_get_an_answer_each() {
    let (mut guest, api) = served();
    let counts = thread::scope(|scope| {
        let client = || {
            let done = |path| api.request("PUT", path, "").0 == 204;
            let both = |_: &u32| (done("vm.pause"), done("vm.resume"));
            let all: Vec<_> = (0..30).map(|round| both(&round)).collect();
            let count = |of: fn(&(bool, bool)) -> bool| all.iter().filter(|one| of(one)).count();
            (count(|one| one.0), count(|one| one.1))
        };
        [scope.spawn(client), scope.spawn(client)].map(|client| client.join().unwrap())
    });
    let paused: usize = counts.iter().map(|one| one.0).sum();
    let resumed: usize = counts.iter().map(|one| one.1).sum();
    figure(&format!(
        "60 tries: paused {paused} times, resumed {resumed} times"
    ));
    // Each pause was ended by one resume, whoever's it was.
    assert!(paused >= 30 && paused == resumed, "{counts:?}");
    assert_eq!(api.info()["state"], "Running");
    guest.ok("true");
    guest.stop();
}
