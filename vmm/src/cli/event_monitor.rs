//! `--event-monitor PATH|fd=N` of `ferry run`.

use super::{descriptor, run, shown};
use devices::host::Problem;
use std::path::PathBuf;
use std::time::Instant;
use vmm::events::{EventMonitor, EventOutput, NotWritable};

/// Where events go, before anything is opened or made.
pub(super) enum Target {
    Path(PathBuf),
    Passed(EventOutput),
}

/// Understands `text`: a path that can be written, or a descriptor that is there.
pub(super) fn parse(text: &str) -> Result<Target, Problem> {
    if let Some(number) = text.strip_prefix("fd=") {
        let what = format!("--event-monitor {} can't be written", shown(text));
        let (number, passed) = descriptor::passed(number, &what, "a pipe")?;
        let output = EventOutput::passed(passed).map_err(|error| {
            let why = format!("descriptor {number}: {error}");
            let remedy =
                "pass the end of a pipe that is written to, a socket, a terminal or a file";
            Problem::new(&what, why, remedy)
        })?;
        return Ok(Target::Passed(output));
    }
    let path = PathBuf::from(text);
    let asked = if path.exists() {
        &path
    } else {
        run::folder(&path)
    };
    run::writable("--event-monitor", text, &path, asked)?;
    Ok(Target::Path(path))
}

/// Opens it. `start` is the process's.
pub(super) fn open(target: Option<Target>, start: Instant) -> Result<EventMonitor, Problem> {
    let output = match target {
        None => return Ok(EventMonitor::default()),
        Some(Target::Passed(output)) => output,
        Some(Target::Path(path)) => EventOutput::open(&path).map_err(|error| {
            let path = path.display();
            let remedy = match error {
                NotWritable::Kind(_) => "name a file or a FIFO (mkfifo PATH)".to_owned(),
                _ => format!("see who may write it: ls -l {path}"),
            };
            Problem::new(
                format!("--event-monitor {path} can't be written"),
                error.to_string(),
                remedy,
            )
        })?,
    };
    Ok(EventMonitor::new(output, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn refused(text: &str) -> Problem {
        let opened = parse(text).and_then(|target| open(Some(target), Instant::now()));
        opened.unwrap_err()
    }

    #[test]
    fn what_takes_no_lines_is_refused_in_three_lines() {
        assert_eq!(refused("").why, "it is empty");
        assert_eq!(refused("/").why, "/ is a folder");
        let folder = refused("/nonexistent/events");
        assert!(folder.why.starts_with("/nonexistent: No such file"));
        assert_eq!(refused("fd=x").why, "x is no number of a descriptor");
        assert_eq!(
            refused("fd=9999").why,
            "ferry was started without a descriptor 9999"
        );
        let null = File::open("/dev/null").unwrap();
        let number = null.as_raw_fd();
        let reading = refused(&format!("fd={number}"));
        assert_eq!(
            reading.why,
            format!("descriptor {number}: it is open for reading only")
        );
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let refusal = refused(socket.to_str().unwrap());
        assert!(refusal.why.contains("a socket"), "{}", refusal.why);
        assert!(refusal.remedy.contains("FIFO"), "{}", refusal.remedy);
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_once_it_is_opened() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("events");
        let target = parse(path.to_str().unwrap()).unwrap();
        assert!(!path.exists());
        let _events = open(Some(target), Instant::now()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
