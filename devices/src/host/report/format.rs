//! The text of a report.
//!
//! ```text
//! ferry host report 1
//! # comments
//! made-by ferry 0.1.0
//! process user=root memlock-soft=8388608 memlock-hard=unlimited memlock-exempt=yes
//!
//! file /sys/bus/pci/devices/0000:01:00.0/vendor
//!   0x8086
//! link /sys/bus/pci/devices/0000:01:00.0/driver
//!   igb
//! ```
//!
//! An entry is a line with its kind and its path, and indented lines with what was found there.

use super::super::answers::{Answer, Answers, Question};
use super::super::limits::Memlock;
use super::HostReport;
use super::masks::MASKS;
use super::process::{self, ProcessFacts};
use crate::pci::ConfigOffset;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The first line, up to the version.
const TITLE: &str = "ferry host report ";
/// The version that this program writes and reads.
const VERSION: &str = "1";
const MADE_BY: &str = "made-by ferry ";
const INDENT: &str = "  ";
/// An entry of what could not be read begins with this word.
const FAILS: &str = "fails";
const BYTES_A_LINE: usize = 16;

/// Far more than a large host has, and little enough to be gone through in no time.
const ENTRIES_MAX: usize = 200_000;
const NAMES_MAX: usize = 4096;
const PATH_MAX: usize = 1024;
const DEPTH_MAX: usize = 48;
const ERRNO_MAX: i32 = 4095;

const KINDS: [(Question, &str); 7] = [
    (Question::There, "there"),
    (Question::Link, "link"),
    (Question::Folder, "folder"),
    (Question::Subfolders, "subfolders"),
    (Question::Text, "file"),
    (Question::Bytes, "bytes"),
    (Question::Node, "node"),
];

/// Why a text is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It doesn't begin like one.
    #[error("it doesn't begin with '{TITLE}{VERSION}'")]
    NoReport,
    /// It is of a version that this program doesn't know.
    #[error("it is of version {version}, and this ferry reads version {VERSION}")]
    Version {
        /// Its version.
        version: String,
    },
    /// A line is not as it has to be.
    #[error("line {line} {fault}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
}

/// As it is saved.
impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}{VERSION}")?;
        writeln!(
            f,
            "# What \"ferry check\" and \"ferry devices\" have read of a host. Look through it before you hand it on."
        )?;
        writeln!(
            f,
            "# Not all of what was read is here. Of these files only that stays which is named:"
        )?;
        for mask in MASKS {
            writeln!(f, "#   {}: {} ({})", mask.path, mask.stays, mask.why)?;
        }
        writeln!(f, "{MADE_BY}{}", env!("CARGO_PKG_VERSION"))?;
        let ProcessFacts {
            root,
            memlock,
            exempt,
        } = self.process;
        let limit =
            |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        writeln!(
            f,
            "process user={} memlock-soft={} memlock-hard={} memlock-exempt={}",
            if root { "root" } else { "other" },
            limit(memlock.soft),
            limit(memlock.hard),
            if exempt { "yes" } else { "no" }
        )?;
        writeln!(f)?;
        for (path, question, answer) in self.answers.iter() {
            entry(f, path, question, answer)?;
        }
        Ok(())
    }
}

fn entry(
    f: &mut fmt::Formatter<'_>,
    path: &str,
    question: Question,
    answer: &Answer,
) -> fmt::Result {
    let kind = KINDS.iter().find(|(known, _)| *known == question);
    let kind = kind.map_or("", |(_, word)| word);
    if let Answer::Fails(errno) = answer {
        writeln!(f, "{FAILS} {kind} {path}")?;
        return writeln!(
            f,
            "{INDENT}{errno} {}",
            io::Error::from_raw_os_error(*errno)
        );
    }
    writeln!(f, "{kind} {path}")?;
    match answer {
        Answer::Lines(lines) if lines.concat().is_empty() => Ok(()),
        Answer::Lines(lines) => lines
            .iter()
            .try_for_each(|line| writeln!(f, "{INDENT}{line}")),
        Answer::Bytes(bytes) => hexadecimal(f, bytes),
        Answer::Fails(_) => Ok(()),
    }
}

/// How many there are, then lines of sixteen behind their offset, as lspci -x has them, less those of zeroes.
fn hexadecimal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    writeln!(f, "{INDENT}{} bytes", bytes.len())?;
    for (number, chunk) in bytes.chunks(BYTES_A_LINE).enumerate() {
        if chunk.iter().all(|byte| *byte == 0) {
            continue;
        }
        write!(f, "{INDENT}{:02x}:", number * BYTES_A_LINE)?;
        chunk.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        writeln!(f)?;
    }
    Ok(())
}

impl HostReport {
    /// Reads what was saved.
    ///
    /// # Errors
    /// What is wrong with the text, with the line.
    pub fn parse(text: &str) -> Result<Self, ReportError> {
        let mut lines = Lines::new(text);
        let title = lines.next().and_then(|line| line.text.strip_prefix(TITLE));
        let version = title.ok_or(ReportError::NoReport)?;
        if version != VERSION {
            return Err(ReportError::Version {
                version: version
                    .chars()
                    .filter(|letter| !super::is_invisible(*letter))
                    .take(20)
                    .collect(),
            });
        }
        // By any ferry: the version of the format decides.
        let by_ferry = lines
            .next()
            .is_some_and(|line| line.text.starts_with(MADE_BY));
        let line = lines
            .next()
            .filter(|_| by_ferry)
            .ok_or(ReportError::NoReport)?;
        let process = parse_process(line.text);
        let process = process.ok_or_else(|| line.fault("does not tell of the process"))?;
        let mut answers = Answers::default();
        while let Some(line) = lines.next() {
            if answers.len() >= ENTRIES_MAX {
                return Err(line.fault("is one entry too many"));
            }
            let (path, question, answer) = parse_entry(line, &mut lines)?;
            if answers.has(path, question) {
                return Err(line.fault("is there twice"));
            }
            answers.note(path.to_owned(), question, answer);
        }
        Ok(Self {
            process,
            answers: Arc::new(answers),
        })
    }
}

/// A line that says something.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    text: &'a str,
}

impl Line<'_> {
    fn fault(self, fault: &'static str) -> ReportError {
        ReportError::Line {
            line: self.number,
            fault,
        }
    }
}

/// The lines of a report but for comments and empty ones.
struct Lines<'a>(std::iter::Peekable<Box<dyn Iterator<Item = Line<'a>> + 'a>>);

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let lines = text.lines().enumerate().map(|(index, text)| Line {
            number: index + 1,
            text,
        });
        let telling = lines.filter(|line| !line.text.is_empty() && !line.text.starts_with('#'));
        let telling: Box<dyn Iterator<Item = Line<'a>>> = Box::new(telling);
        Self(telling.peekable())
    }

    fn next(&mut self) -> Option<Line<'a>> {
        self.0.next()
    }

    /// What the next line says if it belongs to the entry before it.
    fn next_of_entry(&mut self) -> Option<Line<'a>> {
        let next = self.0.next_if(|line| line.text.starts_with(INDENT))?;
        Some(Line {
            text: next.text.strip_prefix(INDENT)?,
            ..next
        })
    }
}

fn parse_process(line: &str) -> Option<ProcessFacts> {
    let mut words = line.strip_prefix("process ")?.split(' ');
    let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    let limit = |text: &str| match text {
        "unlimited" => Some(None),
        bytes => bytes.parse().ok().map(Some),
    };
    Some(ProcessFacts {
        root: match value("user")? {
            "root" => true,
            "other" => false,
            _ => return None,
        },
        memlock: Memlock {
            soft: limit(value("memlock-soft")?)?,
            hard: limit(value("memlock-hard")?)?,
        },
        exempt: match value("memlock-exempt")? {
            "yes" => true,
            "no" => false,
            _ => return None,
        },
    })
}

fn parse_entry<'a>(
    head: Line<'a>,
    lines: &mut Lines<'a>,
) -> Result<(&'a str, Question, Answer), ReportError> {
    let unknown = || head.fault("is no entry of a report");
    let (mut kind, mut path) = head.text.split_once(' ').ok_or_else(unknown)?;
    let fails = kind == FAILS;
    if fails {
        (kind, path) = path.split_once(' ').ok_or_else(unknown)?;
    }
    let (question, _) = KINDS
        .into_iter()
        .find(|(_, word)| *word == kind)
        .ok_or_else(unknown)?;
    if !is_path(path) {
        return Err(head.fault("has no path that a host can have"));
    }
    let mut body = Vec::new();
    while let Some(line) = lines.next_of_entry() {
        if line
            .text
            .chars()
            .any(|letter| letter != '\t' && super::is_invisible(letter))
        {
            return Err(line.fault("has letters that can't be seen"));
        }
        body.push(line);
    }
    let answer = if fails {
        Answer::Fails(parse_errno(&body).ok_or_else(|| head.fault("has no errno"))?)
    } else {
        parse_answer(question, &body).ok_or_else(|| head.fault("has nothing that can be there"))?
    };
    Ok((path, question, answer))
}

/// Whether it begins at the root, goes nowhere but down, and not too far.
fn is_path(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else {
        return false;
    };
    path.len() <= PATH_MAX
        && !path.chars().any(super::is_invisible)
        && relative.split('/').count() <= DEPTH_MAX
        && relative.split('/').all(is_name)
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

fn parse_errno(body: &[Line<'_>]) -> Option<i32> {
    let errno = body.first()?.text.split(' ').next()?.parse().ok()?;
    (1..=ERRNO_MAX).contains(&errno).then_some(errno)
}

fn parse_answer(question: Question, body: &[Line<'_>]) -> Option<Answer> {
    let lines = || {
        body.iter()
            .map(|line| line.text.to_owned())
            .collect::<Vec<_>>()
    };
    let good = match question {
        Question::There => body.is_empty(),
        Question::Link => body.len() == 1 && is_name(body.first()?.text),
        Question::Folder | Question::Subfolders => {
            body.len() <= NAMES_MAX && body.iter().all(|line| is_name(line.text))
        }
        Question::Text => true,
        Question::Node => body.len() == 1 && process::parse_access(body.first()?.text).is_some(),
        Question::Bytes => return parse_bytes(body).map(Answer::Bytes),
    };
    good.then(|| Answer::Lines(lines()))
}

fn parse_bytes(body: &[Line<'_>]) -> Option<Vec<u8>> {
    let (count, rest) = body.split_first()?;
    let count: usize = count.text.strip_suffix(" bytes")?.parse().ok()?;
    if count > usize::from(ConfigOffset::SPACE) {
        return None;
    }
    let mut bytes = vec![0; count];
    for line in rest {
        let (offset, values) = line.text.split_once(':')?;
        let offset = usize::from_str_radix(offset, 16).ok()?;
        let values: Result<Vec<u8>, _> = values
            .split_whitespace()
            .map(|value| u8::from_str_radix(value, 16))
            .collect();
        let values = values.ok()?;
        let range = offset..offset.checked_add(values.len())?;
        bytes.get_mut(range)?.copy_from_slice(&values);
    }
    Some(bytes)
}
