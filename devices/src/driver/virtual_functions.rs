//! SR-IOV: virtual functions made and removed (PCI Express 5.0 section 9.2; Documentation/PCI/pci-iov-howto.rst).

use super::{Attributes, DriverError};
use crate::host::{HostError, HostFunction, HostRoot, HostUse, Problem, explain_busy};
use crate::pci::HostSbdf;
use std::path::PathBuf;

/// Why a function has not as many virtual functions as asked for.
#[derive(Debug, thiserror::Error)]
pub enum VirtualFunctionsError {
    /// A fact about the host could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It has no SR-IOV capability.
    #[error("{function} can't have virtual functions")]
    NotPhysical {
        /// The function.
        function: HostFunction,
        /// The physical function, if it is a virtual one itself.
        physical: Option<HostSbdf>,
    },
    /// More than there may be.
    #[error("{function} can't have {asked} virtual functions")]
    TooMany {
        /// The function.
        function: HostFunction,
        /// How many were asked for.
        asked: u64,
        /// How many there may be.
        total: u64,
    },
    /// A virtual function that would go is open in some process.
    #[error("{sbdf} is in use, a virtual function that would go")]
    Open {
        /// The virtual function.
        sbdf: HostSbdf,
        /// What its group's holder is.
        busy: Problem,
    },
    /// The host uses a virtual function that would go.
    #[error("{sbdf} is in use by the host, a virtual function that would go")]
    Used {
        /// The virtual function.
        sbdf: HostSbdf,
        /// What for.
        uses: Vec<HostUse>,
    },
    /// None is there that nobody has.
    #[error("{function} has no free virtual function")]
    NoneFree {
        /// The function.
        function: HostFunction,
        /// How many there may be.
        total: u64,
        /// Those that there are, and who has each.
        taken: Vec<(HostSbdf, String)>,
    },
    /// The kernel or the driver did not make or remove them.
    #[error("{function} has not got {asked} virtual functions")]
    Refused {
        /// The function.
        function: HostFunction,
        /// How many were asked for.
        asked: u64,
        /// What the kernel answered.
        #[source]
        source: Box<DriverError>,
        /// How many there are now: as many as before, if those could be made again.
        left: u64,
    },
}

/// Gives the function `sbdf` as many virtual functions as `count`, and none of those it had: the kernel makes all or
/// none. Nothing is changed if there are as many already. With `force`, those that the host uses go, too.
///
/// # Errors
/// [`VirtualFunctionsError`]. If the kernel fails, as many as before are made again.
pub fn set_virtual_functions(
    root: &HostRoot,
    attributes: &dyn Attributes,
    sbdf: HostSbdf,
    (count, force): (u64, bool),
) -> Result<Vec<HostSbdf>, VirtualFunctionsError> {
    let function = root.function(sbdf)?;
    let Some(has) = root.virtual_functions(sbdf)? else {
        let physical = root.physical_function(sbdf)?;
        return Err(VirtualFunctionsError::NotPhysical { function, physical });
    };
    if count > has.total {
        return Err(VirtualFunctionsError::TooMany {
            function,
            asked: count,
            total: has.total,
        });
    }
    if count != has.enabled {
        nobody_loses(root, sbdf, force)?;
        let change = Change {
            root,
            attributes,
            sbdf,
        };
        if let Err(source) = change.from(has.enabled).and_then(|()| change.to(count)) {
            let _ = change.to(has.enabled);
            return Err(VirtualFunctionsError::Refused {
                function,
                asked: count,
                source: Box::new(source),
                left: root.virtual_functions(sbdf)?.map_or(0, |now| now.enabled),
            });
        }
    }
    Ok(root.virtual_functions_of(sbdf)?)
}

/// Whether the virtual functions of `physical` can go, or change under whoever has them.
///
/// # Errors
/// [`VirtualFunctionsError::Open`], and [`VirtualFunctionsError::Used`] unless `force` is given.
pub fn nobody_loses(
    root: &HostRoot,
    physical: HostSbdf,
    force: bool,
) -> Result<(), VirtualFunctionsError> {
    for sbdf in root.virtual_functions_of(physical)? {
        let group = root.function(sbdf)?.group;
        if let Some(group) = group
            && !root.holders_of_group(group)?.is_empty()
        {
            let busy = explain_busy(root, group);
            return Err(VirtualFunctionsError::Open { sbdf, busy });
        }
        let uses = root.host_uses_by_processes(sbdf)?;
        if !uses.is_empty() && !force {
            return Err(VirtualFunctionsError::Used { sbdf, uses });
        }
    }
    Ok(())
}

struct Change<'a> {
    root: &'a HostRoot,
    attributes: &'a dyn Attributes,
    sbdf: HostSbdf,
}

impl Change<'_> {
    /// The kernel makes none while there are some.
    fn from(&self, enabled: u64) -> Result<(), DriverError> {
        if enabled == 0 { Ok(()) } else { self.write(0) }
    }

    fn to(&self, count: u64) -> Result<(), DriverError> {
        let enabled = self.root.virtual_functions(self.sbdf)?;
        if enabled.is_some_and(|now| now.enabled == count) {
            return Ok(());
        }
        self.write(count)
    }

    fn write(&self, count: u64) -> Result<(), DriverError> {
        let path = PathBuf::from(format!("sys/bus/pci/devices/{}/sriov_numvfs", self.sbdf));
        let text = count.to_string();
        self.attributes
            .write(&path, &text)
            .map_err(|source| DriverError::Write {
                path: PathBuf::from("/").join(path),
                text,
                source,
            })
    }
}

impl VirtualFunctionsError {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::Host(error) => return error.problem(),
            Self::NotPhysical {
                physical: Some(physical),
                ..
            } => (
                "it is a virtual function itself".to_owned(),
                format!("name its physical function: ferry vf list {physical}"),
            ),
            Self::NotPhysical { .. } => (
                "it has no SR-IOV, or its firmware or slot has turned that off".to_owned(),
                "see which devices have it, in the column VFS: ferry devices --all".to_owned(),
            ),
            Self::TooMany { total: 0, .. } => (
                "its driver allows none".to_owned(),
                "see which devices may have some, in the column VFS: ferry devices --all"
                    .to_owned(),
            ),
            Self::TooMany {
                function, total, ..
            } => (
                format!("it may have {total} at most"),
                format!("sudo ferry vf set {} {total}", function.sbdf),
            ),
            Self::Open { busy, .. } => (busy.why.clone(), busy.remedy.clone()),
            Self::Used { uses, .. } => {
                let uses: Vec<_> = uses.iter().map(ToString::to_string).collect();
                (
                    uses.join("; "),
                    "have the host use something else first, or say --force".to_owned(),
                )
            }
            Self::NoneFree {
                function,
                total,
                taken,
            } => none_free(function.sbdf, *total, taken),
            Self::Refused {
                function,
                source,
                left,
                ..
            } => {
                let cause = source.problem();
                let driver = match &function.driver {
                    Some(driver) => format!("its driver is {driver}"),
                    None => "it has no driver, whose part that is".to_owned(),
                };
                (
                    format!("{}: {}; {driver}; it has {left} now", cause.what, cause.why),
                    cause.remedy,
                )
            }
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

fn none_free(sbdf: HostSbdf, total: u64, taken: &[(HostSbdf, String)]) -> (String, String) {
    if taken.is_empty() {
        return (
            format!("it has none now, and may have {total}"),
            format!("sudo ferry vf set {sbdf} {total}"),
        );
    }
    let taken: Vec<_> = taken
        .iter()
        .map(|(of, who)| format!("{of}: {who}"))
        .collect();
    (
        taken.join("; "),
        format!(
            "make one free, e.g. by ferry unbind or ip link set down; they are listed by: ferry vf list {sbdf}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::saved::{NIC, SavedHost, sbdf};
    use std::cell::RefCell;
    use std::io;
    use std::path::Path;

    const DIRECTORY: &str = "sys/bus/pci/devices/0000:03:00.0";

    /// A host whose NIC may have seven virtual functions, and the kernel's part.
    struct Card {
        host: SavedHost,
        writes: RefCell<Vec<String>>,
        /// A count that the driver can't make.
        impossible: Option<&'static str>,
    }

    impl Card {
        fn with(enabled: u64) -> Self {
            let host = SavedHost::intel();
            host.function(NIC, Some("igb"), Some(16));
            host.file(&format!("{DIRECTORY}/sriov_totalvfs"), "7\n");
            let card = Self {
                host,
                writes: RefCell::default(),
                impossible: None,
            };
            card.make(enabled);
            card
        }

        fn make(&self, count: u64) {
            self.host
                .file(&format!("{DIRECTORY}/sriov_numvfs"), format!("{count}\n"));
            for index in 0..7 {
                let address = format!("0000:03:10.{index}");
                let link = format!("{DIRECTORY}/virtfn{index}");
                if index < count {
                    let identity = (address.as_str(), "8086:10ca", "0x020000");
                    self.host.function(identity, None, Some(30));
                    self.host.link(&link, &format!("../{address}"));
                } else if self.host.root().path(&link).is_symlink() {
                    std::fs::remove_file(self.host.root().path(&link)).unwrap();
                }
            }
        }

        fn set(&self, count: u64) -> Result<Vec<HostSbdf>, VirtualFunctionsError> {
            set_virtual_functions(&self.host.root(), self, sbdf(NIC.0), (count, false))
        }
    }

    impl Attributes for Card {
        fn write(&self, path: &Path, text: &str) -> io::Result<()> {
            assert_eq!(path, Path::new(DIRECTORY).join("sriov_numvfs"));
            self.writes.borrow_mut().push(text.to_owned());
            if self.impossible == Some(text) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.make(text.parse().unwrap());
            Ok(())
        }
    }

    #[test]
    fn as_many_as_asked_for_are_made_and_told() {
        let card = Card::with(0);
        let made = card.set(2).unwrap();
        assert_eq!(made, [sbdf("0000:03:10.0"), sbdf("0000:03:10.1")]);
        assert_eq!(*card.writes.borrow(), ["2"]);
    }

    #[test]
    fn another_count_goes_by_way_of_none() {
        let card = Card::with(2);
        assert_eq!(card.set(3).unwrap().len(), 3);
        assert_eq!(card.set(3).unwrap().len(), 3);
        assert_eq!(card.set(0).unwrap(), []);
        assert_eq!(*card.writes.borrow(), ["0", "3", "0"]);
    }

    #[test]
    fn as_many_as_before_are_made_again_when_the_kernel_fails() {
        let mut card = Card::with(2);
        card.impossible = Some("5");
        let problem = card.set(5).unwrap_err().problem();
        assert_eq!(*card.writes.borrow(), ["0", "5", "2"]);
        assert!(
            problem.why.contains("its driver is igb; it has 2 now"),
            "{problem}"
        );
    }

    #[test]
    fn too_many_and_none_possible_are_told_before_anything_is_written() {
        let card = Card::with(2);
        let problem = card.set(8).unwrap_err().problem();
        assert_eq!(problem.why, "it may have 7 at most");
        let none = Card::with(0);
        none.host
            .file(&format!("{DIRECTORY}/sriov_totalvfs"), "0\n");
        let problem = none.set(1).unwrap_err().problem();
        assert_eq!(problem.why, "its driver allows none");
        assert!(problem.remedy.ends_with("ferry devices --all"), "{problem}");
        let set = |at| set_virtual_functions(&card.host.root(), &card, sbdf(at), (1, false));
        let problem = set("0000:01:00.0").unwrap_err().problem();
        assert!(problem.why.starts_with("it has no SR-IOV"), "{problem}");
        card.host
            .link("sys/bus/pci/devices/0000:03:10.0/physfn", "../0000:03:00.0");
        let problem = set("0000:03:10.0").unwrap_err().problem();
        assert!(
            problem.remedy.ends_with("ferry vf list 0000:03:00.0"),
            "{problem}"
        );
        assert_eq!(*card.writes.borrow(), <[&str; 0]>::default());
    }

    #[test]
    fn a_virtual_function_that_a_guest_has_does_not_go() {
        let card = Card::with(2);
        card.host.file("proc/4711/comm", "ferry\n");
        card.host.link("proc/4711/fd/9", "/dev/vfio/30");
        let problem = card.set(0).unwrap_err().problem();
        assert!(problem.why.contains("ferry (pid 4711)"), "{problem}");
        assert_eq!(*card.writes.borrow(), <[&str; 0]>::default());
    }

    #[test]
    fn a_virtual_function_that_the_host_uses_goes_by_force_only() {
        let card = Card::with(1);
        card.host
            .file("sys/bus/pci/devices/0000:03:10.0/boot_vga", "1\n");
        assert!(matches!(
            card.set(0),
            Err(VirtualFunctionsError::Used { .. })
        ));
        set_virtual_functions(&card.host.root(), &card, sbdf(NIC.0), (0, true)).unwrap();
        assert_eq!(*card.writes.borrow(), ["0"]);
    }
}
