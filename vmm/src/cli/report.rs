//! Reports of a host: `--save-report` and `--report`.

use super::{Exit, Failure, at_root_shell, commands_for};
use devices::driver::BoundRecords;
use devices::host::{CurrentProcess, HostReport, HostRoot, Problem, ProcessLimits};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// More than a host with thousands of functions has.
const SIZE_MAX: u64 = 16 << 20;

/// What a command looks at: this host, or one that a report is of.
pub(super) struct Place {
    pub(super) root: HostRoot,
    /// Whose rights count.
    pub(super) process: Box<dyn ProcessLimits>,
    /// Whether those are root's.
    pub(super) is_root: bool,
    /// Whether who reads what is told types commands as root.
    at_root_shell: bool,
}

impl Place {
    /// The host of a report, or this one.
    ///
    /// # Errors
    /// When there is a report and it can't be read.
    pub(super) fn new(report: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = report else {
            return Ok(Self {
                root: HostRoot::system(),
                process: Box::new(CurrentProcess),
                is_root: rustix::process::geteuid().is_root(),
                at_root_shell: at_root_shell(),
            });
        };
        let report = load(path).map_err(host_failure)?;
        let process = report.process();
        Ok(Self {
            root: report.root(),
            is_root: process.is_root(),
            at_root_shell: process.is_root(),
            process: Box::new(process),
        })
    }

    /// A text with commands as they are typed there.
    pub(super) fn for_reader(&self, text: String) -> String {
        commands_for(self.at_root_shell, text)
    }
}

/// Writes a report of this host to a file that is not there yet.
///
/// # Errors
/// When there is a file of that name, or it can't be written.
pub(super) fn save(path: &Path, place: &Place) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(host_failure(exists(path)));
    }
    let unwritable = |error: io::Error| {
        host_failure(match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Problem::new(
                format!("the report can't be written to {}", path.display()),
                error.to_string(),
                "name a file in a folder that you may write to",
            ),
        })
    };
    let file = NewFile::create(path).map_err(unwritable)?;
    let report = HostReport::of(&place.root, &*place.process, place.is_root, |root| {
        // `ferry devices` tells of what was left bound.
        let _ = BoundRecords::of(root).and_then(|records| records.stale(root));
    });
    file.finish(&report.to_string()).map_err(unwritable)
}

/// A file that gets its name when it is whole; before that, what there is of it goes with this.
struct NewFile<'a> {
    path: &'a Path,
    hidden: PathBuf,
    file: File,
}

impl<'a> NewFile<'a> {
    fn create(path: &'a Path) -> io::Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let hidden = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&hidden)?;
        Ok(Self { path, hidden, file })
    }

    /// The whole text under that name, or nothing, and no other file gone.
    fn finish(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        rename(&self.hidden, self.path)
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // Gone already if it has its name.
        let _ = fs::remove_file(&self.hidden);
    }
}

fn rename(new: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE) {
        // Some file systems (NFS, 9p) can't refuse by themselves.
        Err(Errno::INVAL | Errno::NOSYS) if path.symlink_metadata().is_err() => {
            fs::rename(new, path)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => renamed.map_err(Into::into),
    }
}

fn exists(path: &Path) -> Problem {
    Problem::new(
        format!("{} is there already", path.display()),
        "a report is not written over a file",
        "give another name, or remove that file first",
    )
}

fn load(path: &Path) -> Result<HostReport, Problem> {
    let remedy = "give a file that was written by: ferry check --save-report FILE";
    let problem = |why: String| {
        let what = format!("{} can't be read as a report", path.display());
        Problem::new(what, why, remedy)
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| problem(error.to_string()))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(problem(format!("it has more than {} MiB", SIZE_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| problem("it is no text".to_owned()))?;
    HostReport::parse(&text).map_err(|error| problem(error.to_string()))
}

fn host_failure(problem: Problem) -> Failure {
    Failure {
        exit: Exit::HostSetUp,
        problems: vec![problem],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: &str = "ferry host report 1\nmade-by ferry 0.1.0\nprocess user=root memlock-soft=1 memlock-hard=1 memlock-exempt=no\n";

    fn why(text: impl AsRef<[u8]>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, text).unwrap();
        load(&path).map(|_| ()).unwrap_err().why
    }

    #[test]
    fn report_takes_a_name_that_is_free_and_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        let put = |path: &Path, text| NewFile::create(path).and_then(|file| file.finish(text));
        put(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let error = put(&path, "newer").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(put(&folder.path().join("no/report"), "").is_err());
    }

    #[test]
    fn what_is_no_report_is_told_apart() {
        assert_eq!(
            why("hello\n"),
            "it doesn't begin with 'ferry host report 1'"
        );
        assert_eq!(why([0xff, 0xfe]), "it is no text");
        assert_eq!(
            why("ferry host report 2\n"),
            "it is of version 2, and this ferry reads version 1"
        );
        let long = usize::try_from(SIZE_MAX).unwrap() + 1;
        assert_eq!(why(vec![b'#'; long]), "it has more than 16 MiB");
        assert_eq!(
            why(format!("{TITLE}file /sys/../etc\n")),
            "line 4 has no path that a host can have"
        );
        let missing = load(Path::new("/nonexistent")).map(|_| ()).unwrap_err();
        assert_eq!(missing.why, "No such file or directory (os error 2)");
    }
}
