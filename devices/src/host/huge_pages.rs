//! Whether the host has the huge pages that a guest's RAM is to be made of (Documentation/admin-guide/mm/hugetlbpage.rst of
//! Linux 6.12).

use super::problem::Problem;
use super::root::{HostError, HostRoot};
use std::fmt;

const POOLS: &str = "sys/kernel/mm/hugepages";

/// Sizes of huge pages on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePageSize {
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl HugePageSize {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Mib2 => 2 << 20,
            Self::Gib1 => 1 << 30,
        }
    }

    /// As users and kernel parameters write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mib2 => "2M",
            Self::Gib1 => "1G",
        }
    }

    /// Where the kernel tells of the pages of this size.
    fn pool(self) -> String {
        format!("{POOLS}/hugepages-{}kB", self.bytes() >> 10)
    }
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mib2 => "2 MiB",
            Self::Gib1 => "1 GiB",
        })
    }
}

/// Guest RAM can't be had in huge pages.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HugePagesObstacle {
    /// The CPU or the kernel has none of this size.
    #[error("this host has no huge pages of {size}")]
    Unsupported {
        /// The size asked for.
        size: HugePageSize,
    },
    /// Too few are free.
    #[error("guest RAM needs {needed} huge pages of {size}, and {free} are free")]
    TooFew {
        /// The size asked for.
        size: HugePageSize,
        /// How many it takes.
        needed: u64,
        /// How many are neither used nor reserved by others.
        free: u64,
        /// How many there are.
        total: u64,
    },
}

/// Looks for `guest_ram` bytes of free huge pages.
pub(super) fn check(
    root: &HostRoot,
    guest_ram: u64,
    size: HugePageSize,
) -> Result<Option<HugePagesObstacle>, HostError> {
    let count = |name: &str| root.count(format!("{}/{name}", size.pool()));
    let Some(total) = count("nr_hugepages")? else {
        return Ok(Some(HugePagesObstacle::Unsupported { size }));
    };
    let more = |name: &str| count(name).map(Option::unwrap_or_default);
    // Pages that others have mapped and not touched yet count as free there.
    let pooled = more("free_hugepages")?.saturating_sub(more("resv_hugepages")?);
    let surplus = more("nr_overcommit_hugepages")?.saturating_sub(more("surplus_hugepages")?);
    let (needed, free) = (
        guest_ram.div_ceil(size.bytes()),
        pooled.saturating_add(surplus),
    );
    Ok((free < needed).then_some(HugePagesObstacle::TooFew {
        size,
        needed,
        free,
        total,
    }))
}

/// Why `guest_ram` bytes of huge pages could not be had just now.
#[must_use]
pub fn explain_huge_pages(root: &HostRoot, guest_ram: u64, size: HugePageSize) -> Problem {
    match check(root, guest_ram, size) {
        Ok(Some(obstacle)) => obstacle.problem(),
        Err(error) => error.problem(),
        Ok(None) => Problem::new(
            format!("guest RAM can't be had in huge pages of {size}"),
            "enough are free, so a limit of a cgroup (hugetlb) or a memory policy keeps them from Ferry",
            format!(
                "look at the limit: cat /sys/fs/cgroup$(cut -d: -f3 /proc/$$/cgroup)/hugetlb.{}B.max",
                size.word()
            ),
        ),
    }
}

impl HugePagesObstacle {
    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (why, remedy) = match self {
            Self::Unsupported { size } => (
                format!(
                    "/{} is missing: the CPU or the kernel lacks them",
                    size.pool()
                ),
                match size {
                    HugePageSize::Gib1 => "use hugepages=2M".to_owned(),
                    HugePageSize::Mib2 => "leave hugepages= out".to_owned(),
                },
            ),
            Self::TooFew {
                size,
                needed,
                free,
                total,
            } => {
                let enough = total.saturating_add(needed - free);
                let boot = match size {
                    HugePageSize::Gib1 => format!(
                        " (surest at boot, with hugepagesz=1G hugepages={enough} for the host's kernel)"
                    ),
                    HugePageSize::Mib2 => String::new(),
                };
                (
                    format!(
                        "the host has set {total} aside, of which others use or have reserved {}",
                        total.saturating_sub(*free)
                    ),
                    format!(
                        "set more aside{boot}: echo {enough} | sudo tee /{}/nr_hugepages",
                        size.pool()
                    ),
                )
            }
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::saved::{GIB, SavedHost};

    fn pool(size: HugePageSize, counts: [u64; 4]) -> SavedHost {
        let host = SavedHost::empty();
        let names = [
            "nr_hugepages",
            "free_hugepages",
            "resv_hugepages",
            "nr_overcommit_hugepages",
        ];
        for (name, count) in names.iter().zip(counts) {
            host.file(&format!("{}/{name}", size.pool()), format!("{count}\n"));
        }
        host
    }

    fn problem(host: &SavedHost, guest_ram: u64, size: HugePageSize) -> Option<String> {
        let found = check(&host.root(), guest_ram, size).unwrap();
        found.map(|obstacle| obstacle.problem().to_string())
    }

    #[test]
    fn too_few_pages_are_counted_and_the_command_makes_as_many_as_are_missing() {
        let host = pool(HugePageSize::Mib2, [600, 500, 100, 0]);
        assert_eq!(
            problem(&host, GIB, HugePageSize::Mib2).unwrap(),
            "guest RAM needs 512 huge pages of 2 MiB, and 400 are free\n  \
             why: the host has set 600 aside, of which others use or have reserved 200\n  \
             fix: set more aside: echo 712 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        );
        assert_eq!(problem(&host, 800 << 20, HugePageSize::Mib2), None);
    }

    #[test]
    fn pages_of_1_gib_are_best_set_aside_at_boot() {
        let text = problem(
            &pool(HugePageSize::Gib1, [0; 4]),
            4 * GIB,
            HugePageSize::Gib1,
        )
        .unwrap();
        assert!(text.contains("hugepagesz=1G hugepages=4 for"), "{text}");
        assert!(
            text.ends_with(
                "echo 4 | sudo tee /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
            ),
            "{text}"
        );
    }

    #[test]
    fn pages_that_the_kernel_may_make_on_demand_count() {
        let host = pool(HugePageSize::Mib2, [0, 0, 0, 512]);
        assert_eq!(problem(&host, GIB, HugePageSize::Mib2), None);
        assert!(problem(&host, GIB + (2 << 20), HugePageSize::Mib2).is_some());
    }

    #[test]
    fn size_that_the_cpu_lacks_leads_to_the_smaller_one() {
        let text = problem(&SavedHost::empty(), GIB, HugePageSize::Gib1).unwrap();
        assert!(
            text.starts_with("this host has no huge pages of 1 GiB"),
            "{text}"
        );
        assert!(text.ends_with("fix: use hugepages=2M"), "{text}");
    }

    #[test]
    fn pages_that_are_there_and_can_not_be_had_point_to_a_limit() {
        let host = pool(HugePageSize::Mib2, [512, 512, 0, 0]);
        let problem = explain_huge_pages(&host.root(), GIB, HugePageSize::Mib2);
        assert!(problem.remedy.ends_with("/hugetlb.2MB.max"), "{problem}");
    }
}
