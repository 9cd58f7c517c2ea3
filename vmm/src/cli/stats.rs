//! `ferry stats`: the figures of a running guest, once or as a screen that changes.

mod frame;

use super::guest::{Guest, Target};
use super::{Exit, Failure};
use devices::host::Problem;
use frame::{Frame, Look};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{isatty, tcgetwinsize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vmm::terminal::RawTerminal;

/// Show the figures of a running guest
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// A screen with what changes each second; q leaves it. Without it the figures are JSON
    #[arg(long)]
    watch: bool,
}

/// Between two looks at the guest.
const PERIOD: Duration = Duration::from_secs(1);

/// The second screen that terminals have, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner; the rest of a line; the rest of the screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Prints them.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guest = arguments.target.guest()?;
    if !arguments.watch {
        // A reader that has gone wanted no more.
        let _ = writeln!(io::stdout(), "{:#}", guest.get("ferry.stats")?);
        return Ok(ExitCode::SUCCESS);
    }
    if !isatty(rustix::stdio::stdout()) || !isatty(rustix::stdio::stdin()) {
        return Err(Failure::usage(Problem::new(
            "--watch can't be shown",
            "standard input and output are no terminal",
            "leave --watch out: ferry stats prints the figures once, as JSON",
        )));
    }
    // Before the screen changes: a guest that is not there is told as everywhere.
    let first = look(&guest)?;
    let screen = Screen::enter().map_err(|error| Failure {
        exit: Exit::HostSetUp,
        problems: vec![Problem::new(
            "--watch can't be shown",
            error.to_string(),
            "leave --watch out: ferry stats prints the figures once, as JSON",
        )],
    })?;
    let watched = watch(&guest, &arguments.target.label(), screen, first);
    watched.map(|()| ExitCode::SUCCESS)
}

fn look(guest: &Guest) -> Result<Look, Failure> {
    Ok(Look {
        at: Instant::now(),
        info: guest.get("vm.info")?,
        stats: guest.get("ferry.stats")?,
    })
}

fn watch(guest: &Guest, label: &str, mut screen: Screen, first: Look) -> Result<(), Failure> {
    let mut before = first;
    screen.show(Frame::new(label, None, &before));
    loop {
        // The screen is left before a failure is told.
        if screen.wait(before.at + PERIOD) == Wish::Leave {
            return Ok(());
        }
        let now = look(guest)?;
        screen.show(Frame::new(label, Some(&before), &now));
        before = now;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    Leave,
}

/// The terminal as long as it is ours.
struct Screen {
    signals: UnixStream,
    resized: UnixStream,
    shown: Option<Frame>,
    /// Dropped after the first screen is back.
    _raw: Option<RawTerminal>,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let pipe = |signals: &[i32]| -> io::Result<UnixStream> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
            }
            Ok(reader)
        };
        let signals = pipe(&[SIGINT, SIGTERM, SIGHUP])?;
        let resized = pipe(&[SIGWINCH])?;
        let raw = RawTerminal::enter()?;
        print(ENTER);
        Ok(Self {
            signals,
            resized,
            shown: None,
            _raw: raw,
        })
    }

    /// Shows as much of `frame` as there is room for.
    fn show(&mut self, frame: Frame) {
        self.shown = Some(frame);
        self.draw();
    }

    fn draw(&self) {
        let size = tcgetwinsize(rustix::stdio::stdout());
        let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
        let mut text = HOME.to_owned();
        // One that reports no size has room for something.
        let rows = usize::from(rows).max(1);
        let columns = usize::from(columns).max(1);
        let lines = self
            .shown
            .iter()
            .flat_map(|frame| frame.lines(rows, columns));
        for (number, line) in lines.enumerate() {
            text.push_str(if number == 0 { "" } else { "\r\n" });
            text.extend(line.chars().take(columns));
            text.push_str(CLEAR_LINE);
        }
        text.push_str(CLEAR_BELOW);
        print(&text);
    }

    /// Waits until `end`, or the user leaves.
    fn wait(&mut self, end: Instant) -> Wish {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wish::GoOn;
            }
            let input = rustix::stdio::stdin();
            let mut sources = [
                PollFd::new(&input, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.resized, PollFlags::IN),
            ];
            let limit = Timespec::try_from(left).ok();
            // Interrupted by a signal, which the pipes tell of.
            let _ = poll(&mut sources, limit.as_ref());
            let [typed, ended, resized] = sources.map(|source| !source.revents().is_empty());
            if ended || typed && leaves() {
                return Wish::Leave;
            }
            if resized {
                let _ = self.resized.read(&mut [0; 64]);
                self.draw();
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print(LEAVE);
    }
}

/// Whether the user has typed q, Ctrl-C or Ctrl-D, or nothing will ever be typed again.
fn leaves() -> bool {
    let mut typed = [0; 64];
    match rustix::io::read(rustix::stdio::stdin(), &mut typed) {
        Ok(0) => true,
        Ok(count) => typed
            .iter()
            .take(count)
            .any(|byte| b"qQ\x03\x04".contains(byte)),
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => false,
        Err(_) => true,
    }
}

fn print(text: &str) {
    let mut output = io::stdout().lock();
    // Nothing better can be done when the terminal is gone.
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}
