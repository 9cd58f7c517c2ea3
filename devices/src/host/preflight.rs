//! Why a run can't work, before anything is opened or changed.

use super::binding::{self, BindingObstacle};
use super::function::HostFunction;
use super::huge_pages::{self, HugePageSize, HugePagesObstacle};
use super::iommu::{self, IommuObstacle};
use super::kvm::{self, KvmObstacle};
use super::limits::ProcessLimits;
use super::memlock::{self, MemlockObstacle};
use super::problem::Problem;
use super::remapping::{self, RemappingObstacle};
use super::root::{HostError, HostRoot};
use super::vfio_node::{self, VfioNodeObstacle};
use crate::pci::HostSbdf;

/// What a run needs of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunRequirements<'a> {
    /// Functions to assign.
    pub devices: &'a [HostSbdf],
    /// Bytes of guest RAM; all of it is pinned as soon as one device is assigned.
    pub guest_ram: u64,
    /// The pages that it is to be made of, if not of the smallest.
    pub huge_pages: Option<HugePageSize>,
    /// Groups whose nodes were opened for this process.
    pub passed_groups: &'a [u32],
    /// Whether the container was, too.
    pub passed_container: bool,
}

/// One reason why a run can't work.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// KVM itself.
    #[error(transparent)]
    Kvm(#[from] KvmObstacle),
    /// A function isn't there, or a fact about it can't be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A function's or a group's driver.
    #[error(transparent)]
    Binding(#[from] BindingObstacle),
    /// No usable IOMMU group.
    #[error(transparent)]
    Iommu(#[from] IommuObstacle),
    /// No interrupt remapping.
    #[error(transparent)]
    Remapping(#[from] RemappingObstacle),
    /// A VFIO node.
    #[error(transparent)]
    VfioNode(#[from] VfioNodeObstacle),
    /// The locked-memory limit.
    #[error(transparent)]
    Memlock(#[from] MemlockObstacle),
    /// Huge pages.
    #[error(transparent)]
    HugePages(#[from] HugePagesObstacle),
}

impl Obstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Kvm(obstacle) => obstacle.problem(),
            Self::Host(error) => error.problem(),
            Self::Binding(obstacle) => obstacle.problem(),
            Self::Iommu(obstacle) => obstacle.problem(),
            Self::Remapping(obstacle) => obstacle.problem(),
            Self::VfioNode(obstacle) => obstacle.problem(),
            Self::Memlock(obstacle) => obstacle.problem(),
            Self::HugePages(obstacle) => obstacle.problem(),
        }
    }
}

/// Checks all that can be known without opening a node; see [`obstacles`] for the typed form.
///
/// # Errors
/// Every problem found, in the order a user would solve them.
pub fn preflight(
    root: &HostRoot,
    requirements: &RunRequirements<'_>,
    limits: &dyn ProcessLimits,
) -> Result<(), Vec<Problem>> {
    let found = obstacles(root, requirements, limits);
    if found.is_empty() {
        return Ok(());
    }
    Err(found.iter().map(Obstacle::problem).collect())
}

/// Every reason found, in the order a user would solve them: KVM, the devices as given, then what
/// they share. A reason hides those that follow from it: a device without a group is not also told
/// that its group has no node.
#[must_use]
pub fn obstacles(
    root: &HostRoot,
    requirements: &RunRequirements<'_>,
    limits: &dyn ProcessLimits,
) -> Vec<Obstacle> {
    let mut walk = Walk {
        root,
        limits,
        requirements,
        seen_groups: Vec::new(),
        found: Vec::new(),
    };
    walk.keep(kvm::check(root, limits));
    for (index, sbdf) in requirements.devices.iter().enumerate() {
        walk.device(index, *sbdf);
    }
    let first_grouped = walk.seen_groups.first().map(|(_, sbdf)| *sbdf);
    if let Some(sbdf) = first_grouped {
        walk.keep(remapping::check(root, sbdf));
        // Loading vfio-pci, already the remedy of another, brings the container and its backend.
        if !walk.lacks_vfio_pci() && !requirements.passed_container {
            walk.container();
        }
    }
    if !requirements.devices.is_empty() {
        let low = memlock::check(requirements.guest_ram, limits);
        walk.keep(Ok(low));
    }
    if let Some(size) = requirements.huge_pages {
        walk.keep(huge_pages::check(root, requirements.guest_ram, size));
    }
    walk.found
}

struct Walk<'a> {
    root: &'a HostRoot,
    limits: &'a dyn ProcessLimits,
    requirements: &'a RunRequirements<'a>,
    /// Groups met so far, each with the first function that led to it.
    seen_groups: Vec<(u32, HostSbdf)>,
    found: Vec<Obstacle>,
}

impl Walk<'_> {
    /// Notes what a check found; says whether that was something.
    fn keep<O: Into<Obstacle>>(&mut self, result: Result<Option<O>, HostError>) -> bool {
        match result {
            Ok(None) => return false,
            Ok(Some(obstacle)) => self.found.push(obstacle.into()),
            Err(error) => self.found.push(error.into()),
        }
        true
    }

    /// A container without `/dev/vfio` lacks the nodes of the groups for the same reason.
    fn container(&mut self) {
        let container = vfio_node::check_container(self.root, self.limits);
        if let Ok(Some(VfioNodeObstacle::NoContainer { .. })) = container {
            self.found.retain(|obstacle| {
                !matches!(
                    obstacle,
                    Obstacle::VfioNode(VfioNodeObstacle::NoGroup { .. })
                )
            });
        }
        self.keep(container);
    }

    fn lacks_vfio_pci(&self) -> bool {
        self.found.iter().any(|obstacle| {
            matches!(
                obstacle,
                Obstacle::Binding(BindingObstacle::NotOnVfio {
                    vfio_pci_loaded: false,
                    ..
                })
            )
        })
    }

    fn device(&mut self, index: usize, sbdf: HostSbdf) {
        let earlier = self.requirements.devices.get(..index).unwrap_or_default();
        match earlier.iter().filter(|other| **other == sbdf).count() {
            0 => {}
            1 => return self.found.push(BindingObstacle::Duplicate { sbdf }.into()),
            _ => return,
        }
        let function = match self.root.function(sbdf) {
            Ok(function) => function,
            Err(error) => return self.found.push(error.into()),
        };
        let bound = binding::check(self.root, &function);
        if let Ok(Some(BindingObstacle::Bridge { .. })) = bound {
            self.keep(bound);
            return;
        }
        let Some(group) = function.group else {
            self.without_group(sbdf);
            return;
        };
        let bound_elsewhere = self.keep(bound);
        self.group(&function, group, bound_elsewhere);
    }

    /// An IOMMU that is missing or off is told once, not for each device.
    fn without_group(&mut self, sbdf: HostSbdf) {
        let told = self.found.iter().any(|obstacle| {
            matches!(
                obstacle,
                Obstacle::Iommu(IommuObstacle::NoTable { .. } | IommuObstacle::Off { .. })
            )
        });
        if !told {
            let absence = iommu::explain_absence(self.root, sbdf);
            self.keep(absence.map(Some));
        }
    }

    fn group(&mut self, function: &HostFunction, group: u32, bound_elsewhere: bool) {
        let sbdf = function.sbdf;
        if self.seen_groups.iter().any(|(seen, _)| *seen == group) {
            return;
        }
        self.seen_groups.push((group, sbdf));
        if self.keep(iommu::check_group(self.root, sbdf, group)) {
            return;
        }
        self.keep(binding::check_group(
            self.root,
            sbdf,
            group,
            self.requirements.devices,
        ));
        // The node appears with the first member on vfio-pci.
        if !bound_elsewhere && !self.requirements.passed_groups.contains(&group) {
            let node = vfio_node::check_group(self.root, self.limits, sbdf, group);
            self.keep(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{FakeLimits, GPU, GPU_AUDIO, NIC, SavedHost, sbdf};
    use crate::host::{HugePageSize, Obstacle, RunRequirements, obstacles};

    #[test]
    fn healthy_hosts_have_no_obstacle() {
        for host in [SavedHost::intel(), SavedHost::amd()] {
            assert_eq!(host.problems(&[NIC.0], &FakeLimits::generous()), []);
        }
    }

    #[test]
    fn run_without_devices_needs_kvm_only() {
        let host = SavedHost::empty();
        host.file("dev/kvm", "");
        assert_eq!(host.problems(&[], &FakeLimits::generous()), []);
    }

    #[test]
    fn gpu_and_its_audio_function_in_one_group_can_both_be_assigned() {
        let host = SavedHost::intel();
        for identity in [GPU, GPU_AUDIO] {
            host.function(identity, Some("vfio-pci"), Some(14));
        }
        host.file("dev/vfio/14", "");
        let devices = [GPU.0, GPU_AUDIO.0];
        assert_eq!(host.problems(&devices, &FakeLimits::generous()), []);
    }

    #[test]
    fn function_given_twice_is_named_once() {
        let host = SavedHost::intel();
        let devices = [NIC.0, NIC.0, NIC.0];
        assert_eq!(
            host.problem(&devices, &FakeLimits::generous()),
            "0000:03:00.0 is given twice\n  \
             why: a function can be in the guest once\n  \
             fix: leave one '--device host=0000:03:00.0' out"
        );
    }

    #[test]
    fn function_that_does_not_exist_lists_its_bus() {
        let host = SavedHost::intel();
        assert_eq!(
            host.problem(&["01:00.5"], &FakeLimits::generous()),
            "no PCI device 0000:01:00.5 on this host\n  \
             why: that bus holds only 0000:01:00.0, 0000:01:00.1\n  \
             fix: list the devices and their addresses: ferry devices --all"
        );
        assert!(
            host.problem(&["77:00.0"], &FakeLimits::generous())
                .contains("there is no function on that bus at all")
        );
    }

    #[test]
    fn missing_huge_pages_are_told_with_the_other_problems() {
        let host = SavedHost::intel();
        host.remove("dev/vfio/vfio");
        let devices = [sbdf(NIC.0)];
        let requirements = RunRequirements {
            devices: &devices,
            guest_ram: 1 << 30,
            huge_pages: Some(HugePageSize::Gib1),
            ..RunRequirements::default()
        };
        let found = obstacles(&host.root(), &requirements, &FakeLimits::generous());
        assert!(
            matches!(
                found.as_slice(),
                [Obstacle::VfioNode(_), Obstacle::HugePages(_)]
            ),
            "{found:#?}"
        );
    }

    #[test]
    fn unreadable_identity_is_reported_not_guessed() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:03:00.0/vendor", "banana\n");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(
            text.contains("it holds 'banana', not a hexadecimal number"),
            "{text}"
        );
    }

    #[test]
    fn vfio_pci_not_loaded_hides_the_nodes_it_brings() {
        let host = SavedHost::intel();
        host.function(NIC, Some("igb"), Some(16));
        host.remove("sys/bus/pci/drivers/vfio-pci");
        host.remove("sys/module/vfio_iommu_type1");
        host.remove("dev/vfio");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(text.contains("the vfio-pci module is not loaded"), "{text}");
    }

    #[test]
    fn container_without_vfio_nodes_is_told_so_once() {
        let host = SavedHost::intel();
        host.file(
            "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            "N\n",
        );
        host.remove("dev/vfio");
        let text = host.problem(&[NIC.0], &FakeLimits::generous());
        assert!(text.starts_with("/dev/vfio/vfio is missing\n"), "{text}");
    }

    #[test]
    fn nodes_that_were_passed_need_not_be_there() {
        let host = SavedHost::intel();
        host.remove("dev/vfio");
        let devices = [sbdf(NIC.0)];
        let passed = RunRequirements {
            devices: &devices,
            passed_groups: &[16],
            passed_container: true,
            ..RunRequirements::default()
        };
        let found = obstacles(&host.root(), &passed, &FakeLimits::generous());
        assert!(found.is_empty(), "{found:#?}");
        let other_group = RunRequirements {
            passed_groups: &[14],
            ..passed
        };
        let found = obstacles(&host.root(), &other_group, &FakeLimits::generous());
        assert!(
            matches!(found.as_slice(), [Obstacle::VfioNode(_)]),
            "{found:#?}"
        );
    }

    #[test]
    fn missing_iommu_is_told_once_for_all_devices() {
        let host = SavedHost::intel_without_iommu();
        host.function(NIC, Some("igb"), None);
        host.function(GPU, None, None);
        let problems = host.problems(&[NIC.0, GPU.0], &FakeLimits::generous());
        assert_eq!(problems.len(), 1, "{problems:#?}");
    }

    #[test]
    fn all_problems_of_a_host_are_told_at_once() {
        let host = SavedHost::intel();
        host.remove("dev/vfio/vfio");
        let devices = [sbdf(GPU.0), sbdf(NIC.0), sbdf("05:00.0")];
        let requirements = RunRequirements {
            devices: &devices,
            guest_ram: 0,
            ..RunRequirements::default()
        };
        let found = obstacles(&host.root(), &requirements, &FakeLimits::generous());
        assert!(
            matches!(
                found.as_slice(),
                [
                    Obstacle::Binding(_),
                    Obstacle::Binding(_),
                    Obstacle::Host(_),
                    Obstacle::VfioNode(_)
                ]
            ),
            "{found:#?}"
        );
    }
}
