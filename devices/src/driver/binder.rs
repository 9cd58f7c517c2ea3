//! Binding to vfio-pci and back.

use super::{
    Attributes, BoundRecord, BoundRecords, DriverError, LinkSetting, MacAddress, Owner,
    VirtualLinks, link_of, set_link,
};
use crate::host::{HostError, HostFunction, HostRoot, Problem, is_vfio};
use crate::pci::HostSbdf;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The driver that assigns.
pub const VFIO_PCI: &str = "vfio-pci";

const DEVICES: &str = "sys/bus/pci/devices";
const DRIVERS: &str = "sys/bus/pci/drivers";
const PROBE: &str = "sys/bus/pci/drivers_probe";
/// How often a node that is awaited is looked for.
const GLANCE: Duration = Duration::from_millis(5);

/// Moves functions to vfio-pci and back.
pub struct Binder<'a> {
    /// Where facts are read.
    pub root: &'a HostRoot,
    /// Where drivers are bound.
    pub attributes: &'a dyn Attributes,
    /// Where virtual functions of network cards are set up.
    pub links: &'a dyn VirtualLinks,
    /// What was before.
    pub records: &'a BoundRecords,
    /// How long the nodes of VFIO may take to appear.
    pub patience: Duration,
}

/// Why functions were not bound.
#[derive(Debug)]
pub struct BindFailure {
    /// The function that could not be.
    pub function: HostFunction,
    /// Why.
    pub cause: DriverError,
    /// Functions that could not be put back, and why; all others are as they were.
    pub left: Vec<(HostSbdf, DriverError)>,
}

impl Binder<'_> {
    /// Binds functions to vfio-pci, all of them or none: after a failure the last one is put back first.
    /// Those that are there already stay there.
    ///
    /// # Errors
    /// The function that could not be bound, and those that could not be put back.
    pub fn bind(
        &self,
        functions: &[HostFunction],
        owner: Option<Owner>,
    ) -> Result<(), Box<BindFailure>> {
        let mut begun = Vec::new();
        for function in functions {
            let bound = match function.on_vfio() {
                true => self.adopt(function.sbdf, owner),
                false => self.take(function, owner, &mut begun),
            };
            if let Err(cause) = bound {
                return Err(Box::new(BindFailure {
                    function: function.clone(),
                    cause,
                    left: self.put_back(begun),
                }));
            }
        }
        Ok(())
    }

    /// What was bound for a process that is gone is the new owner's, and what its user binds himself stays bound.
    fn adopt(&self, sbdf: HostSbdf, owner: Option<Owner>) -> Result<(), DriverError> {
        let Some(record) = self.records.read(sbdf)? else {
            return Ok(());
        };
        let Some(earlier) = record.owner else {
            return Ok(());
        };
        if owner.is_none() || earlier.has_ended(self.root) == Some(true) {
            self.records.write(sbdf, &BoundRecord { owner, ..record })?;
            // What a run had set up is not what its user wants for good.
            if owner.is_none() {
                self.set_up(sbdf, &[], false)?;
            }
        }
        Ok(())
    }

    /// Gives a virtual function that was bound settings, which it loses again when it is given back; those that a run which
    /// was killed has left it lose it now. `own_address`: before it was bound its driver had chosen the address.
    ///
    /// # Errors
    /// The setting that it can't have; then it has none of them.
    pub fn set_up(
        &self,
        sbdf: HostSbdf,
        settings: &[LinkSetting],
        own_address: bool,
    ) -> Result<(), DriverError> {
        let Some(mut record) = self.records.read(sbdf)? else {
            return Ok(set_link(self.root, self.links, sbdf, settings).map(drop)?);
        };
        if settings.is_empty() && record.former_link.is_empty() {
            return Ok(());
        }
        let same_kind = |one: &LinkSetting, other: &LinkSetting| one.option() == other.option();
        let (kept, left): (Vec<_>, Vec<_>) = record
            .former_link
            .drain(..)
            .partition(|noted| settings.iter().any(|setting| same_kind(noted, setting)));
        self.restore_link(sbdf, &left);
        let before = BoundRecord {
            former_link: kept,
            ..record
        };
        let mut after = before.clone();
        if !settings.is_empty()
            && let Some(link) = link_of(self.root, self.links, sbdf)?
        {
            for setting in settings {
                // What a run that was killed has noted is what was before.
                if !after
                    .former_link
                    .iter()
                    .any(|noted| same_kind(noted, setting))
                {
                    after.former_link.push(match setting {
                        LinkSetting::Mac(_) if own_address => {
                            LinkSetting::Mac(MacAddress::default())
                        }
                        _ => link.setting_like(*setting),
                    });
                }
            }
        }
        self.records.write(sbdf, &after)?;
        if let Err(error) = set_link(self.root, self.links, sbdf, settings) {
            self.records.write(sbdf, &before)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Notes that settings of a function are its user's: they stay when it is given back.
    ///
    /// # Errors
    /// When its record can't be read or written.
    pub fn settle(&self, sbdf: HostSbdf, settings: &[LinkSetting]) -> Result<(), DriverError> {
        let Some(mut record) = self.records.read(sbdf)? else {
            return Ok(());
        };
        let of_user =
            |noted: &LinkSetting| settings.iter().any(|one| one.option() == noted.option());
        record.former_link.retain(|noted| !of_user(noted));
        self.records.write(sbdf, &record)
    }

    /// What can't be is no reason to keep a function from its driver.
    fn restore_link(&self, sbdf: HostSbdf, former: &[LinkSetting]) {
        for setting in former {
            let end = Instant::now() + self.patience;
            while let Err(error) = set_link(self.root, self.links, sbdf, &[*setting]) {
                // Its driver may be busy with the reset that follows a guest.
                if !error.may_pass() || Instant::now() >= end {
                    log::warn!("{}, which it had before", error.problem().what);
                    break;
                }
                thread::sleep(GLANCE);
            }
        }
    }

    /// Binds one, and notes it in `begun` before anything changes.
    fn take(
        &self,
        function: &HostFunction,
        owner: Option<Owner>,
        begun: &mut Vec<(HostSbdf, BoundRecord)>,
    ) -> Result<(), DriverError> {
        let sbdf = function.sbdf;
        let driver = self.driver(sbdf)?;
        let preferred = self.driver_override(sbdf)?;
        let record = self.records.begin(sbdf, driver.clone(), preferred, owner)?;
        self.records.write(sbdf, &record)?;
        begun.push((sbdf, record));
        self.prefer(sbdf, Some(VFIO_PCI))?;
        self.release(sbdf, driver.as_deref())?;
        self.write(PROBE, &sbdf.to_string())?;
        self.expect(sbdf, VFIO_PCI)?;
        match function.group {
            Some(group) => self.await_node(PathBuf::from(format!("dev/vfio/{group}"))),
            None => Ok(()),
        }
    }

    /// The last first. What can't be put back keeps its record, for another try.
    fn put_back(&self, begun: Vec<(HostSbdf, BoundRecord)>) -> Vec<(HostSbdf, DriverError)> {
        let undo = |(sbdf, record): (HostSbdf, BoundRecord)| {
            let undone = self
                .restore(sbdf, &record)
                .and_then(|()| self.records.remove(sbdf));
            undone.err().map(|error| (sbdf, error))
        };
        begun.into_iter().rev().filter_map(undo).collect()
    }

    /// Gives a function back to the driver that had it, or to the one that the kernel has for it where
    /// nothing is known of the time before. The caller makes sure that nobody has it open: until then
    /// the kernel would wait. Gives the driver that has it then.
    ///
    /// # Errors
    /// What keeps it from its driver. The record stays.
    pub fn unbind(&self, sbdf: HostSbdf) -> Result<Option<String>, DriverError> {
        match self.records.read(sbdf)? {
            Some(record) => {
                self.restore(sbdf, &record)?;
                self.records.remove(sbdf)?;
            }
            None => {
                self.prefer(sbdf, None)?;
                self.release(
                    sbdf,
                    self.driver(sbdf)?
                        .as_deref()
                        .filter(|driver| is_vfio(driver)),
                )?;
                self.write(PROBE, &sbdf.to_string())?;
                // One of an earlier boot.
                self.records.remove(sbdf)?;
            }
        }
        self.driver(sbdf)
    }

    /// Removes the records of functions that are gone, or were and have come again as if nothing had been: virtual ones
    /// come and go.
    ///
    /// # Errors
    /// When a record stays, or a function can't be read.
    pub fn forget_gone(&self, functions: &[HostSbdf]) -> Result<(), DriverError> {
        for sbdf in functions {
            let kept = match self.root.function(*sbdf) {
                Ok(function) => {
                    let reserved = self.driver_override(*sbdf)?;
                    function.on_vfio() || reserved.as_deref() == Some(VFIO_PCI)
                }
                Err(HostError::NoSuchFunction { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            if !kept {
                self.records.remove(*sbdf)?;
            }
        }
        Ok(())
    }

    fn restore(&self, sbdf: HostSbdf, record: &BoundRecord) -> Result<(), DriverError> {
        // Before its driver comes, which asks for them once. A virtual function that was made anew has others.
        let reserved = self.driver_override(sbdf)?;
        if reserved.as_deref() == Some(VFIO_PCI)
            || self.driver(sbdf)?.as_deref().is_some_and(is_vfio)
        {
            self.restore_link(sbdf, &record.former_link);
        }
        self.prefer(sbdf, record.former_override.as_deref())?;
        let driver = self.driver(sbdf)?;
        // One that the host has given to yet another driver is the host's again.
        let taken = driver.as_deref().is_some_and(|driver| !is_vfio(driver));
        if driver == record.former_driver || taken {
            return Ok(());
        }
        self.release(sbdf, driver.as_deref())?;
        let Some(former) = &record.former_driver else {
            return Ok(());
        };
        // The very driver: by itself the kernel might choose another that knows the device, too.
        let bind = format!("{DRIVERS}/{former}/bind");
        if self.write(&bind, &sbdf.to_string()).is_err() {
            self.write(PROBE, &sbdf.to_string())?;
        }
        self.expect(sbdf, former)
    }

    fn driver(&self, sbdf: HostSbdf) -> Result<Option<String>, DriverError> {
        Ok(self.root.link_name(format!("{DEVICES}/{sbdf}/driver"))?)
    }

    fn driver_override(&self, sbdf: HostSbdf) -> Result<Option<String>, DriverError> {
        let text = self
            .root
            .text(format!("{DEVICES}/{sbdf}/driver_override"))?;
        Ok(text.filter(|text| !text.is_empty() && text != "(null)"))
    }

    /// An empty line undoes the preference for a driver.
    fn prefer(&self, sbdf: HostSbdf, driver: Option<&str>) -> Result<(), DriverError> {
        let attribute = format!("{DEVICES}/{sbdf}/driver_override");
        self.write(&attribute, driver.unwrap_or("\n"))
    }

    fn release(&self, sbdf: HostSbdf, driver: Option<&str>) -> Result<(), DriverError> {
        match driver {
            Some(driver) => self.write(&format!("{DRIVERS}/{driver}/unbind"), &sbdf.to_string()),
            None => Ok(()),
        }
    }

    fn expect(&self, sbdf: HostSbdf, wanted: &str) -> Result<(), DriverError> {
        let found = self.driver(sbdf)?;
        if found.as_deref() == Some(wanted) {
            return Ok(());
        }
        Err(DriverError::NotTaken {
            sbdf,
            wanted: wanted.to_owned(),
            found,
        })
    }

    fn await_node(&self, node: PathBuf) -> Result<(), DriverError> {
        let end = Instant::now() + self.patience;
        while !self.root.exists(&node) {
            if Instant::now() >= end {
                return Err(DriverError::NoNode {
                    node: Path::new("/").join(node),
                    patience: self.patience,
                });
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn write(&self, attribute: &str, text: &str) -> Result<(), DriverError> {
        log::debug!("writing {text:?} to /{attribute}");
        self.attributes
            .write(Path::new(attribute), text)
            .map_err(|source| DriverError::Write {
                path: Path::new("/").join(attribute),
                text: text.trim().to_owned(),
                source,
            })
    }
}

impl BindFailure {
    /// What a user sees: why it failed, and each function that is not as it was.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let cause = self.cause.problem();
        let after = if self.left.is_empty() {
            "every device is as it was before"
        } else {
            "not every device could be put back"
        };
        let failed = Problem::new(
            format!("{} can't be bound to vfio-pci", self.function),
            format!("{}: {}; {after}", cause.what, cause.why),
            cause.remedy,
        );
        let left = self.left.iter().map(|(sbdf, error)| {
            let cause = error.problem();
            Problem::new(
                format!("{sbdf} could not be put back"),
                format!("{}: {}", cause.what, cause.why),
                format!("when that is mended: sudo ferry unbind {sbdf}"),
            )
        });
        std::iter::once(failed).chain(left).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Kernel;
    use super::*;
    use crate::driver::Vlan;
    use crate::host::saved::{GPU, GPU_AUDIO, NIC, sbdf};

    const GPU_OVERRIDE: &str = "devices/0000:01:00.0/driver_override";
    const AUDIO_OVERRIDE: &str = "devices/0000:01:00.1/driver_override";

    fn bind(kernel: &Kernel, addresses: &[&str]) -> Result<(), Box<BindFailure>> {
        let functions: Vec<_> = addresses
            .iter()
            .map(|address| kernel.root().function(sbdf(address)).unwrap())
            .collect();
        kernel.with_binder(|binder| binder.bind(&functions, None))
    }

    fn unbind(kernel: &Kernel, address: &str) -> Result<Option<String>, DriverError> {
        kernel.with_binder(|binder| binder.unbind(sbdf(address)))
    }

    #[test]
    fn function_is_moved_to_vfio_pci_and_back_to_the_driver_it_had() {
        let kernel = Kernel::new();
        bind(&kernel, &[GPU.0]).unwrap();
        assert_eq!(
            kernel.writes(),
            [
                format!("{GPU_OVERRIDE} < vfio-pci"),
                "drivers/nvidia/unbind < 0000:01:00.0".to_owned(),
                "drivers_probe < 0000:01:00.0".to_owned(),
            ]
        );
        assert_eq!(kernel.driver(GPU.0).as_deref(), Some("vfio-pci"));
        assert_eq!(kernel.record_names(), [GPU.0]);

        // The kernel would rather have another.
        kernel.set_default(GPU.0, "nouveau");
        let driver = unbind(&kernel, GPU.0).unwrap();
        assert_eq!(driver.as_deref(), Some("nvidia"));
        assert_eq!(
            kernel.writes(),
            [
                format!("{GPU_OVERRIDE} < "),
                "drivers/vfio-pci/unbind < 0000:01:00.0".to_owned(),
                "drivers/nvidia/bind < 0000:01:00.0".to_owned(),
            ]
        );
        assert_eq!(kernel.record_names(), [""; 0]);
    }

    #[test]
    fn record_is_there_before_anything_is_written() {
        let kernel = Kernel::new();
        kernel.fail(GPU_OVERRIDE, 1);
        // The first write fails, and the one that would undo it succeeds.
        kernel.look_at_records_on_write();
        bind(&kernel, &[GPU.0]).unwrap_err();
        assert_eq!(kernel.records_seen(), Some(vec![GPU.0.to_owned()]));
        assert_eq!(kernel.record_names(), [""; 0]);
    }

    #[test]
    fn function_on_vfio_pci_is_left_alone() {
        let kernel = Kernel::new();
        bind(&kernel, &[NIC.0]).unwrap();
        assert_eq!(kernel.writes(), [""; 0]);
        assert_eq!(kernel.record_names(), [""; 0]);
    }

    #[test]
    fn all_are_put_back_in_reverse_order_when_one_can_not_be_bound() {
        let kernel = Kernel::new();
        kernel.set_override(GPU_AUDIO.0, "snd_hda_intel");
        kernel.refuse(GPU_AUDIO.0);
        let failure = bind(&kernel, &[GPU.0, GPU_AUDIO.0]).unwrap_err();
        assert_eq!(
            kernel.writes().get(3..).unwrap(),
            [
                format!("{AUDIO_OVERRIDE} < vfio-pci"),
                "drivers/snd_hda_intel/unbind < 0000:01:00.1".to_owned(),
                "drivers_probe < 0000:01:00.1".to_owned(),
                format!("{AUDIO_OVERRIDE} < snd_hda_intel"),
                "drivers/snd_hda_intel/bind < 0000:01:00.1".to_owned(),
                format!("{GPU_OVERRIDE} < "),
                "drivers/vfio-pci/unbind < 0000:01:00.0".to_owned(),
                "drivers/nvidia/bind < 0000:01:00.0".to_owned(),
            ]
        );
        let [problem] = failure.problems().try_into().unwrap();
        assert_eq!(
            problem.to_string(),
            "audio device 0000:01:00.1 [10de:22ba] can't be bound to vfio-pci\n  \
             why: the driver vfio-pci has not taken 0000:01:00.1: no driver has it; every device is as it was \
             before\n  \
             fix: see what the kernel says: sudo dmesg | tail"
        );
        assert_eq!(kernel.driver(GPU.0).as_deref(), Some("nvidia"));
        assert_eq!(kernel.record_names(), [""; 0]);
    }

    #[test]
    fn function_that_can_not_be_put_back_is_named_and_remembered() {
        let kernel = Kernel::new();
        kernel.refuse(GPU_AUDIO.0);
        kernel.fail("drivers/nvidia/bind", 1);
        kernel.set_default(GPU.0, "nouveau");
        let failure = bind(&kernel, &[GPU.0, GPU_AUDIO.0]).unwrap_err();
        let problems = failure.problems();
        let texts: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert!(texts[0].contains("; not every device could be put back\n"));
        assert_eq!(
            texts[1],
            "0000:01:00.0 could not be put back\n  \
             why: the driver nvidia has not taken 0000:01:00.0: nouveau has it\n  \
             fix: when that is mended: sudo ferry unbind 0000:01:00.0"
        );
        assert_eq!(kernel.record_names(), [GPU.0]);
    }

    #[test]
    fn node_that_does_not_appear_undoes_it() {
        let kernel = Kernel::new();
        kernel.withhold_nodes();
        let failure = bind(&kernel, &[GPU.0]).unwrap_err();
        assert!(
            matches!(&failure.cause, DriverError::NoNode { node, .. } if node == Path::new("/dev/vfio/14")),
            "{failure:?}"
        );
        assert_eq!(kernel.driver(GPU.0).as_deref(), Some("nvidia"));
    }

    #[test]
    fn function_without_a_driver_gets_none_back() {
        let kernel = Kernel::new();
        kernel.leave(GPU.0);
        kernel.set_default(GPU.0, "nouveau");
        bind(&kernel, &[GPU.0]).unwrap();
        assert_eq!(unbind(&kernel, GPU.0).unwrap(), None);
        assert_eq!(kernel.driver(GPU.0), None);
    }

    #[test]
    fn function_of_unknown_past_gets_its_default_driver() {
        let kernel = Kernel::new();
        kernel.set_override(NIC.0, "vfio-pci");
        kernel.set_default(NIC.0, "igb");
        assert_eq!(unbind(&kernel, NIC.0).unwrap().as_deref(), Some("igb"));
        assert_eq!(
            kernel.writes(),
            [
                "devices/0000:03:00.0/driver_override < ",
                "drivers/vfio-pci/unbind < 0000:03:00.0",
                "drivers_probe < 0000:03:00.0",
            ]
        );
    }

    #[test]
    fn settings_of_a_virtual_function_go_before_its_driver_comes() {
        let kernel = Kernel::new();
        kernel.make_virtual(GPU_AUDIO.0, NIC.0);
        bind(&kernel, &[GPU_AUDIO.0]).unwrap();
        kernel.writes();
        let set_up = |settings: &[LinkSetting]| {
            kernel
                .with_binder(|binder| binder.set_up(sbdf(GPU_AUDIO.0), settings, true))
                .unwrap();
        };
        let vlan = LinkSetting::Vlan(Vlan { id: 5, priority: 0 });
        let mac = LinkSetting::Mac(MacAddress([0x52, 0x54, 0, 0, 0, 1]));
        set_up(&[mac, LinkSetting::SpoofCheck(false), vlan]);
        kernel.writes();
        // As a run that adopts it after a killed one does: what was before is known already, and what it doesn't want goes.
        set_up(&[
            mac,
            LinkSetting::SpoofCheck(false),
            LinkSetting::Trust(true),
        ]);
        assert_eq!(kernel.writes()[0], "eth0 vf 0: no VLAN");
        unbind(&kernel, GPU_AUDIO.0).unwrap();
        assert_eq!(
            kernel.writes(),
            [
                // Its driver had chosen it, and may again.
                "eth0 vf 0: an address of its own".to_owned(),
                "eth0 vf 0: spoof check on".to_owned(),
                "eth0 vf 0: trust off".to_owned(),
                format!("{AUDIO_OVERRIDE} < "),
                "drivers/vfio-pci/unbind < 0000:01:00.1".to_owned(),
                "drivers/snd_hda_intel/bind < 0000:01:00.1".to_owned(),
            ]
        );
    }

    #[test]
    fn function_that_the_host_gave_to_another_driver_is_left_to_it() {
        let kernel = Kernel::new();
        kernel.set_default(GPU.0, "nouveau");
        bind(&kernel, &[GPU.0]).unwrap();
        kernel.leave(GPU.0);
        kernel.set_override(GPU.0, "");
        kernel
            .with_binder(|binder| binder.write(PROBE, GPU.0))
            .unwrap();
        assert_eq!(kernel.driver(GPU.0).as_deref(), Some("nouveau"));
        assert_eq!(unbind(&kernel, GPU.0).unwrap().as_deref(), Some("nouveau"));
        assert_eq!(kernel.record_names(), <[&str; 0]>::default());
    }

    #[test]
    fn function_that_is_gone_or_new_is_forgotten() {
        let kernel = Kernel::new();
        bind(&kernel, &[GPU.0, GPU_AUDIO.0]).unwrap();
        let forget = || {
            let functions = [sbdf(GPU.0), sbdf(GPU_AUDIO.0)];
            kernel.with_binder(|binder| binder.forget_gone(&functions).unwrap());
            kernel.record_names()
        };
        // One of a bind that was cut short is not.
        kernel.leave(GPU_AUDIO.0);
        assert_eq!(forget(), [GPU.0, GPU_AUDIO.0]);
        kernel.set_override(GPU_AUDIO.0, "(null)");
        assert_eq!(forget(), [GPU.0]);
        kernel.pull(GPU.0);
        assert_eq!(forget(), <[&str; 0]>::default());
    }

    #[test]
    fn driver_that_is_gone_leaves_the_choice_to_the_kernel() {
        let kernel = Kernel::new();
        bind(&kernel, &[GPU.0]).unwrap();
        kernel.fail("drivers/nvidia/bind", 1);
        kernel.set_default(GPU.0, "nouveau");
        let error = unbind(&kernel, GPU.0).unwrap_err();
        assert!(matches!(error, DriverError::NotTaken { .. }), "{error:?}");
        assert_eq!(kernel.driver(GPU.0).as_deref(), Some("nouveau"));
        assert_eq!(kernel.record_names(), [GPU.0]);
    }
}
