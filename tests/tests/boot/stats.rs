//! `--stats`.

use crate::guests::{large, small};
use serde_json::Value;
use tests::site::Kernel;
use tests::{BOOT, Figures, Run};

#[test]
fn figures_name_every_startup_phase() {
    let figures = &small().figures;
    let phases = figures.at("/startup").as_object().unwrap();
    let names: Vec<_> = phases.keys().map(String::as_str).collect();
    let expected = [
        "dma_map",
        "dma_ready",
        "dma_wait",
        "first_run",
        "load_kernel",
        "open_devices",
        "parse",
        "populate_memory",
    ];
    assert_eq!(names, expected);
    let (parse, first) = (
        figures.number("/startup/parse"),
        figures.number("/startup/first_run"),
    );
    let load = figures.number("/startup/load_kernel");
    assert!(parse > 0 && load > 0, "parse {parse}, load_kernel {load}");
    assert!(
        parse + load <= first,
        "{parse} + {load} us > first_run {first}"
    );
    assert!(first < figures.number("/uptime"));
}

#[test]
fn figures_count_exits_of_each_vcpu() {
    let vcpus = large().figures.list("/vcpus");
    assert_eq!(vcpus.len(), 4);
    let exits = large().figures.exits();
    assert!(exits.0.contains_key("port_write serial 0x3f8"), "{exits}");
    let stated: u64 = vcpus.iter().filter_map(|vcpu| vcpu["exits"].as_u64()).sum();
    assert_eq!(exits.total(), stated);
}

#[test]
fn figures_tell_what_ferry_costs_without_guest_ram() {
    let memory = |pointer: &str| large().figures.number(&format!("/memory/{pointer}"));
    assert_eq!(memory("guest_ram"), 5 << 30);
    let cost = memory("peak_rss_without_guest_ram");
    assert!((1 << 20..32 << 20).contains(&cost), "{cost} bytes");
}

#[test]
fn figures_on_standard_output_are_one_json_value_after_the_console() {
    let mut ferry = Run::without_initramfs(Kernel::Elf)
        .flag("--no-reboot")
        .option("--serial", "none")
        .option("--stats", "-")
        .start();
    assert_eq!(ferry.exit(BOOT), 12);
    let figures = Figures::parse(&ferry.console().text());
    assert_eq!(figures.at("/devices"), &Value::Array(Vec::new()));
    assert_eq!(figures.number("/boots"), 1);
}
