//! How a function can be reset, and whom else its bus would take with it.

use super::function::HostFunction;
use super::root::HostRoot;
use crate::pci::HostSbdf;

/// What the host says of a function's resets beside VFIO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetFacts {
    /// The kernel's ways to reset the function alone, in its order.
    pub methods: Vec<String>,
    /// Functions that a reset of its bus would hit and that are not this machine's to reset, each with its owner, in words.
    pub others: Vec<String>,
}

impl HostRoot {
    /// What is known of the resets of `sbdf`. A reset of its bus would hit `affected`, each with its group; this machine
    /// holds the groups `ours`.
    ///
    /// What can't be read counts as not there, and a function that can't be read as somebody else's.
    #[must_use]
    pub fn reset_facts(
        &self,
        sbdf: HostSbdf,
        affected: &[(HostSbdf, u32)],
        ours: &[u32],
    ) -> ResetFacts {
        let other = |(sbdf, group): &(HostSbdf, u32)| match self.function(*sbdf) {
            Ok(function) => other(&function, ours.contains(group)),
            Err(_) => Some(sbdf.to_string()),
        };
        ResetFacts {
            methods: self.reset_methods(sbdf).unwrap_or_default(),
            others: affected.iter().filter_map(other).collect(),
        }
    }
}

/// The function and whose it is, unless the kernel lets this machine reset it: it holds the group, and a vfio driver has
/// the function.
fn other(function: &HostFunction, in_our_group: bool) -> Option<String> {
    let owner = match (&function.driver, function.on_vfio(), in_our_group) {
        (_, true, true) => return None,
        (Some(driver), false, _) => format!("of driver {driver}"),
        (Some(driver), true, false) => format!("on {driver} for somebody else"),
        (None, _, _) => "bound to no driver".to_owned(),
    };
    Some(format!("{function} ({owner})"))
}

#[cfg(test)]
mod tests {
    use crate::host::saved::{GPU, GPU_AUDIO, NIC, SavedHost, sbdf};

    #[test]
    fn a_bus_is_ours_if_all_its_functions_are_on_vfio_in_groups_that_we_hold() {
        let host = SavedHost::intel();
        let bus = [(sbdf(GPU.0), 14), (sbdf(GPU_AUDIO.0), 14)];
        let others = |ours: &[u32]| host.root().reset_facts(bus[0].0, &bus, ours).others;
        host.function(GPU, Some("vfio-pci"), Some(14));
        assert_eq!(
            others(&[14]),
            ["audio device 0000:01:00.1 [10de:22ba] (of driver snd_hda_intel)"]
        );
        host.function(GPU_AUDIO, Some("vfio-pci"), Some(14));
        assert!(others(&[16, 14]).is_empty());
        assert_eq!(
            others(&[16]),
            [
                "VGA controller 0000:01:00.0 [10de:2684] (on vfio-pci for somebody else)",
                "audio device 0000:01:00.1 [10de:22ba] (on vfio-pci for somebody else)"
            ]
        );
        host.remove("sys/bus/pci/devices/0000:01:00.1/driver");
        assert_eq!(
            others(&[14]),
            ["audio device 0000:01:00.1 [10de:22ba] (bound to no driver)"]
        );
    }

    #[test]
    fn methods_are_the_kernels() {
        let host = SavedHost::intel();
        host.file("sys/bus/pci/devices/0000:03:00.0/reset_method", "flr pm\n");
        let facts = host.root().reset_facts(sbdf(NIC.0), &[], &[]);
        assert_eq!(facts.methods, ["flr", "pm"]);
        assert!(facts.others.is_empty());
    }
}
