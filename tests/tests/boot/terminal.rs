//! The user's terminal is raw while the guest has it, and as before afterwards.

use rustix::process::Signal;
use std::time::Duration;
use tests::site::Kernel;
use tests::{BOOT, Ferry, MOMENT, Modes, Run, Terminal, until};

/// Starts a guest on the terminal and waits until it is raw.
fn start(run: Run, terminal: &Terminal) -> (Ferry, Modes) {
    let before = terminal.modes();
    assert!(!before.are_raw(), "a new terminal is not raw");
    let ferry = run.on(terminal).start();
    until("a raw terminal", MOMENT, || {
        terminal.modes().are_raw().then_some(())
    });
    (ferry, before)
}

#[test]
fn ctrl_a_x_quits_with_10_and_puts_the_terminal_back() {
    let terminal = Terminal::open();
    let (mut ferry, before) = start(Run::new(Kernel::Elf), &terminal);
    terminal.type_keys(b"\x01x");
    assert_eq!(ferry.exit(MOMENT), 10, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}

#[test]
fn sigint_ends_with_10_and_puts_the_terminal_back() {
    let terminal = Terminal::open();
    let (mut ferry, before) = start(Run::new(Kernel::Elf), &terminal);
    ferry.signal(Signal::INT);
    assert_eq!(ferry.exit(MOMENT), 10, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}

/// A guest that has not even begun to boot hears no button, so that nobody waits for it.
#[test]
fn sigterm_ends_a_guest_that_hears_no_button_and_puts_the_terminal_back() {
    let terminal = Terminal::open();
    let run = Run::new(Kernel::Elf).cmdline("acpi=off");
    let (mut ferry, before) = start(run, &terminal);
    ferry.signal(Signal::TERM);
    assert_eq!(ferry.exit(Duration::from_secs(10)), 10, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}

#[test]
fn power_off_puts_the_terminal_back() {
    let terminal = Terminal::open();
    let run = Run::new(Kernel::Elf).command("stty -a; true");
    let (mut ferry, before) = start(run, &terminal);
    assert_eq!(ferry.exit(BOOT), 0, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}

#[test]
fn keys_reach_the_guest_as_they_are() {
    let terminal = Terminal::open();
    let (mut ferry, before) = start(Run::new(Kernel::Elf), &terminal);
    let init = ferry.wait_for(0, "ferry-guest: init", BOOT);
    let prompt = ferry.wait_for(init, "# ", BOOT);
    // Ctrl-C is the guest's: it ends what runs there and not Ferry. It reaches what is in the terminal's foreground, so the
    // command itself tells when it is.
    terminal.type_keys(b"sh -c 'echo begin $((1 + 1)); exec sleep 1000'\r");
    let begun = ferry.wait_for(prompt, "begin 2", MOMENT);
    terminal.type_keys(b"\x03echo sum $((40 + 2))\r");
    ferry.wait_for(begun, "sum 42", MOMENT);
    terminal.type_keys(b"\x01x");
    assert_eq!(ferry.exit(MOMENT), 10, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}

#[test]
fn an_error_leaves_the_terminal_as_it_is() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let mut ferry = Run::new(Kernel::Elf).memory("64M").on(&terminal).start();
    assert_eq!(ferry.exit(MOMENT), 2, "{}", ferry.state());
    assert_eq!(terminal.modes(), before);
}
