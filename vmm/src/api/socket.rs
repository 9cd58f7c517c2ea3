//! The socket's file: whose it is, who may open it, and that it goes.

use devices::host::Problem;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;
/// How long another Ferry may take to put its socket into the same folder.
const TURN: Duration = Duration::from_secs(1);
/// How long a listener may take to have room for somebody who only wants to know whether it is there.
const GLANCE: Duration = Duration::from_millis(10);

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// Why there can't be a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("{} is another guest's: somebody answers there", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// It can't be made.
    #[error("{} can't be made", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// What the user is told.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (path, why, remedy) = match self {
            Self::Taken(path) => (
                path,
                "a running guest answers there".to_owned(),
                "choose another path or name, or end that guest: ferry stop --socket PATH"
                    .to_owned(),
            ),
            Self::NoSocket(path) => (
                path,
                "something that is no socket is there, which Ferry does not delete".to_owned(),
                "choose a path where nothing is".to_owned(),
            ),
            Self::Failed { path, source } => (
                path,
                source.to_string(),
                "choose a path of at most 107 bytes in a folder that exists and is yours"
                    .to_owned(),
            ),
        };
        let what = format!("the API socket can't be {}", path.display());
        Problem::new(what, why, remedy)
    }
}

impl ApiSocket {
    /// Listens at `path`, in place of a socket at which nobody listens any longer.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Failed {
            path: path.to_owned(),
            source,
        };
        let _turn = turn(path);
        clear(path)?;
        let listener = listen(path).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        })
    }

    /// Where connections come from.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let _turn = turn(&self.path);
        let present = fs::symlink_metadata(&self.path);
        let own = present.is_ok_and(|present| (present.dev(), present.ino()) == self.file);
        if own && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("{} can't be removed: {error}", self.path.display());
        }
    }
}

/// One Ferry at a time looks at what is in a folder and changes it. The lock is the folder's own, so that no file is left; one
/// that can't be had is done without.
fn turn(path: &Path) -> Option<OwnedFd> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).ok()?;
    let end = Instant::now() + TURN;
    while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(folder)
}

/// Makes sure that nothing is at `path`.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Failed {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match connect(path, GLANCE) {
        // Nobody listens: whoever made it was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            log::info!("{} was left by a Ferry that is gone", path.display());
            fs::remove_file(path).map_err(failed)
        }
        // One that is too busy to accept is there, too.
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::Taken(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Connects, for which a listener that accepts nobody, because it was stopped, has no longer than `limit`. Nor has it longer
/// for each piece of what is sent then.
///
/// # Errors
/// `WouldBlock` after that time, or the errno.
pub(super) fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // For a Unix socket this is also how long it waits for room among those that are to be accepted.
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the mode that the socket has (unix(7) speaks of the umask, which only takes from it): nobody else can
    // connect at any time.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        (folder, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_its_owner_can_open_a_socket() {
        let (_folder, path) = place();
        // Nothing changes the mode afterwards.
        let listener = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(listener);
        let _socket = ApiSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_socket_goes_with_its_owner() {
        let (_folder, path) = place();
        let socket = ApiSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let (_folder, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        let live = ApiSocket::bind(&path).unwrap();
        let error = ApiSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Taken(_)), "{error}");
        assert_eq!(error.problem().to_string().lines().count(), 3);
        // It is still the first one's.
        assert!(UnixStream::connect(&path).is_ok());
        drop(live);
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_there_and_holds_nobody_up() {
        let (_folder, path) = place();
        let _stopped = listen(&path).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&path, GLANCE) {
            waiting.push(stream);
        }
        assert!(waiting.len() >= BACKLOG.unsigned_abs() as usize);
        let started = Instant::now();
        let error = ApiSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Taken(_)), "{error}");
        let error = connect(&path, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_is_no_socket_is_never_deleted() {
        let (folder, path) = place();
        let other = folder.path().join("other");
        fs::write(&other, "mine").unwrap();
        let things: [fn(&Path, &Path) -> io::Result<()>; 3] = [
            |path, _| fs::write(path, "mine"),
            |path, _| fs::create_dir(path),
            |path, other| symlink(other, path),
        ];
        for make in things {
            make(&path, &other).unwrap();
            let bound = ApiSocket::bind(&path);
            assert!(matches!(bound, Err(SocketError::NoSocket(_))));
            assert!(fs::symlink_metadata(&path).is_ok());
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir(&path))
                .unwrap();
        }
        assert_eq!(fs::read_to_string(other).unwrap(), "mine");
    }

    #[test]
    fn a_successor_keeps_its_socket() {
        let (_folder, path) = place();
        let first = ApiSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = ApiSocket::bind(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_cannot_be_is_told() {
        let problem = |path: &str| ApiSocket::bind(Path::new(path)).unwrap_err().problem();
        assert!(
            problem("/nonexistent/api.sock")
                .why
                .contains("No such file")
        );
        assert!(
            problem(&format!("/tmp/{}", "x".repeat(108)))
                .why
                .contains("too long")
        );
        assert!(problem("").what.len() > 5);
    }
}
