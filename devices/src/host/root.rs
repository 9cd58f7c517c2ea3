//! The tree the host is read from. Every read goes through here, so that all that was read can be recorded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Problem;
use super::answers::{self, Answer, Answers, Question};
use crate::pci::HostSbdf;

/// Root of the tree holding `sys`, `proc` and `dev`: `/` on a running host, a saved tree in tests; or what a report has of
/// a host that is elsewhere.
#[derive(Clone, Debug)]
pub struct HostRoot {
    source: Source,
    /// Takes down what is read.
    recorder: Option<Arc<Mutex<Answers>>>,
}

#[derive(Clone, Debug)]
enum Source {
    Folder(PathBuf),
    Report(Arc<Answers>),
}

/// Why a fact about the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No function answers at that address.
    #[error("no PCI function {sbdf} on this host")]
    NoSuchFunction {
        /// The address asked for.
        sbdf: HostSbdf,
        /// The functions that exist on the same bus, in order.
        same_bus: Vec<HostSbdf>,
    },
    /// The IOMMU driver made no group of that number.
    #[error("no IOMMU group {group} on this host")]
    NoSuchGroup {
        /// Group number.
        group: u32,
    },
    /// A file that should be there could not be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A file holds something other than its ABI page says.
    #[error("{} holds '{text}', not {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its text, trimmed.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
}

impl HostRoot {
    /// The running host.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/")
    }

    /// A tree below `root`, which holds `sys`, `proc` and `dev`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            source: Source::Folder(root.into()),
            recorder: None,
        }
    }

    /// A host as a report has it: nothing of this machine is read.
    pub(super) fn of_report(answers: Arc<Answers>) -> Self {
        Self {
            source: Source::Report(answers),
            recorder: None,
        }
    }

    /// The same tree, and what is read of it from now on is noted.
    pub(super) fn recording(&self) -> Self {
        Self {
            source: self.source.clone(),
            recorder: Some(Arc::default()),
        }
    }

    /// The same tree, and nothing that is read of it is noted.
    pub(super) fn unnoted(&self) -> Self {
        Self {
            source: self.source.clone(),
            recorder: None,
        }
    }

    /// What has been noted.
    pub(super) fn noted(&self) -> Answers {
        let recorder = self.recorder.as_ref().map(|recorder| {
            let noted = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            noted.clone()
        });
        recorder.unwrap_or_default()
    }

    /// Whether it is a report's, so that there is nothing to open or to write to.
    #[must_use]
    pub fn is_report(&self) -> bool {
        matches!(self.source, Source::Report(_))
    }

    /// Where `relative` (`sys/…`, `proc/…`, `dev/…`) lies; of a report, where it lay.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        match &self.source {
            Source::Folder(root) => root.join(relative),
            Source::Report(_) => Path::new("/").join(relative),
        }
    }

    /// Notes what came back for `relative`, unless that was that there is nothing.
    pub(super) fn note<T>(
        &self,
        relative: &Path,
        question: Question,
        found: &io::Result<T>,
        answer: impl FnOnce(&T) -> Answer,
    ) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let answer = match found {
            Ok(found) => answer(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // Text that is none has no number.
            Err(error) => Answer::Fails(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let mut noted = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        noted.note(answers::absolute(relative), question, answer);
    }

    pub(crate) fn exists(&self, relative: impl AsRef<Path>) -> bool {
        let relative = relative.as_ref();
        let exists = match &self.source {
            Source::Folder(root) => root.join(relative).exists(),
            Source::Report(answers) => answers.exists(relative),
        };
        if exists {
            let nothing = |(): &()| Answer::Lines(Vec::new());
            self.note(relative, Question::There, &Ok(()), nothing);
        }
        exists
    }

    /// What a report says, or what was noted before: a file that is asked for again has not changed then, and some, such as
    /// `/proc/cpuinfo`, take long to read.
    fn answered(&self, relative: &Path, question: Question) -> Option<io::Result<Vec<String>>> {
        if let Source::Report(answers) = &self.source {
            let found = answers.lines(relative, question);
            self.note(relative, question, &found, |lines| {
                Answer::Lines(lines.clone())
            });
            return Some(found);
        }
        let recorder = self.recorder.as_ref()?;
        let noted = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let known = noted.has(&answers::absolute(relative), question);
        known.then(|| noted.lines(relative, question))
    }

    /// Text of a file, trimmed; `None` when there is no such file.
    pub(crate) fn text(&self, relative: impl AsRef<Path>) -> Result<Option<String>, HostError> {
        let relative = relative.as_ref();
        if let Some(lines) = self.answered(relative, Question::Text) {
            return self.if_there(relative, lines.map(|lines| lines.join("\n")));
        }
        let text = fs::read_to_string(self.path(relative));
        let text = text.map(|text| text.trim().to_owned());
        self.note(relative, Question::Text, &text, |text| {
            Answer::Lines(text.split('\n').map(str::to_owned).collect())
        });
        self.if_there(relative, text)
    }

    /// Text of a file, whatever its bytes, that is not noted; `None` when it can't be read.
    pub(super) fn untold_text(&self, relative: &Path) -> Option<String> {
        match &self.source {
            Source::Folder(root) => {
                let bytes = fs::read(root.join(relative)).ok()?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            Source::Report(answers) => {
                let lines = answers.lines(relative, Question::Text).ok()?;
                Some(lines.join("\n"))
            }
        }
    }

    /// The first `most` bytes of a file.
    pub(super) fn bytes(&self, relative: &Path, most: usize) -> io::Result<Vec<u8>> {
        let found = match &self.source {
            Source::Folder(root) => File::open(root.join(relative)).and_then(|file| {
                let mut bytes = Vec::new();
                file.take(most as u64).read_to_end(&mut bytes)?;
                Ok(bytes)
            }),
            Source::Report(answers) => answers.bytes(relative).map(|mut bytes| {
                bytes.truncate(most);
                bytes
            }),
        };
        self.note(relative, Question::Bytes, &found, |bytes| {
            Answer::Bytes(bytes.clone())
        });
        found
    }

    /// `None` for what isn't there.
    fn if_there<T>(&self, relative: &Path, found: io::Result<T>) -> Result<Option<T>, HostError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostError::Read {
                path: self.path(relative),
                source,
            }),
        }
    }

    /// The same where a file that can't be read says as much as one that isn't there.
    pub(crate) fn text_or_empty(&self, relative: impl AsRef<Path>) -> String {
        self.text(relative).ok().flatten().unwrap_or_default()
    }

    /// A decimal number; `None` when there is no such file.
    pub(super) fn count(&self, relative: impl AsRef<Path>) -> Result<Option<u64>, HostError> {
        let path = relative.as_ref();
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(HostError::Malformed {
                path: self.path(path),
                text,
                expected: "a number",
            }),
        }
    }

    /// Last component of a symlink's target, the way sysfs names a driver or a group.
    pub(crate) fn link_name(
        &self,
        relative: impl AsRef<Path>,
    ) -> Result<Option<String>, HostError> {
        let relative = relative.as_ref();
        let found = match self.answered(relative, Question::Link) {
            Some(lines) => lines.map(|lines| lines.into_iter().next()),
            None => {
                let found = fs::read_link(self.path(relative)).map(|target| {
                    let name = target.file_name();
                    name.map(|name| name.to_string_lossy().into_owned())
                });
                self.note(relative, Question::Link, &found, |name| {
                    Answer::Lines(name.iter().cloned().collect())
                });
                found
            }
        };
        Ok(self.if_there(relative, found)?.flatten())
    }

    /// Last component of a path behind all links; the path's own where it leads nowhere.
    pub(super) fn final_name(&self, relative: &Path) -> Option<String> {
        let own = relative.file_name()?.to_string_lossy().into_owned();
        let found = match self.answered(relative, Question::Link) {
            Some(lines) => lines.ok().and_then(|lines| lines.into_iter().next()),
            None => self.path(relative).canonicalize().ok().and_then(|path| {
                let name = path.file_name()?;
                Some(name.to_string_lossy().into_owned())
            }),
        };
        let found = found.unwrap_or_else(|| own.clone());
        if found != own {
            self.note(relative, Question::Link, &Ok(()), |()| {
                Answer::Lines(vec![found.clone()])
            });
        }
        Some(found)
    }

    /// Names in a directory, sorted; none when it isn't there.
    pub(crate) fn names(&self, relative: impl AsRef<Path>) -> Result<Vec<String>, HostError> {
        let relative = relative.as_ref();
        let found = self.list(relative, Question::Folder, |_| true);
        Ok(self.if_there(relative, found)?.unwrap_or_default())
    }

    /// Names of the directories in a directory, links to such not among them, sorted; none where it can't be read.
    pub(super) fn subfolders(&self, relative: &Path) -> Vec<String> {
        let is_folder =
            |entry: &fs::DirEntry| entry.file_type().is_ok_and(|file_type| file_type.is_dir());
        self.list(relative, Question::Subfolders, is_folder)
            .unwrap_or_default()
    }

    fn list(
        &self,
        relative: &Path,
        question: Question,
        wanted: impl Fn(&fs::DirEntry) -> bool,
    ) -> io::Result<Vec<String>> {
        if let Some(names) = self.answered(relative, question) {
            return names;
        }
        let found = fs::read_dir(self.path(relative)).and_then(|entries| {
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if wanted(&entry) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort();
            Ok(names)
        });
        self.note(relative, question, &found, |names| {
            Answer::Lines(names.clone())
        });
        found
    }
}

impl HostError {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::NoSuchFunction { sbdf, same_bus } => {
                let why = if same_bus.is_empty() {
                    "there is no function on that bus at all".to_owned()
                } else {
                    let list: Vec<_> = same_bus.iter().map(HostSbdf::to_string).collect();
                    format!("that bus holds only {}", list.join(", "))
                };
                Problem::new(
                    format!("no PCI device {sbdf} on this host"),
                    why,
                    "list the devices and their addresses: ferry devices --all",
                )
            }
            Self::NoSuchGroup { group } => Problem::new(
                format!("no IOMMU group {group} on this host"),
                format!("/sys/kernel/iommu_groups/{group} is missing"),
                "list the groups: ls /sys/kernel/iommu_groups",
            ),
            Self::Read { path, source } => Problem::new(
                format!("can't read {}", path.display()),
                source.to_string(),
                format!("look at it: ls -ld {}", path.display()),
            ),
            Self::Malformed {
                path,
                text,
                expected,
            } => Problem::new(
                format!("{} is not understood", path.display()),
                format!("it holds '{text}', not {expected}"),
                "report this with the output of: uname -r; lspci -vv",
            ),
        }
    }
}
