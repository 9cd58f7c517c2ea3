//! What a host was asked and what it answered: recorded while it is read, and read again instead of it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A way in which a path of the host can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// Whether there is something.
    There,
    /// The last component of what a link leads to.
    Link,
    /// All names in a folder.
    Folder,
    /// The names of the real folders in it.
    Subfolders,
    /// The text of a file, trimmed.
    Text,
    /// The first bytes of a file.
    Bytes,
    /// A device node, and this process's right to it.
    Node,
}

/// What came back. What isn't there has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Text or names.
    Lines(Vec<String>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// It is there and can't be read: errno.
    Fails(i32),
}

/// Answers by path, which begins with a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers(BTreeMap<(String, Question), Answer>);

impl Answers {
    /// Notes an answer. Of two on the same bytes the longer stays.
    pub(super) fn note(&mut self, path: String, question: Question, answer: Answer) {
        let key = (path, question);
        if let (Some(Answer::Bytes(old)), Answer::Bytes(new)) = (self.0.get(&key), &answer)
            && old.len() > new.len()
        {
            return;
        }
        self.0.insert(key, answer);
    }

    /// All, in the order of their paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Question, &Answer)> {
        let all = self.0.iter();
        all.map(|((path, question), answer)| (path.as_str(), *question, answer))
    }

    pub(super) fn has(&self, path: &str, question: Question) -> bool {
        self.0.contains_key(&(path.to_owned(), question))
    }

    /// Less answers that something is there where another says so.
    pub(super) fn without_the_obvious(mut self) -> Self {
        let obvious = self.0.keys().filter(|(path, question)| {
            let below = format!("{path}/");
            let known = self.0.range((path.clone(), Question::Link)..).next();
            let known_below = self.0.range((below.clone(), Question::There)..).next();
            *question == Question::There
                && (known.is_some_and(|((other, _), _)| other == path)
                    || known_below.is_some_and(|((other, _), _)| other.starts_with(&below)))
        });
        let obvious: Vec<_> = obvious.cloned().collect();
        for key in obvious {
            self.0.remove(&key);
        }
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is an answer on a path or on one below it.
    pub(super) fn exists(&self, relative: &Path) -> bool {
        let path = absolute(relative);
        let first_from = |path: &str| {
            let from = (path.to_owned(), Question::There);
            self.0.range(from..).next().map(|((path, _), _)| path)
        };
        let below = format!("{path}/");
        first_from(&path).is_some_and(|found| *found == path)
            || first_from(&below).is_some_and(|found| found.starts_with(&below))
    }

    /// The lines of an answer.
    pub(super) fn lines(&self, relative: &Path, question: Question) -> io::Result<Vec<String>> {
        match self.get(absolute(relative), question)? {
            Answer::Lines(lines) => Ok(lines.clone()),
            Answer::Bytes(_) | Answer::Fails(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The bytes of an answer.
    pub(super) fn bytes(&self, relative: &Path) -> io::Result<Vec<u8>> {
        match self.get(absolute(relative), Question::Bytes)? {
            Answer::Bytes(bytes) => Ok(bytes.clone()),
            Answer::Lines(_) | Answer::Fails(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn get(&self, path: String, question: Question) -> io::Result<&Answer> {
        match self.0.get(&(path, question)) {
            Some(Answer::Fails(errno)) => Err(io::Error::from_raw_os_error(*errno)),
            Some(answer) => Ok(answer),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A path relative to the root, as answers have it.
pub(super) fn absolute(relative: &Path) -> String {
    format!("/{}", relative.to_string_lossy().trim_start_matches('/'))
}
