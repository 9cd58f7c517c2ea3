//! What events are written to: a file, a FIFO, or something that was passed; never such that a write waits.

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open, stat};
use rustix::net::{SendFlags, send};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open file, pipe, socket or terminal.
#[derive(Debug)]
pub struct EventOutput {
    descriptor: OwnedFd,
    /// Each write says for itself that it does not wait.
    socket: bool,
}

/// Why something can't be written to.
#[derive(Debug, thiserror::Error)]
pub enum NotWritable {
    /// It can't be opened, or what it is can't be found out.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is open for reading.
    #[error("it is open for reading only")]
    ReadOnly,
    /// Lines can't be written to such a thing.
    #[error("it is {0}, which takes no lines")]
    Kind(&'static str),
}

impl From<rustix::io::Errno> for NotWritable {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

const OWN: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

impl EventOutput {
    /// Opens a FIFO, or a file, which is appended to and made if it is not there.
    ///
    /// # Errors
    /// [`NotWritable`].
    pub fn open(path: &Path) -> Result<Self, NotWritable> {
        let kind = match stat(path) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(rustix::io::Errno::NOENT) => FileType::RegularFile,
            Err(errno) => return Err(errno.into()),
        };
        takes_lines(kind)?;
        let flags = match kind {
            // Who reads may come later, or go and come back: the FIFO keeps what it can hold.
            FileType::Fifo => OFlags::RDWR,
            FileType::Socket => return Err(NotWritable::Kind("a socket, not connected")),
            _ => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        };
        let descriptor = open(path, flags | OWN, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            descriptor,
            socket: false,
        })
    }

    /// What was passed to this process.
    ///
    /// # Errors
    /// [`NotWritable`].
    pub fn passed(descriptor: OwnedFd) -> Result<Self, NotWritable> {
        let kind = FileType::from_raw_mode(fstat(&descriptor)?.st_mode);
        takes_lines(kind)?;
        let flags = fcntl_getfl(&descriptor)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::RDONLY {
            return Err(NotWritable::ReadOnly);
        }
        let terminal = rustix::termios::isatty(&descriptor);
        let descriptor = match kind {
            FileType::Fifo => unblocked(descriptor, flags)?,
            FileType::CharacterDevice if terminal => unblocked(descriptor, flags)?,
            _ => descriptor,
        };
        Ok(Self {
            descriptor,
            socket: kind == FileType::Socket,
        })
    }

    /// Writes as much as is taken at once.
    ///
    /// # Errors
    /// `WouldBlock` if that is nothing, and the errno of write(2).
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        // Rust's runtime ignores SIGPIPE, which a write to a pipe can't do for itself.
        Ok(match self.socket {
            true => send(
                &self.descriptor,
                bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            )?,
            false => rustix::io::write(&self.descriptor, bytes)?,
        })
    }
}

impl AsFd for EventOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn takes_lines(kind: FileType) -> Result<(), NotWritable> {
    match kind {
        FileType::RegularFile | FileType::Fifo | FileType::CharacterDevice | FileType::Socket => {
            Ok(())
        }
        FileType::Directory => Err(NotWritable::Kind("a folder")),
        FileType::BlockDevice => Err(NotWritable::Kind("a block device")),
        _ => Err(NotWritable::Kind("nothing of the file system")),
    }
}

/// The same pipe or terminal without waiting. That is a property of an open file, which others may share, as a terminal's
/// shell does: so it is opened once more, where that is allowed.
fn unblocked(shared: OwnedFd, flags: OFlags) -> Result<OwnedFd, NotWritable> {
    let path = format!("/proc/self/fd/{}", shared.as_raw_fd());
    match open(path, OFlags::WRONLY | OWN, Mode::empty()) {
        Ok(own) => Ok(own),
        Err(_) => {
            fcntl_setfl(&shared, flags | OFlags::NONBLOCK)?;
            Ok(shared)
        }
    }
}
