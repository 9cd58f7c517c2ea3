//! Looks at the guest, on a thread of its own: one that does not answer keeps nobody from leaving the screen.

use super::super::Failure;
use super::super::guest::Guest;
use super::frame::Look;
use super::look;
use devices::host::Problem;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// The thread, which ends with the process.
pub(super) struct Looks {
    wanted: Sender<()>,
    seen: Receiver<Result<Look, Failure>>,
    /// Readable when a look is there.
    ready: UnixStream,
}

impl Looks {
    /// Nothing is looked at yet.
    ///
    /// # Errors
    /// The errno of making a socket pair or a thread.
    pub(super) fn at(guest: Guest) -> io::Result<Self> {
        let (wanted, wishes) = mpsc::channel();
        let (sender, seen) = mpsc::channel();
        let (ready, mut done) = UnixStream::pair()?;
        thread::Builder::new()
            .name("looks".to_owned())
            .spawn(move || {
                for () in wishes {
                    // Nobody waits for it any more when this fails.
                    let told = sender.send(look(&guest)).is_ok();
                    if !told || done.write_all(&[0]).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            wanted,
            seen,
            ready,
        })
    }

    /// Looks. What is seen has to be taken before the next time.
    pub(super) fn begin(&self) {
        // Without the thread, `ready` is readable for ever.
        let _ = self.wanted.send(());
    }

    /// What was seen, when there is something.
    pub(super) fn take(&mut self) -> Result<Look, Failure> {
        let _ = self.ready.read(&mut [0]);
        self.seen.recv().unwrap_or_else(|_| {
            Err(Failure::host(Problem::new(
                "the guest is not looked at any longer",
                "the thread that does has ended early",
                "report this",
            )))
        })
    }
}

impl AsFd for Looks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
