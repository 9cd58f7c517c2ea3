//! A virtual function that nobody has, for a run that does not mind which.

use super::{BoundRecords, VirtualFunctionsError};
use crate::host::{HostFunction, HostRoot};
use crate::pci::HostSbdf;

/// Base class of network controllers (PCI Code and ID Assignment Specification, section 1).
const NETWORK: u32 = 0x02;
/// `IFF_UP` of netdevice(7).
const UP: u64 = 1;

/// The first virtual function of `physical` that is free: the host does not use it, no other run has it, and it has no driver
/// or one of the host's whose network interfaces are all down. It isn't on vfio-pci, where somebody has put it for a purpose;
/// but one that a run which was killed has left there is free. None of `chosen` is taken again.
///
/// # Errors
/// [`VirtualFunctionsError`], with who has each where none is free.
pub fn free_virtual_function(
    root: &HostRoot,
    records: &BoundRecords,
    physical: HostSbdf,
    chosen: &[HostSbdf],
) -> Result<HostSbdf, VirtualFunctionsError> {
    let function = root.function(physical)?;
    let Some(has) = root.virtual_functions(physical)? else {
        let physical = root.physical_function(physical)?;
        return Err(VirtualFunctionsError::NotPhysical { function, physical });
    };
    let mut taken = Vec::new();
    for sbdf in root.virtual_functions_of(physical)? {
        let who = match chosen.contains(&sbdf) {
            true => Some("this run".to_owned()),
            false => taken_by(root, records, &root.function(sbdf)?)?,
        };
        match who {
            None => return Ok(sbdf),
            Some(who) => taken.push((sbdf, who)),
        }
    }
    Err(VirtualFunctionsError::NoneFree {
        function,
        total: has.total,
        taken,
    })
}

fn taken_by(
    root: &HostRoot,
    records: &BoundRecords,
    function: &HostFunction,
) -> Result<Option<String>, VirtualFunctionsError> {
    let sbdf = function.sbdf;
    if let Some(group) = function.group {
        let holders = root.holders_of_group(group)?;
        if let Some(holder) = holders.first() {
            return Ok(Some(format!("{} (pid {})", holder.comm, holder.pid)));
        }
    }
    if function.on_vfio() {
        let record = records.read(sbdf).ok().flatten();
        return Ok(match record.and_then(|record| record.owner) {
            Some(owner) if owner.has_ended(root) == Some(true) => None,
            Some(owner) => Some(format!("pid {}", owner.pid)),
            None => function.driver.clone(),
        });
    }
    if let Some(uses) = root.host_uses(sbdf)?.first() {
        return Ok(Some(format!("the host: {uses}")));
    }
    let Some(driver) = &function.driver else {
        return Ok(None);
    };
    let interfaces = root.names(format!("sys/bus/pci/devices/{sbdf}/net"))?;
    // A network card without one has given it to a container, or is driven by a program.
    let class = function.class >> 16;
    if interfaces.is_empty() && (class == NETWORK || driver.contains("uio")) {
        return Ok(Some(format!(
            "{driver}, for something that is not seen from here"
        )));
    }
    for interface in interfaces {
        let flags = root.text_or_empty(format!("sys/bus/pci/devices/{sbdf}/net/{interface}/flags"));
        let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16);
        if flags.is_ok_and(|flags| flags & UP != 0) {
            return Ok(Some(format!("the host: {interface} is up")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{BoundRecord, Owner};
    use crate::host::saved::{NIC, SavedHost, sbdf};

    const VFS: [&str; 3] = ["0000:03:10.0", "0000:03:10.1", "0000:03:10.2"];

    /// A NIC with three virtual functions that have no driver.
    fn host() -> SavedHost {
        let host = SavedHost::intel();
        host.file("proc/sys/kernel/random/boot_id", "here\n");
        host.function(NIC, Some("igb"), Some(16));
        let directory = format!("sys/bus/pci/devices/{}", NIC.0);
        host.file(&format!("{directory}/sriov_totalvfs"), "7\n");
        host.file(&format!("{directory}/sriov_numvfs"), "3\n");
        for (index, address) in VFS.into_iter().enumerate() {
            let group = u32::try_from(30 + index).unwrap();
            host.function((address, "8086:10ca", "0x020000"), None, Some(group));
            let link = format!("{directory}/virtfn{index}");
            host.link(&link, &format!("../{address}"));
        }
        host
    }

    fn free(host: &SavedHost, chosen: &[&str]) -> Result<HostSbdf, VirtualFunctionsError> {
        let root = host.root();
        let records = BoundRecords::of(&root).unwrap();
        let chosen: Vec<_> = chosen.iter().map(|address| sbdf(address)).collect();
        free_virtual_function(&root, &records, sbdf(NIC.0), &chosen)
    }

    fn vfio(host: &SavedHost, index: usize, owner: Option<Owner>) {
        let group = u32::try_from(30 + index).unwrap();
        host.function(
            (VFS[index], "8086:10ca", "0x020000"),
            Some("vfio-pci"),
            Some(group),
        );
        let record = BoundRecord {
            owner,
            ..BoundRecord::of_boot("here")
        };
        let records = BoundRecords::of(&host.root()).unwrap();
        records.write(sbdf(VFS[index]), &record).unwrap();
    }

    #[test]
    fn the_first_that_nobody_has_is_chosen_and_none_twice() {
        let host = host();
        assert_eq!(free(&host, &[]).unwrap(), sbdf(VFS[0]));
        assert_eq!(free(&host, &VFS[..1]).unwrap(), sbdf(VFS[1]));
    }

    #[test]
    fn one_on_vfio_pci_is_somebodys_unless_a_killed_run_has_left_it() {
        let host = host();
        vfio(&host, 0, None);
        assert_eq!(free(&host, &[]).unwrap(), sbdf(VFS[1]));
        // Who sees the first process sees which others there are.
        let first = "1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1 5 6\n";
        host.file("proc/1/stat", first);
        let gone = Owner {
            pid: 4711,
            start: 1,
        };
        vfio(&host, 0, Some(gone));
        assert_eq!(free(&host, &[]).unwrap(), sbdf(VFS[0]));
        host.file("proc/815/comm", "qemu\n");
        host.link("proc/815/fd/9", "/dev/vfio/30");
        assert_eq!(free(&host, &[]).unwrap(), sbdf(VFS[1]));
    }

    #[test]
    fn who_has_each_is_told_when_none_is_free() {
        let host = host();
        vfio(&host, 0, None);
        host.function((VFS[1], "8086:10ca", "0x020000"), Some("igbvf"), Some(31));
        let flags = format!("sys/bus/pci/devices/{}/net/eth5/flags", VFS[1]);
        host.file(&flags, "0x1003\n");
        let problem = free(&host, &VFS[2..]).unwrap_err().problem();
        assert_eq!(
            problem.to_string(),
            "Ethernet controller 0000:03:00.0 [8086:10c9] has no free virtual function\n  \
             why: 0000:03:10.0: vfio-pci; 0000:03:10.1: the host: eth5 is up; 0000:03:10.2: this run\n  \
             fix: make one free, e.g. by ferry unbind or ip link set down; they are listed by: \
             ferry vf list 0000:03:00.0"
        );
        // An interface that is down is not in use.
        host.file(&flags, "0x1002\n");
        assert_eq!(free(&host, &VFS[2..]).unwrap(), sbdf(VFS[1]));
    }

    #[test]
    fn one_whose_interface_is_in_a_container_is_not_free() {
        let host = host();
        for driver in ["igbvf", "uio_pci_generic"] {
            host.function((VFS[0], "8086:10ca", "0x020000"), Some(driver), Some(30));
            assert_eq!(free(&host, &[]).unwrap(), sbdf(VFS[1]), "{driver}");
        }
    }

    #[test]
    fn a_card_that_has_none_is_told_to_make_some() {
        let host = SavedHost::intel();
        host.file("proc/sys/kernel/random/boot_id", "here\n");
        let directory = format!("sys/bus/pci/devices/{}", NIC.0);
        host.file(&format!("{directory}/sriov_totalvfs"), "7\n");
        let problem = free(&host, &[]).unwrap_err().problem();
        assert!(problem.why.starts_with("it has none"), "{problem}");
        assert!(
            problem.remedy.ends_with("ferry vf set 0000:03:00.0 7"),
            "{problem}"
        );
    }
}
