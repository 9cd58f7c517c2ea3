//! Descriptors that a privileged parent has opened: `fd=N` of `--device`, `--vfio-container fd=N`.

use super::shown;
use devices::host::{Descriptor, HostRoot, Problem, inherited};
use devices::pci::HostSbdf;
use devices::vfio::PassedGroup;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

/// What a descriptor should be.
#[derive(Clone, Copy)]
enum Wanted {
    Group,
    Container,
}

impl Wanted {
    fn node(self) -> &'static str {
        match self {
            Self::Group => "/dev/vfio/GROUP",
            Self::Container => "/dev/vfio/vfio",
        }
    }
}

/// The group whose node has the number `text`; `what` is what the user wrote.
pub(super) fn group(text: &str, what: &str) -> Result<PassedGroup, Problem> {
    let (node, found) = open(text, what, Wanted::Group)?;
    match found {
        Descriptor::Group(number) => Ok(PassedGroup { number, node }),
        other => Err(wrong(text, what, Wanted::Group, &other)),
    }
}

/// The container that `text`, `fd=N`, names.
pub(super) fn container(text: &str) -> Result<Arc<OwnedFd>, Problem> {
    let what = format!("--vfio-container {} is not understood", shown(text));
    let Some(number) = text.strip_prefix("fd=") else {
        return Err(Problem::new(
            what,
            "it is not of the form fd=N",
            "give the number under which /dev/vfio/vfio is open, e.g. fd=6, or leave it out",
        ));
    };
    match open(number, &what, Wanted::Container)? {
        (node, Descriptor::Container) => Ok(node),
        (_, other) => Err(wrong(number, &what, Wanted::Container, &other)),
    }
}

/// The descriptor with the number `text`, under which `node` should be open.
pub(super) fn passed(text: &str, what: &str, node: &str) -> Result<(RawFd, OwnedFd), Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<RawFd> = text.parse().ok().filter(|_| digits);
    let Some(number) = number else {
        let why = format!("{} is no number of a descriptor", shown(text));
        let remedy = format!("give the number under which {node} is open, e.g. fd=5");
        return Err(Problem::new(what, why, remedy));
    };
    let descriptor = inherited(number).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::EBADF) => format!("ferry was started without a descriptor {number}"),
            _ => format!("descriptor {number}: {error}"),
        };
        let remedy =
            format!("have it open when ferry starts; a shell does that by: {number}<>{node}");
        Problem::new(what, why, remedy)
    })?;
    Ok((number, descriptor))
}

fn open(text: &str, what: &str, wanted: Wanted) -> Result<(Arc<OwnedFd>, Descriptor), Problem> {
    let (number, node) = passed(text, what, wanted.node())?;
    let found = HostRoot::system().descriptor(node.as_fd());
    let found = found.map_err(|error| {
        let why = format!("descriptor {number}: {error}");
        Problem::new(what, why, format!("open {}", wanted.node()))
    })?;
    Ok((Arc::new(node), found))
}

/// A descriptor of something else.
fn wrong(number: &str, what: &str, wanted: Wanted, found: &Descriptor) -> Problem {
    let is = match found {
        Descriptor::Group(group) => format!("/dev/vfio/{group}, a group"),
        Descriptor::Container => "/dev/vfio/vfio, the container".to_owned(),
        Descriptor::Device(name) => {
            format!("/dev/vfio/devices/{name}, which is for iommufd, and Ferry uses groups")
        }
        Descriptor::Other(_) => {
            let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
            let link = link.unwrap_or_else(|_| PathBuf::from("something else"));
            format!("{}, nothing of VFIO's", link.display())
        }
    };
    let why = format!("descriptor {number} is {is}");
    Problem::new(what, why, format!("open {} instead", wanted.node()))
}

/// The function that a group is passed for: the only one in it, unless the user says which.
pub(super) fn host(
    group: &PassedGroup,
    given: Option<HostSbdf>,
    what: &str,
) -> Result<HostSbdf, Problem> {
    let root = HostRoot::system();
    let members = root.group(group.number).map_err(|error| error.problem())?;
    let number = group.number;
    let endpoints: Vec<_> = members
        .members
        .iter()
        .filter(|member| !member.is_bridge())
        .map(|member| member.sbdf)
        .collect();
    let listed: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    let listed = listed.join(", ");
    match (given, endpoints.as_slice()) {
        (Some(host), _) if endpoints.contains(&host) => Ok(host),
        (Some(host), _) => Err(Problem::new(
            what,
            format!("its descriptor is of IOMMU group {number}, and {host} is not in that"),
            format!("give one that is: {listed}"),
        )),
        (None, [only]) => Ok(*only),
        (None, _) => Err(Problem::new(
            what,
            format!("its descriptor is of IOMMU group {number}, which has {listed}"),
            format!(
                "say which: add host={}",
                endpoints
                    .first()
                    .map_or("BDF".to_owned(), ToString::to_string)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_no_descriptor_of_vfio_is_told_by_its_name() {
        let why = |text: &str| group(text, "what").unwrap_err().why;
        assert_eq!(why("x"), "x is no number of a descriptor");
        assert_eq!(why("+1"), "+1 is no number of a descriptor");
        assert_eq!(why(""), "'' is no number of a descriptor");
        assert_eq!(why("9999"), "ferry was started without a descriptor 9999");
        let null = File::open("/dev/null").unwrap();
        let number = null.as_raw_fd().to_string();
        let told = format!("descriptor {number} is /dev/null, nothing of VFIO's");
        assert_eq!(why(&number), told);
        let problem = container(&format!("fd={number}")).unwrap_err();
        assert_eq!(problem.why, told);
        assert_eq!(problem.remedy, "open /dev/vfio/vfio instead");
        let problem = container("5").unwrap_err();
        assert_eq!(problem.why, "it is not of the form fd=N");
    }
}
