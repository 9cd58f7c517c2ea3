//! Descriptors of VFIO that another process has opened for this one, which may not open them itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A group's node, open. The kernel lets a group be open once at a time.
#[derive(Clone, Debug)]
pub struct PassedGroup {
    /// The group's number.
    pub number: u32,
    /// Its node.
    pub node: Arc<OwnedFd>,
}

impl PartialEq for PassedGroup {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && Arc::ptr_eq(&self.node, &other.node)
    }
}

impl Eq for PassedGroup {}

/// What was passed to this process; what was not, it opens itself.
#[derive(Clone, Debug, Default)]
pub struct PassedDescriptors {
    /// The container.
    pub container: Option<Arc<OwnedFd>>,
    /// Groups.
    pub groups: Vec<PassedGroup>,
}

impl PassedDescriptors {
    /// The node of group `number`, if it was passed.
    #[must_use]
    pub fn group(&self, number: u32) -> Option<&Arc<OwnedFd>> {
        let found = self.groups.iter().find(|group| group.number == number);
        found.map(|group| &group.node)
    }
}
