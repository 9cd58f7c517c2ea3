//! What a process may do, as a report has it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::answers::{Answer, Answers, Question};
use super::super::limits::{Memlock, NodeAccess, ProcessLimits, Verdict};
use super::super::root::HostRoot;

/// The process that made a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessFacts {
    /// Whether its user was root.
    pub(super) root: bool,
    pub(super) memlock: Memlock,
    pub(super) exempt: bool,
}

/// The same with its rights to nodes, in the place of this process.
#[derive(Clone, Debug)]
pub struct ReportedProcess {
    pub(super) facts: ProcessFacts,
    pub(super) answers: Arc<Answers>,
}

impl ReportedProcess {
    /// Whether its user was root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.facts.root
    }
}

impl ProcessLimits for ReportedProcess {
    fn memlock(&self) -> Memlock {
        self.facts.memlock
    }

    fn exempt_from_memlock(&self) -> bool {
        self.facts.exempt
    }

    fn access(&self, node: &Path) -> io::Result<Option<NodeAccess>> {
        match self.answers.lines(node, Question::Node) {
            Ok(lines) => {
                let access = lines.first().and_then(|line| parse_access(line));
                let invalid = || io::ErrorKind::InvalidData.into();
                access.map(Some).ok_or_else(invalid)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A process whose rights to nodes are noted as they are asked for.
pub(super) struct Noted<'a> {
    pub(super) process: &'a dyn ProcessLimits,
    pub(super) root: &'a HostRoot,
}

impl ProcessLimits for Noted<'_> {
    fn memlock(&self) -> Memlock {
        self.process.memlock()
    }

    fn exempt_from_memlock(&self) -> bool {
        self.process.exempt_from_memlock()
    }

    fn access(&self, node: &Path) -> io::Result<Option<NodeAccess>> {
        let found = self.process.access(node);
        let top = self.root.path("");
        let relative = node.strip_prefix(top).unwrap_or(node);
        match &found {
            Ok(None) => {}
            Ok(Some(access)) => self.root.note(relative, Question::Node, &Ok(()), |()| {
                Answer::Lines(vec![access_line(access)])
            }),
            Err(_) => self.root.note(relative, Question::Node, &found, |_| {
                Answer::Lines(Vec::new())
            }),
        }
        found
    }
}

const VERDICTS: [(Verdict, &str); 3] = [
    (Verdict::Granted, "granted"),
    (Verdict::DeniedByMode, "denied-by-mode"),
    (Verdict::DeniedByPolicy, "denied-by-policy"),
];

/// `owner=root group=kvm mode=0660 open=granted`.
pub(super) fn access_line(access: &NodeAccess) -> String {
    let NodeAccess {
        owner,
        group,
        mode,
        verdict,
    } = access;
    let word = VERDICTS.iter().find(|(known, _)| known == verdict);
    let word = word.map_or("", |(_, word)| word);
    format!("owner={owner} group={group} mode={mode:04o} open={word}")
}

pub(super) fn parse_access(line: &str) -> Option<NodeAccess> {
    let mut words = line.split(' ');
    let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    let (owner, group) = (value("owner")?.to_owned(), value("group")?.to_owned());
    let mode = u32::from_str_radix(value("mode")?, 8).ok()?;
    let word = value("open")?;
    let (verdict, _) = VERDICTS.into_iter().find(|(_, known)| *known == word)?;
    words.next().is_none().then_some(NodeAccess {
        owner,
        group,
        mode,
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_to_a_node_is_read_as_it_was_written() {
        for (verdict, _) in VERDICTS {
            let access = NodeAccess {
                owner: "root".to_owned(),
                group: "kvm".to_owned(),
                mode: 0o660,
                verdict,
            };
            assert_eq!(parse_access(&access_line(&access)), Some(access));
        }
        for line in [
            "",
            "owner=root",
            "owner=a group=b mode=9 open=granted",
            "owner=a group=b mode=0 open=no",
        ] {
            assert_eq!(parse_access(line), None, "{line}");
        }
    }
}
