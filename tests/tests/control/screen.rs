//! `ferry stats --watch` on a terminal.

use crate::served;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::{Api, MOMENT, Terminal, Transcript, until};

/// The terminal's other screen, and back to the first.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
/// The end of each screen's contents.
const LAST: &str = "q leaves";

struct Watched {
    terminal: Terminal,
    written: Transcript,
    ferry: Child,
}

/// Starts it, and waits for its second look at the guest.
fn watch(api: &Api) -> Watched {
    let terminal = Terminal::open();
    terminal.resize(24, 80);
    let written = terminal.written();
    let mut command = api.command(&["stats", "--watch"]);
    let ferry = terminal.start(command.stderr(Stdio::piped()));
    let first = written.wait_for(0, LAST, MOMENT).unwrap();
    written.wait_for(first, LAST, MOMENT).unwrap();
    Watched {
        terminal,
        written,
        ferry,
    }
}

impl Watched {
    /// Waits for its end, and gives its exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        until("the end of ferry stats", MOMENT, || {
            self.ferry.try_wait().unwrap()
        });
        let output = self.ferry.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None);
        until("the first screen", MOMENT, || {
            self.written.text().contains(LEAVE).then_some(())
        });
        assert!(!self.terminal.modes().are_raw());
        assert_eq!(self.terminal.modes(), Terminal::open().modes());
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    }
}

#[test]
fn a_screen_of_figures_leaves_the_terminal_as_it_was_however_it_ends() {
    let (mut guest, api) = served();
    let watched = watch(&api);
    assert!(watched.terminal.modes().are_raw());
    let text = watched.written.text();
    assert!(text.starts_with(ENTER) && !text.contains(LEAVE), "{text:?}");
    let screen = text.split("\x1b[H").last().unwrap();
    for line in ["RUNNING", "NO DEVICES", "EXITS OF THE GUEST", "  halts"] {
        assert!(screen.contains(line), "{line}: {screen}");
    }
    assert!(screen.lines().count() <= 24, "{screen}");
    watched.terminal.type_keys(b"q");
    assert_eq!(watched.end(), (Some(0), String::new()));

    for signal in ["TERM", "QUIT"] {
        let watched = watch(&api);
        let pid = watched.ferry.id();
        assert!(tests::shell(&format!("kill -{signal} {pid}")).is_empty());
        assert_eq!(watched.end(), (Some(0), String::new()));
    }

    let watched = watch(&api);
    api.ok(&["stop", "--force"]);
    let (code, errors) = watched.end();
    assert_eq!((code, errors.lines().count()), (Some(4), 3), "{errors}");
    guest.ferry_mut().exit(MOMENT);
}

#[test]
fn a_guest_that_does_not_answer_keeps_nobody_at_the_screen() {
    let (mut guest, api) = served();
    let watched = watch(&api);
    guest.ferry().signal(Signal::STOP);
    watched
        .written
        .wait_for(0, "NO ANSWER FOR 2 s", MOMENT)
        .unwrap();
    guest.ferry().signal(Signal::CONT);
    let silent = watched.written.text().len();
    watched.written.wait_for(silent, "RUNNING", MOMENT).unwrap();
    guest.ferry().signal(Signal::STOP);
    watched
        .written
        .wait_for(silent, "NO ANSWER", MOMENT)
        .unwrap();
    let started = Instant::now();
    watched.terminal.type_keys(b"q");
    assert_eq!(watched.end(), (Some(0), String::new()));
    assert!(started.elapsed() < Duration::from_secs(5));
    guest.ferry().signal(Signal::CONT);
    guest.stop();
}
