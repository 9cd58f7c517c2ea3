//! `ferry stats`: the figures of a running guest, once or as a screen that changes.

mod frame;
mod looks;

use super::guest::{Guest, Target};
use super::{Exit, Failure};
use devices::host::Problem;
use frame::{Frame, Look};
use looks::Looks;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{isatty, tcgetwinsize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// How long an answer may take before the user is told that there is none.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let failed = |error: io::Error| Failure {
        exit: Exit::HostSetUp,
        problems: vec![Problem::new(
            "--watch can't be shown",
            error.to_string(),
            "leave --watch out: ferry stats prints the figures once, as JSON",
        )],
    };
    let looks = Looks::at(guest).map_err(failed)?;
    let screen = Screen::enter(looks).map_err(failed)?;
    let watched = watch(&arguments.target.label(), screen, first);
    watched.map(|()| ExitCode::SUCCESS)
}

fn look(guest: &Guest) -> Result<Look, Failure> {
    Ok(Look {
        at: Instant::now(),
        info: guest.get("vm.info")?,
        stats: guest.get("ferry.stats")?,
    })
}

fn watch(label: &str, mut screen: Screen, first: Look) -> Result<(), Failure> {
    let mut before = first;
    screen.show(Frame::new(label, None, &before));
    loop {
        // The screen is left before a failure is told.
        if screen.wait(before.at + PERIOD) == Wish::Leave {
            return Ok(());
        }
        let asked = Instant::now();
        screen.looks.begin();
        let mut glance = asked + PATIENCE;
        let now = loop {
            match screen.wait(glance) {
                Wish::Leave => return Ok(()),
                Wish::Look => break screen.looks.take()?,
                Wish::GoOn => {
                    screen.tell_silence(label, asked.elapsed());
                    glance += PERIOD;
                }
            }
        };
        screen.show(Frame::new(label, Some(&before), &now));
        before = now;
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Its time.
    GoOn,
    /// A look at the guest.
    Look,
    /// The user's wish.
    Leave,
}

/// Whether the other screen is shown. Process-wide, because a panic on any thread must find it.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Goes back to the first screen, if it is not there.
fn leave() {
    if SHOWN.swap(false, Ordering::SeqCst) {
        // Not through the buffer, which a thread that panics may hold. Nothing better can be done when the terminal is gone.
        let _ = rustix::io::write(rustix::stdio::stdout(), LEAVE.as_bytes());
    }
}

/// The terminal as long as it is ours.
struct Screen {
    looks: Looks,
    signals: UnixStream,
    resized: UnixStream,
    shown: Option<Frame>,
    /// Dropped after the first screen is back.
    _raw: Option<RawTerminal>,
}

impl Screen {
    /// A panic on any thread leaves it too, before it is told.
    fn enter(looks: Looks) -> io::Result<Self> {
        let pipe = |signals: &[i32]| -> io::Result<UnixStream> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
            }
            Ok(reader)
        };
        let signals = pipe(&[SIGINT, SIGTERM, SIGQUIT, SIGHUP])?;
        let resized = pipe(&[SIGWINCH])?;
        let raw = RawTerminal::enter()?;
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            leave();
            hook(panic);
        }));
        SHOWN.store(true, Ordering::SeqCst);
        print(ENTER);
        Ok(Self {
            looks,
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

    /// Tells that the guest has been silent for so long; the figures stay.
    fn tell_silence(&mut self, label: &str, silent: Duration) {
        if let Some(frame) = &mut self.shown {
            frame.tell_silence(label, silent);
        }
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

    /// Waits until `end`, a look at the guest, or the user leaves.
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
                PollFd::new(&self.looks, PollFlags::IN),
            ];
            let limit = Timespec::try_from(left).ok();
            // Interrupted by a signal, which the pipes tell of.
            let _ = poll(&mut sources, limit.as_ref());
            let [typed, ended, resized, seen] = sources.map(|source| !source.revents().is_empty());
            if ended || typed && leaves() {
                return Wish::Leave;
            }
            if seen {
                return Wish::Look;
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
        leave();
    }
}

/// Whether the user has typed q, Ctrl-C, Ctrl-D or Ctrl-\, or nothing will ever be typed again.
fn leaves() -> bool {
    let mut typed = [0; 64];
    match rustix::io::read(rustix::stdio::stdin(), &mut typed) {
        Ok(0) => true,
        Ok(count) => typed
            .iter()
            .take(count)
            .any(|byte| b"qQ\x03\x04\x1c".contains(byte)),
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
