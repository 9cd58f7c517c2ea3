//! A pseudo-terminal with a user at it.

use crate::Transcript;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize,
};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

/// A terminal, for a program's standard input.
#[derive(Debug)]
pub struct Terminal {
    user: OwnedFd,
    program: OwnedFd,
}

/// The modes of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    input: InputModes,
    output: OutputModes,
    control: ControlModes,
    local: LocalModes,
}

impl Modes {
    /// Keys arrive at once, as they are, and are not shown: neither lines nor echo nor signals.
    #[must_use]
    pub fn are_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        !self.local.intersects(cooked)
            && !self.input.intersects(InputModes::ICRNL | InputModes::IXON)
    }
}

impl Terminal {
    /// Opens a new one. It does not become anyone's controlling terminal.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    pub fn open() -> Self {
        let opened = || -> rustix::io::Result<Self> {
            let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&user)?;
            unlockpt(&user)?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let program = open(ptsname(&user, Vec::new())?, flags, Mode::empty())?;
            Ok(Self { user, program })
        };
        match opened() {
            Ok(terminal) => terminal,
            Err(error) => panic!("no pseudo-terminal: {error}"),
        }
    }

    /// The end that a program gets.
    pub(crate) fn user_end(&self) -> File {
        match self.program.try_clone() {
            Ok(program) => program.into(),
            Err(error) => panic!("the terminal can't be handed on: {error}"),
        }
    }

    /// Its modes now.
    ///
    /// # Panics
    /// When it does not tell.
    #[must_use]
    pub fn modes(&self) -> Modes {
        match tcgetattr(&self.program) {
            Ok(termios) => Modes {
                input: termios.input_modes,
                output: termios.output_modes,
                control: termios.control_modes,
                local: termios.local_modes,
            },
            Err(error) => panic!("the terminal's modes: {error}"),
        }
    }

    /// Makes it so large.
    ///
    /// # Panics
    /// When it can't be.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let resized = tcsetwinsize(&self.program, size);
        assert_eq!(resized, Ok(()), "the terminal keeps its size");
    }

    /// Starts a program with the terminal as its standard input and output.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(&self, command: &mut Command) -> Child {
        let command = command.stdin(self.user_end()).stdout(self.user_end());
        match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{command:?} can't be started: {error}"),
        }
    }

    /// What programs write to it.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn written(&self) -> Transcript {
        match self.user.try_clone() {
            Ok(user) => Transcript::of(File::from(user)),
            Err(error) => panic!("the terminal can't be read: {error}"),
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal does not take it.
    pub fn type_keys(&self, keys: &[u8]) {
        let typed = rustix::io::write(&self.user, keys);
        assert_eq!(typed, Ok(keys.len()), "the terminal takes no keys");
    }
}
