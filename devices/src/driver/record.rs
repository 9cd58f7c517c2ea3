//! What is remembered of a function on vfio-pci: a small file for each, in a folder that a reboot empties.
//!
//! A file has a line `key=value` for each fact; a fact that there is none of has no line:
//!
//! ```text
//! boot-id=5f0f5e0c-…
//! former-driver=igb
//! former-override=pci-stub
//! former-mac=00:00:00:00:00:00
//! former-vlan=0 0
//! former-trust=off
//! former-spoof-check=on
//! owner=4711 123456
//! ```

use super::{DriverError, LinkSetting, MacAddress, Vlan};
use crate::host::{HostError, HostRoot};
use crate::pci::HostSbdf;
use rustix::fs::{FlockOperation, flock};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const FOLDER: &str = "run/ferry/bound";

/// What a function was before it was bound to vfio-pci.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundRecord {
    /// The boot of the host that this is about.
    pub boot_id: String,
    /// The driver that had it; `None` if none had.
    pub former_driver: Option<String>,
    /// The driver it was reserved for by `driver_override`.
    pub former_override: Option<String>,
    /// The settings of a virtual function that were changed after it was bound.
    pub former_link: Vec<LinkSetting>,
    /// The process that it was bound for; `None` if it stays bound until it is unbound.
    pub owner: Option<Owner>,
}

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start: u64,
}

impl fmt::Display for BoundRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "boot-id={}", self.boot_id)?;
        if let Some(driver) = &self.former_driver {
            writeln!(f, "former-driver={driver}")?;
        }
        if let Some(driver) = &self.former_override {
            writeln!(f, "former-override={driver}")?;
        }
        for setting in &self.former_link {
            writeln!(f, "former-{}={}", setting.option(), link_value(*setting))?;
        }
        if let Some(Owner { pid, start }) = self.owner {
            writeln!(f, "owner={pid} {start}")?;
        }
        Ok(())
    }
}

fn link_value(setting: LinkSetting) -> String {
    match setting {
        LinkSetting::Mac(mac) => mac.to_string(),
        LinkSetting::Vlan(Vlan { id, priority }) => format!("{id} {priority}"),
        LinkSetting::Trust(on) | LinkSetting::SpoofCheck(on) => {
            if on { "on" } else { "off" }.to_owned()
        }
    }
}

/// The setting that a line says; `None` if it is none of these.
fn link_setting(key: &str, value: &str) -> Option<LinkSetting> {
    let on = || match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    };
    match key {
        "former-mac" => value.parse::<MacAddress>().ok().map(LinkSetting::Mac),
        "former-vlan" => {
            let (id, priority) = value.split_once(' ')?;
            let (id, priority) = (id.parse().ok()?, priority.parse().ok()?);
            Some(LinkSetting::Vlan(Vlan { id, priority }))
        }
        "former-trust" => on().map(LinkSetting::Trust),
        "former-spoof-check" => on().map(LinkSetting::SpoofCheck),
        _ => None,
    }
}

impl BoundRecord {
    /// One of the boot `boot_id` for a function that had no driver.
    #[must_use]
    pub fn of_boot(boot_id: impl Into<String>) -> Self {
        Self {
            boot_id: boot_id.into(),
            former_driver: None,
            former_override: None,
            former_link: Vec::new(),
            owner: None,
        }
    }

    /// What `text` says, or the fault in it. Keys of a later version are passed over.
    fn parse(text: &str) -> Result<Self, String> {
        let mut boot_id = None;
        let mut record = Self::of_boot(String::new());
        for line in text.lines() {
            let fault = || format!("it has a line '{line}'");
            let (key, value) = line.split_once('=').ok_or_else(fault)?;
            match key {
                "boot-id" => boot_id = Some(value.to_owned()),
                "former-driver" => record.former_driver = Some(value.to_owned()),
                "former-override" => record.former_override = Some(value.to_owned()),
                "former-mac" | "former-vlan" | "former-trust" | "former-spoof-check" => {
                    let setting = link_setting(key, value).ok_or_else(fault)?;
                    record.former_link.push(setting);
                }
                "owner" => record.owner = Some(Owner::parse(value).ok_or_else(fault)?),
                _ => {}
            }
        }
        Ok(Self {
            boot_id: boot_id.ok_or_else(|| "it has no line 'boot-id='".to_owned())?,
            ..record
        })
    }
}

impl Owner {
    /// The process `pid` of now; `None` if there is none, or one that has ended and that its parent has not looked at.
    #[must_use]
    pub fn of(root: &HostRoot, pid: u32) -> Option<Self> {
        const STATE: usize = 3;
        const THREADS: usize = 20;
        const START: usize = 22;
        let stat = root.text_or_empty(format!("proc/{pid}/stat"));
        // The second field is a name in parentheses, which may hold anything.
        let (_, behind) = stat.rsplit_once(')')?;
        let fields: Vec<_> = behind.split_whitespace().collect();
        let field = |number: usize| fields.get(number - STATE).copied();
        // A zombie with threads is one of which not all have ended.
        if field(STATE)? == "Z" && field(THREADS)?.parse::<u32>().ok()? <= 1 {
            return None;
        }
        let start = field(START)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// Whether it has ended; `None` if this user can't see the processes of others (`hidepid=` of procfs).
    #[must_use]
    pub fn has_ended(self, root: &HostRoot) -> Option<bool> {
        const INIT: u32 = 1;
        if Self::of(root, self.pid) == Some(self) {
            return Some(false);
        }
        Self::of(root, INIT).map(|_| true)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub struct BoundRecords {
    folder: PathBuf,
    boot_id: String,
}

impl BoundRecords {
    /// The records of a host's present boot.
    ///
    /// # Errors
    /// When the host does not tell which boot it is.
    pub fn of(root: &HostRoot) -> Result<Self, HostError> {
        Ok(Self {
            folder: root.path(FOLDER),
            boot_id: root
                .text("proc/sys/kernel/random/boot_id")?
                .unwrap_or_default(),
        })
    }

    /// Keeps others from binding and unbinding while the file is open.
    ///
    /// # Errors
    /// When another does so now, or the folder can't be written to.
    pub fn lock(&self) -> Result<File, DriverError> {
        let path = self.folder.join("lock");
        let record = |source| DriverError::Record {
            path: path.clone(),
            source,
        };
        self.make_folder().map_err(record)?;
        // Nobody else may open it, since who can read it can hold it.
        let mode = Permissions::from_mode(0o600);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(record)?;
        file.set_permissions(mode).map_err(record)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DriverError::Busy { path }),
            Err(errno) => Err(record(errno.into())),
        }
    }

    /// The record of a function; none if the host has been booted since it was made.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub fn read(&self, sbdf: HostSbdf) -> Result<Option<BoundRecord>, DriverError> {
        let path = self.path(sbdf);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DriverError::Record { path, source }),
        };
        let record =
            BoundRecord::parse(&text).map_err(|fault| DriverError::BadRecord { path, fault })?;
        Ok(self.of_this_boot(record))
    }

    fn of_this_boot(&self, record: BoundRecord) -> Option<BoundRecord> {
        Some(record).filter(|record| record.boot_id == self.boot_id)
    }

    /// Functions that were bound for a process that has ended without giving them back. What can't be read is left out.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn stale(&self, root: &HostRoot) -> Result<Vec<HostSbdf>, HostError> {
        let names = root.names(FOLDER)?;
        let bound = names.iter().filter_map(|name| name.parse().ok());
        let stale = bound.filter(|sbdf| self.is_stale(root, *sbdf) == Some(true));
        Ok(stale.collect())
    }

    /// Whether a function was bound for a process that has ended without giving it back; `None` if this user may not see
    /// that, or its record is none.
    #[must_use]
    pub fn is_stale(&self, root: &HostRoot, sbdf: HostSbdf) -> Option<bool> {
        let path = Path::new(FOLDER).join(sbdf.to_string());
        let record = match root.text(path).ok()? {
            Some(text) => self.of_this_boot(BoundRecord::parse(&text).ok()?),
            None => None,
        };
        match record.and_then(|record| record.owner) {
            Some(owner) => owner.has_ended(root),
            None => Some(false),
        }
    }

    /// A record of the present boot for a function that has `driver` and `driver_override` now. If one
    /// was begun and not ended, what that one says of the time before still holds.
    ///
    /// # Errors
    /// When an earlier one can't be read.
    pub fn begin(
        &self,
        sbdf: HostSbdf,
        driver: Option<String>,
        driver_override: Option<String>,
        owner: Option<Owner>,
    ) -> Result<BoundRecord, DriverError> {
        let earlier = self.read(sbdf)?;
        let ours = driver_override.as_deref() == Some(super::VFIO_PCI);
        Ok(match earlier {
            Some(earlier) if ours => BoundRecord {
                former_driver: driver.or(earlier.former_driver),
                owner,
                ..earlier
            },
            _ => BoundRecord {
                former_driver: driver,
                former_override: driver_override,
                owner,
                ..BoundRecord::of_boot(self.boot_id.clone())
            },
        })
    }

    /// Puts a record down: all of it, or none after a power cut or a full disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, sbdf: HostSbdf, record: &BoundRecord) -> Result<(), DriverError> {
        let path = self.path(sbdf);
        let new = self.folder.join(format!("{sbdf}.new"));
        let written = || -> io::Result<()> {
            self.make_folder()?;
            let mut file = File::create(&new)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(record.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        written().map_err(|source| {
            // Nothing of it is of use.
            let _ = fs::remove_file(&new);
            DriverError::Record { path, source }
        })
    }

    /// Forgets a function.
    ///
    /// # Errors
    /// When its record stays.
    pub fn remove(&self, sbdf: HostSbdf) -> Result<(), DriverError> {
        let path = self.path(sbdf);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DriverError::Record {
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Everybody may read what is bound, whatever umask the one has who binds.
    fn make_folder(&self) -> io::Result<()> {
        let parent = self.folder.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent.parent().unwrap_or(parent))?;
        for folder in [parent, &self.folder] {
            match fs::create_dir(folder) {
                Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn path(&self, sbdf: HostSbdf) -> PathBuf {
        Path::new(&self.folder).join(sbdf.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{BOOT_ID, Kernel};
    use super::*;
    use crate::host::saved::{GPU, NIC, SavedHost, sbdf};

    fn record() -> BoundRecord {
        BoundRecord {
            former_driver: Some("igb".to_owned()),
            ..BoundRecord::of_boot(BOOT_ID)
        }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let kernel = Kernel::new();
        let records = kernel.records();
        let nic = sbdf(NIC.0);
        assert_eq!(records.read(nic).unwrap(), None);
        let whole = BoundRecord {
            former_override: Some("pci-stub".to_owned()),
            former_link: vec![
                LinkSetting::Mac(MacAddress([0x52, 0x54, 0, 0, 0, 1])),
                LinkSetting::Vlan(Vlan { id: 5, priority: 3 }),
                LinkSetting::Trust(false),
                LinkSetting::SpoofCheck(true),
            ],
            owner: Some(Owner {
                pid: 4711,
                start: u64::MAX,
            }),
            ..record()
        };
        let bare = BoundRecord {
            former_driver: None,
            ..record()
        };
        for record in [whole, bare] {
            records.write(nic, &record).unwrap();
            assert_eq!(records.read(nic).unwrap(), Some(record));
        }
        assert_eq!(kernel.record_names(), [NIC.0]);
        records.remove(nic).unwrap();
        records.remove(nic).unwrap();
        assert_eq!(records.read(nic).unwrap(), None);
    }

    #[test]
    fn record_of_another_boot_says_nothing() {
        let kernel = Kernel::new();
        let old = BoundRecord {
            boot_id: "another".to_owned(),
            ..record()
        };
        let records = kernel.records();
        records.write(sbdf(NIC.0), &old).unwrap();
        assert_eq!(records.read(sbdf(NIC.0)).unwrap(), None);
    }

    #[test]
    fn faults_of_a_record_are_told() {
        for (text, fault) in [
            ("", "it has no line 'boot-id='"),
            ("boot-id=x\nnonsense\n", "it has a line 'nonsense'"),
            ("boot-id=x\nowner=1\n", "it has a line 'owner=1'"),
            (
                "boot-id=x\nformer-vlan=5\n",
                "it has a line 'former-vlan=5'",
            ),
        ] {
            assert_eq!(BoundRecord::parse(text), Err(fault.to_owned()));
        }
        let later = BoundRecord::parse("boot-id=x\ntomorrow=1\n").unwrap();
        assert_eq!(later.former_driver, None);
    }

    #[test]
    fn bind_that_was_cut_short_does_not_become_the_past() {
        let kernel = Kernel::new();
        let records = kernel.records();
        let nic = sbdf(NIC.0);
        records.write(nic, &record()).unwrap();
        let ours = Some("vfio-pci".to_owned());
        let again = records.begin(nic, None, ours, None).unwrap();
        assert_eq!(again, record());
        // Somebody has put it right meanwhile, and given it another driver.
        let other = records.begin(nic, Some("other".to_owned()), None, None);
        assert_eq!(other.unwrap().former_driver.as_deref(), Some("other"));
    }

    #[test]
    fn two_do_not_bind_at_once() {
        let kernel = Kernel::new();
        let records = kernel.records();
        let held = records.lock().unwrap();
        assert!(matches!(records.lock(), Err(DriverError::Busy { .. })));
        drop(held);
        records.lock().unwrap();
    }

    #[test]
    fn what_a_process_that_is_gone_has_left_is_stale() {
        let host = SavedHost::intel();
        host.file("proc/sys/kernel/random/boot_id", "here\n");
        let stat = |start| {
            format!(
                "4711 (fer) ry) S 1 4711 4711 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 {start} 5 6\n"
            )
        };
        host.file("proc/4711/stat", stat(123));
        host.file("proc/1/stat", stat(0));
        let root = host.root();
        let owner = Owner::of(&root, 4711).unwrap();
        assert_eq!(owner.start, 123);
        let records = BoundRecords::of(&root).unwrap();
        for (address, owner) in [("0000:03:00.0", Some(owner)), ("0000:01:00.0", None)] {
            let record = records.begin(sbdf(address), None, None, owner).unwrap();
            records.write(sbdf(address), &record).unwrap();
        }
        assert_eq!(records.stale(&root).unwrap(), []);
        // Another process has the number now.
        host.file("proc/4711/stat", stat(124));
        assert_eq!(records.stale(&root).unwrap(), [sbdf("0000:03:00.0")]);
        host.remove("proc/4711/stat");
        assert_eq!(records.stale(&root).unwrap(), [sbdf("0000:03:00.0")]);
        // One that nobody has waited for yet holds nothing any more, unless threads of it still end.
        let zombie = |threads: u32| {
            stat(123)
                .replace(") S 1", ") Z 1")
                .replace(" 0 3 0 123", &format!(" 0 {threads} 0 123"))
        };
        host.file("proc/4711/stat", zombie(1));
        assert_eq!(records.stale(&root).unwrap(), [sbdf("0000:03:00.0")]);
        host.file("proc/4711/stat", zombie(2));
        assert_eq!(records.stale(&root).unwrap(), []);
    }

    #[test]
    fn who_sees_no_processes_of_others_does_not_judge() {
        let host = SavedHost::intel();
        let root = host.root();
        let records = BoundRecords::of(&root).unwrap();
        let owner = Owner {
            pid: 4711,
            start: 123,
        };
        let nic = sbdf(NIC.0);
        let record = records.begin(nic, None, None, Some(owner)).unwrap();
        records.write(nic, &record).unwrap();
        assert_eq!(records.is_stale(&root, nic), None);
        assert_eq!(records.stale(&root).unwrap(), []);
        host.file(
            "proc/1/stat",
            "1 (init) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 6 7\n",
        );
        assert_eq!(records.is_stale(&root, nic), Some(true));
        assert_eq!(records.is_stale(&root, sbdf(GPU.0)), Some(false));
        host.file("run/ferry/bound/0000:03:00.0", "nonsense\n");
        assert_eq!(records.is_stale(&root, nic), None);
    }
}
