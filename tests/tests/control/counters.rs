//! What `vm.counters` and `ferry stats` count, against what the host and the guest know of it.

use crate::small;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::thread;
use tests::site::{self, Kernel};
use tests::{Api, GUEST_RAM, Guest, MOMENT, Peer, Run, figure, shell, until};

/// igb's MSI-X table and, behind it, the bits of what is pending.
const TABLE_BAR: &str = "BAR 3";
const PENDING: u64 = 0x2000;

type Counters = BTreeMap<String, BTreeMap<String, u64>>;

fn counters(api: &Api) -> Counters {
    let (status, counters) = api.request("GET", "vm.counters", "");
    assert_eq!(status, 200, "{counters}");
    serde_json::from_value(counters).unwrap()
}

fn number(value: &Value, pointer: &str) -> u64 {
    let number = value.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("no number {pointer} in {value:#}"))
}

/// Memory that the kernel has pinned for Ferry, in bytes.
fn pinned(guest: &Guest) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", guest.ferry().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmLck:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes.unwrap().parse::<u64>().unwrap() << 10
}

/// Exits of all vCPUs as the kernel shows them to people.
fn exits_in_debugfs(pid: u32) -> u64 {
    let text = shell(&format!(
        "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
         cat /sys/kernel/debug/kvm/{pid}-*/exits"
    ));
    text.trim().parse().unwrap()
}

#[test]
fn kvms_own_statistics_are_the_kernels_and_grow_as_the_guest_works() {
    let api = Api::new();
    let mut guest = api.of(small().cpus(2)).boot();
    let exits = |counters: &Counters| -> u64 {
        let vcpus = ["_kvm_vcpu0", "_kvm_vcpu1"].map(|group| counters[group]["exits"]);
        vcpus.iter().sum()
    };
    let first = counters(&api);
    let shown = exits_in_debugfs(guest.ferry().pid());
    guest.ok("for i in $(seq 300); do cat /proc/version > /dev/null; done");
    let last = counters(&api);
    figure(&format!(
        "{} exits, {shown} in debugfs, then {}",
        exits(&first),
        exits(&last)
    ));
    assert!(exits(&first) > 0);
    assert!(exits(&first) <= shown && shown <= exits(&last));
    assert!(exits(&first) < exits(&last));
    // What comes to Ferry left the guest first.
    for vcpu in 0..2 {
        let [ferry, kvm] = ["_vcpu", "_kvm_vcpu"].map(|kind| &last[&format!("{kind}{vcpu}")]);
        assert!(ferry["exits"] <= kvm["exits"], "{ferry:?} {kvm:?}");
        assert!(kvm.contains_key("halt_exits") && kvm.contains_key("irq_injections"));
    }
    assert!(last["_kvm_vm"].contains_key("remote_tlb_flush"));
    // The same in the figures, and no histogram among them.
    let stats = api.stats();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect();
    let of_counters = |group: &str| last[group].keys().cloned().collect::<Vec<_>>();
    let figures: [Vec<String>; 2] = [names(&stats["vcpus"][1]["kvm"]), names(&stats["kvm"]["vm"])];
    assert_eq!(figures[0], of_counters("_kvm_vcpu1"));
    assert_eq!(figures[1], of_counters("_kvm_vm"));
    assert!(!figures[0].iter().any(|name| name.ends_with("_hist")));
    // Without a device nothing is mapped for one.
    assert_eq!(last["_dma"]["mappings"], 0);
    assert_eq!((last["_dma"]["bytes"], pinned(&guest)), (0, 0));
    guest.stop();
}

#[test]
fn dma_mappings_are_what_the_kernel_has_pinned_until_the_last_device_has_left() {
    let nic = site::device("nic").assign();
    let api = Api::new();
    let run = Run::new(Kernel::Elf).modules("igb");
    let mut guest = api.of(run.device(&nic, ",id=nic0")).boot();
    guest.ok("ip link set eth0 up");
    let (stats, told) = (api.stats(), counters(&api));
    assert_eq!(number(&stats, "/dma/bytes"), GUEST_RAM);
    assert_eq!(number(&stats, "/dma/bytes"), pinned(&guest));
    assert!(number(&stats, "/dma/mappings") >= 1);
    assert_eq!(stats["devices"][0]["dma"], stats["dma"]);
    assert_eq!(told["nic0"]["dma bytes"], GUEST_RAM);
    assert_eq!(
        told["nic0"]["dma mappings"],
        number(&stats, "/dma/mappings")
    );
    // The host wants it back, and waits for it.
    let (driver, address) = (nic.folder().join("driver/unbind"), nic.address().to_owned());
    let unbound = thread::spawn(move || fs::write(driver, address));
    until("the end of the card in the guest", MOMENT, || {
        (api.stats()["devices"] == Value::Array(Vec::new())).then_some(())
    });
    unbound.join().unwrap().unwrap();
    let told = counters(&api);
    assert_eq!((told["_dma"]["mappings"], told["_dma"]["bytes"]), (0, 0));
    assert_eq!(pinned(&guest), 0);
    assert!(!told.contains_key("nic0"));
    guest.stop();
    nic.give_back();
}

/// Reads and writes of a place in the first device's table BAR.
fn traps(api: &Api, offset: u64) -> (u64, u64) {
    let offset = format!("{offset:#x}");
    let stats = api.stats();
    let all = stats["devices"][0]["bar_traps"].as_array().unwrap();
    let place = |trap: &&Value| trap["bar"] == TABLE_BAR && trap["offset"] == offset.as_str();
    all.iter().find(place).map_or((0, 0), |trap| {
        (number(trap, "/reads"), number(trap, "/writes"))
    })
}

/// Accesses that the vCPUs counted for the same BAR, and those that the device counted.
fn of_table_bar(counters: &Counters) -> (u64, u64) {
    let exits = &counters["_vcpu0"];
    let exits = exits
        .iter()
        .filter(|(name, _)| name.contains(&format!("nic0 {TABLE_BAR} ")));
    let traps = counters["nic0"]
        .iter()
        .filter(|(name, _)| name.starts_with(TABLE_BAR));
    (exits.map(|(_, n)| n).sum(), traps.map(|(_, n)| n).sum())
}

#[test]
fn accesses_that_trap_are_counted_by_offset_and_a_transfer_has_none() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let api = Api::new();
    let run = Run::new(Kernel::Elf).device(&nic, ",id=nic0,addr=6");
    let mut guest = api.of(run).boot();
    assert_eq!(traps(&api, PENDING), (0, 0));
    // Before its driver has it, when the guest's kernel lets nobody else at it.
    guest.ok(&format!(
        "card=/sys/bus/pci/devices/0000:00:06.0; echo 1 > $card/enable; set -- $(sed -n 4p $card/resource); \
         for i in 1 2 3; do devmem $(($1 + {PENDING})) 32; done; echo 0 > $card/enable"
    ));
    assert_eq!(traps(&api, PENDING), (3, 0));
    guest.ok("modprobe igb");
    peer.set_up_guest(&mut guest);
    let vectors: Vec<_> = (0..10)
        .map(|vector| traps(&api, vector * 16 + 12))
        .collect();
    let armed = api.stats()["devices"][0]["armed_vectors"].clone();
    figure(&format!("vector control: {vectors:?}, armed {armed}"));
    // A driver that has a vector has written its address, and unmasked it.
    for vector in armed.as_array().unwrap() {
        let vector = vector.as_u64().unwrap();
        assert!(traps(&api, vector * 16).1 > 0 && traps(&api, vector * 16 + 12).1 > 0);
    }
    assert!(armed.as_array().unwrap().len() >= 2);
    let told = counters(&api);
    let (exits, trapped) = of_table_bar(&told);
    assert!(exits > 0);
    assert_eq!(exits, trapped, "{told:#?}");
    let exchange = peer.exchange(&mut guest, 8 << 20);
    assert_eq!(exchange.exits.total(), 0, "{}", exchange.exits);
    let after = counters(&api);
    assert_eq!(after["nic0"]["bar traps"], told["nic0"]["bar traps"]);
    assert!(after["nic0"]["interrupts"] > told["nic0"]["interrupts"]);
    guest.stop();
}
