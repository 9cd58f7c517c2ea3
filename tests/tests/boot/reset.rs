//! The guest's resets: each boots it again in the same process, or ends Ferry.

use std::thread;
use tests::site::Kernel;
use tests::{BOOT, MOMENT, Run};

#[test]
fn every_kind_of_reset_boots_the_guest_again_in_the_same_process() {
    let mut guest = Run::new(Kernel::Elf).cpus(2).boot();
    let ways = [
        ("the ACPI reset register", "acpi", "reboot -f"),
        ("the keyboard controller", "kbd", "reboot -f"),
        ("a triple fault", "triple", "reboot -f"),
        ("a panic", "acpi", "echo c > /proc/sysrq-trigger"),
    ];
    for (boots, (what, kind, command)) in (2..).zip(ways) {
        guest.ok(&format!("echo {kind} > /sys/kernel/reboot/type"));
        guest.begin(command);
        guest.wait_for_shell();
        assert_eq!(guest.figures().number("/boots"), boots, "after {what}");
        assert_eq!(
            guest.ok("cat /sys/devices/system/cpu/online"),
            "0-1\n",
            "after {what}"
        );
    }
    guest.begin("reboot -f");
    guest.wait_for_shell();
    assert_eq!(
        guest.figures().number("/boots"),
        6,
        "after the kernel's own choice"
    );
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn no_reboot_turns_resets_into_exit_codes() {
    // These guests panic for want of a root; what the panic ends in is up to `reboot=`.
    let ways = [
        ("a reset ends with 12", "acpi", 12),
        ("a triple fault with 6", "triple", 6),
    ];
    thread::scope(|scope| {
        for (what, kind, code) in ways {
            scope.spawn(move || {
                let mut ferry = Run::without_initramfs(Kernel::Elf)
                    .cmdline(&format!("reboot={kind}"))
                    .flag("--no-reboot")
                    .start();
                assert_eq!(ferry.exit(BOOT), code, "{what}{}", ferry.state());
                let console = ferry.console().text();
                assert!(console.contains("Kernel panic"), "{what}{}", ferry.state());
                assert_eq!(ferry.last_figures().number("/boots"), 1);
                let crashed = ferry.errors().text().contains("triple fault on vCPU 0");
                assert_eq!(crashed, code == 6, "{}", ferry.state());
            });
        }
    });
}

#[test]
fn no_reboot_turns_a_reboot_into_12() {
    let mut guest = Run::new(Kernel::Elf).flag("--no-reboot").boot();
    guest.begin("reboot -f");
    assert_eq!(guest.ferry_mut().exit(MOMENT), 12);
}
