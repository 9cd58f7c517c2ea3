//! Where the guest's console goes, and what comes in through it.

use std::fs;
use std::time::Duration;
use tests::site::Kernel;
use tests::{BOOT, MOMENT, Run};

#[test]
fn input_longer_than_the_fifo_arrives_whole() {
    let mut guest = Run::new(Kernel::Elf).boot();
    let line: String = ('a'..='z').cycle().take(2000).collect();
    let output = guest.ok(&format!("echo {line}"));
    assert_eq!(output.trim_end(), line);
    guest.stop();
}

#[test]
fn console_goes_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let target = format!("file={}", path.display());
    let mut ferry = Run::new(Kernel::Elf)
        .option("--serial", target)
        .command("echo sum $((40 + 2))")
        .start();
    ferry.finish();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("sum 42") && text.contains("ferry-guest: init"),
        "{text}"
    );
    assert_eq!(ferry.console().text(), "");
}

#[test]
fn without_a_console_the_guest_has_no_serial_port() {
    // The port's lines are "0: uart:unknown …" where there is none; the status is their number.
    let mut ferry = Run::new(Kernel::Elf)
        .option("--serial", "none")
        .command("n=$(grep -c uart:16550 /proc/tty/driver/serial); printf \\\\x2$n | dd of=/dev/port bs=1 seek=244")
        .start();
    assert_eq!(ferry.exit(BOOT), (0x20 << 1) | 1, "{}", ferry.state());
    assert_eq!(ferry.console().text(), "");
}

#[test]
fn end_of_input_neither_ends_the_guest_nor_spins() {
    let mut ferry = Run::new(Kernel::Elf).without_input().start();
    let init = ferry.wait_for(0, "ferry-guest: init", BOOT);
    ferry.wait_for(init, "# ", MOMENT);
    let before = control_thread_ticks(ferry.pid());
    // Not to wait for something, but to give a loop the time to show.
    std::thread::sleep(Duration::from_secs(1));
    let spent = control_thread_ticks(ferry.pid()) - before;
    assert!(
        spent <= 5,
        "the control thread took {spent} ticks of 100 while nothing happened"
    );
    ferry.signal(rustix::process::Signal::INT);
    assert_eq!(ferry.exit(MOMENT), 10);
}

/// Processor time of Ferry's first thread, in 1/100 s: fields 14 and 15 of proc_pid_stat(5).
fn control_thread_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = fields.split(' ').collect();
    [fields[11], fields[12]]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}
