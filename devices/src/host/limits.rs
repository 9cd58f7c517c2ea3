//! What this process may do: locked memory and device nodes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{Resource, getrlimit};

/// RLIMIT_MEMLOCK in bytes; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// What the kernel enforces.
    pub soft: Option<u64>,
    /// What the process may raise it to.
    pub hard: Option<u64>,
}

/// Whether a node may be opened for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Granted,
    /// Owner, group, mode and ACL forbid it (EACCES).
    DeniedByMode,
    /// The device cgroup or a security module forbids it (EPERM).
    DeniedByPolicy,
}

/// A device node and this process's right to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccess {
    /// Owner's name, or its number when it has none.
    pub owner: String,
    /// Group's name, or its number when it has none.
    pub group: String,
    /// The permission bits.
    pub mode: u32,
    /// The kernel's answer.
    pub verdict: Verdict,
}

impl NodeAccess {
    /// How to join the node's group, where that would do; never root's.
    pub(super) fn join_remedy(&self) -> Option<String> {
        let joinable = self.mode & 0o060 == 0o060 && self.group != "root";
        joinable.then(|| {
            format!(
                "join its group, then log out and in again: sudo usermod -aG {} $USER",
                self.group
            )
        })
    }

    /// Why it can't be opened.
    pub(super) fn reason(&self) -> String {
        let Self {
            owner,
            group,
            mode,
            verdict,
        } = self;
        let rights = format!("owner {owner}, group {group}, mode {mode:04o}");
        match verdict {
            Verdict::DeniedByPolicy => {
                format!("a device cgroup or a security module forbids it, not its mode ({rights})")
            }
            Verdict::Granted | Verdict::DeniedByMode => {
                format!("{rights}: that leaves this user out")
            }
        }
    }

    /// What to do where the device cgroup keeps a process out.
    pub(super) fn policy_remedy(&self, node: &str) -> String {
        format!(
            "allow it with DeviceAllow={node} rw (systemd unit) or --device {node} (docker, podman)"
        )
    }
}

/// The limits of a process that the kernel will hold against it; a trait so that tests state them.
pub trait ProcessLimits {
    /// RLIMIT_MEMLOCK.
    fn memlock(&self) -> Memlock;

    /// Whether RLIMIT_MEMLOCK is not enforced: CAP_IPC_LOCK in the initial user namespace.
    fn exempt_from_memlock(&self) -> bool;

    /// Right to open a node for reading and writing, without opening it; `None` when it isn't there.
    ///
    /// # Errors
    /// When neither its metadata nor the kernel's answer can be had.
    fn access(&self, node: &Path) -> io::Result<Option<NodeAccess>>;
}

/// The calling process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CurrentProcess;

impl ProcessLimits for CurrentProcess {
    fn memlock(&self) -> Memlock {
        let limit = getrlimit(Resource::Memlock);
        Memlock {
            soft: limit.current,
            hard: limit.maximum,
        }
    }

    fn exempt_from_memlock(&self) -> bool {
        // capable() asks the initial user namespace: root of a container's namespace doesn't count.
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        holds_ipc_lock(&read("/proc/self/status"))
            && is_initial_namespace(&read("/proc/self/uid_map"))
    }

    fn access(&self, node: &Path) -> io::Result<Option<NodeAccess>> {
        let metadata = match fs::metadata(node) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let wanted = Access::READ_OK | Access::WRITE_OK;
        let verdict = match rustix::fs::accessat(CWD, node, wanted, AtFlags::EACCESS) {
            Ok(()) => Verdict::Granted,
            Err(rustix::io::Errno::ACCESS) => Verdict::DeniedByMode,
            Err(rustix::io::Errno::PERM) => Verdict::DeniedByPolicy,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Some(NodeAccess {
            owner: account_name("/etc/passwd", metadata.uid()),
            group: account_name("/etc/group", metadata.gid()),
            mode: metadata.mode() & 0o7777,
            verdict,
        }))
    }
}

/// `CapEff` of /proc/self/status has CAP_IPC_LOCK (capability 14).
fn holds_ipc_lock(status: &str) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_IPC_LOCK != 0)
}

/// The initial user namespace maps every id to itself.
fn is_initial_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn account_name(file: &str, id: u32) -> String {
    let table = fs::read_to_string(file).unwrap_or_default();
    name_of(&table, id).unwrap_or_else(|| id.to_string())
}

/// Name of an id in `/etc/passwd` or `/etc/group`, which both have it in the third field.
fn name_of(table: &str, id: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn cap_ipc_lock_is_bit_14_of_capeff() {
        assert!(holds_ipc_lock(
            "Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000004000\n"
        ));
        assert!(!holds_ipc_lock("CapEff:\t00000000ffffbfff\n"));
        assert!(!holds_ipc_lock(""));
    }

    #[test]
    fn root_of_a_user_namespace_is_not_exempt() {
        assert!(is_initial_namespace("         0          0 4294967295\n"));
        assert!(!is_initial_namespace("         0       1000          1\n"));
        assert!(!is_initial_namespace(""));
    }

    #[test]
    fn names_come_from_the_third_field() {
        let table = "root:x:0:\nkvm:x:104:alice\n";
        assert_eq!(name_of(table, 104).as_deref(), Some("kvm"));
        assert_eq!(name_of(table, 1), None);
    }

    #[test]
    fn kernel_is_asked_about_nodes() {
        let process = CurrentProcess;
        let null = process.access(Path::new("/dev/null")).unwrap().unwrap();
        assert_eq!(null.verdict, Verdict::Granted);
        assert_eq!(null.owner, "root");
        assert_eq!(process.access(Path::new("/dev/no-such")).unwrap(), None);
        let limit = process.memlock();
        assert!(
            limit
                .hard
                .is_none_or(|hard| limit.soft.is_some_and(|soft| soft <= hard))
        );
    }
}
