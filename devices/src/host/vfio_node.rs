//! The nodes VFIO is reached through: `/dev/vfio/vfio` and `/dev/vfio/<group>`.

use std::io;
use std::path::PathBuf;

use super::limits::{NodeAccess, ProcessLimits, Verdict};
use super::problem::Problem;
use super::root::{HostError, HostRoot};
use crate::pci::HostSbdf;

/// Why a VFIO node can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum VfioNodeObstacle {
    /// No container node.
    #[error("/dev/vfio/vfio is missing")]
    NoContainer {
        /// Whether the vfio module is loaded.
        vfio_loaded: bool,
    },
    /// The container would have no IOMMU backend: `VFIO_SET_IOMMU` would return ENODEV.
    #[error("VFIO can't use the IOMMU: vfio_iommu_type1 is not loaded")]
    NoType1,
    /// The function is on vfio-pci, but its group has no node.
    #[error("/dev/vfio/{group} is missing, the group of {sbdf}")]
    NoGroup {
        /// The group.
        group: u32,
        /// The function asked for.
        sbdf: HostSbdf,
    },
    /// Owner, group, mode or the device policy keep this process out.
    #[error("can't open {node}: permission denied")]
    Denied {
        /// The node as the user knows it.
        node: String,
        /// The node and the kernel's verdict.
        access: NodeAccess,
    },
}

fn access(
    root: &HostRoot,
    limits: &dyn ProcessLimits,
    node: &str,
) -> Result<Option<NodeAccess>, HostError> {
    let found = limits.access(&root.path(node.trim_start_matches('/')));
    found.map_err(|source: io::Error| HostError::Read {
        path: PathBuf::from(node),
        source,
    })
}

fn denied(node: String, access: NodeAccess) -> Option<VfioNodeObstacle> {
    (access.verdict != Verdict::Granted).then_some(VfioNodeObstacle::Denied { node, access })
}

/// Whether a container can be opened.
pub(super) fn check_container(
    root: &HostRoot,
    limits: &dyn ProcessLimits,
) -> Result<Option<VfioNodeObstacle>, HostError> {
    let node = "/dev/vfio/vfio";
    Ok(match access(root, limits, node)? {
        Some(access) if access.verdict == Verdict::Granted => {
            // iommufd can stand in for the container (CONFIG_IOMMUFD_VFIO_CONTAINER).
            let backed = ["vfio_iommu_type1", "iommufd"]
                .iter()
                .any(|module| root.exists(format!("sys/module/{module}")));
            (!backed).then_some(VfioNodeObstacle::NoType1)
        }
        Some(access) => denied(node.to_owned(), access),
        None => Some(VfioNodeObstacle::NoContainer {
            vfio_loaded: root.exists("sys/module/vfio"),
        }),
    })
}

/// Whether the group of `sbdf`, which a vfio driver holds, can be opened.
pub(super) fn check_group(
    root: &HostRoot,
    limits: &dyn ProcessLimits,
    sbdf: HostSbdf,
    group: u32,
) -> Result<Option<VfioNodeObstacle>, HostError> {
    let node = format!("/dev/vfio/{group}");
    Ok(match access(root, limits, &node)? {
        Some(access) => denied(node, access),
        None => Some(VfioNodeObstacle::NoGroup { group, sbdf }),
    })
}

impl VfioNodeObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::NoContainer { vfio_loaded: false } => (
                "the vfio module is not loaded".to_owned(),
                "sudo modprobe -a vfio-pci vfio_iommu_type1".to_owned(),
            ),
            Self::NoContainer { vfio_loaded: true } => (
                "vfio is loaded: this is a container that was not given /dev/vfio, or a kernel \
                 without CONFIG_VFIO_CONTAINER"
                    .to_owned(),
                "give the container the nodes (docker, podman: --device /dev/vfio), or use a kernel \
                 that has the option: grep VFIO_CONTAINER /boot/config-$(uname -r)"
                    .to_owned(),
            ),
            Self::NoType1 => (
                "vfio is loaded without its IOMMU backend, which modprobe adds by itself unless \
                 told not to"
                    .to_owned(),
                "sudo modprobe vfio_iommu_type1".to_owned(),
            ),
            Self::NoGroup { group, sbdf } => (
                format!("{sbdf} is on vfio-pci, yet the node of its group is not in this /dev"),
                format!(
                    "give the container the node (docker, podman: --device /dev/vfio/{group}); on a \
                     host it is udev's: ls -l /dev/vfio"
                ),
            ),
            Self::Denied { node, access } => (
                access.reason(),
                match access.verdict {
                    Verdict::DeniedByPolicy => access.policy_remedy(node),
                    // The container node hands out nothing by itself; the kernel means it for all.
                    _ if node == "/dev/vfio/vfio" => format!("sudo chmod 0666 {node}"),
                    _ => access.join_remedy().unwrap_or_else(|| {
                        format!(
                            "for good a udev rule (SUBSYSTEM==\"vfio\", GROUP=\"kvm\", MODE=\"0660\"), \
                             until the next boot: sudo chown $USER {node}"
                        )
                    }),
                },
            ),
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Verdict;
    use crate::host::saved::{FakeLimits, NIC, SavedHost};

    #[test]
    fn container_node_missing() {
        let host = SavedHost::intel();
        host.remove("dev/vfio/vfio");
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "/dev/vfio/vfio is missing\n  \
             why: the vfio module is not loaded\n  \
             fix: sudo modprobe -a vfio-pci vfio_iommu_type1"
        );
        host.file(
            "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            "N\n",
        );
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(text.contains("CONFIG_VFIO_CONTAINER"), "{text}");
    }

    #[test]
    fn iommu_backend_not_loaded() {
        let host = SavedHost::intel();
        host.remove("sys/module/vfio_iommu_type1");
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "VFIO can't use the IOMMU: vfio_iommu_type1 is not loaded\n  \
             why: vfio is loaded without its IOMMU backend, which modprobe adds by itself unless told \
             not to\n  \
             fix: sudo modprobe vfio_iommu_type1"
        );
        host.file(
            "sys/module/iommufd/parameters/allow_unsafe_interrupts",
            "N\n",
        );
        assert_eq!(host.problems(&[NIC.0], &FakeLimits::generous()), []);
    }

    #[test]
    fn group_node_missing() {
        let host = SavedHost::intel();
        host.remove("dev/vfio/16");
        assert_eq!(
            host.problem(&[NIC.0], &FakeLimits::generous()),
            "/dev/vfio/16 is missing, the group of 0000:03:00.0\n  \
             why: 0000:03:00.0 is on vfio-pci, yet the node of its group is not in this /dev\n  \
             fix: give the container the node (docker, podman: --device /dev/vfio/16); on a host it \
             is udev's: ls -l /dev/vfio"
        );
    }

    #[test]
    fn group_node_of_root_is_given_to_the_user() {
        let limits = FakeLimits::denying("16", "root", 0o600, Verdict::DeniedByMode);
        assert_eq!(
            SavedHost::intel().problem(&[NIC.0], &limits),
            "can't open /dev/vfio/16: permission denied\n  \
             why: owner root, group root, mode 0600: that leaves this user out\n  \
             fix: for good a udev rule (SUBSYSTEM==\"vfio\", GROUP=\"kvm\", MODE=\"0660\"), until the \
             next boot: sudo chown $USER /dev/vfio/16"
        );
    }

    #[test]
    fn group_node_with_a_udev_rule_is_joined() {
        let limits = FakeLimits::denying("16", "kvm", 0o660, Verdict::DeniedByMode);
        let text = SavedHost::intel().problem(&[NIC.0], &limits);
        assert!(text.contains("sudo usermod -aG kvm $USER"), "{text}");
    }

    #[test]
    fn group_node_forbidden_by_the_device_cgroup() {
        let limits = FakeLimits::denying("16", "kvm", 0o660, Verdict::DeniedByPolicy);
        let text = SavedHost::intel().problem(&[NIC.0], &limits);
        assert!(text.contains("DeviceAllow=/dev/vfio/16 rw"), "{text}");
    }

    #[test]
    fn container_node_is_opened_to_all() {
        let limits = FakeLimits::denying("vfio/vfio", "root", 0o600, Verdict::DeniedByMode);
        let text = SavedHost::intel().problem(&[NIC.0], &limits);
        assert!(text.ends_with("sudo chmod 0666 /dev/vfio/vfio"), "{text}");
    }
}
