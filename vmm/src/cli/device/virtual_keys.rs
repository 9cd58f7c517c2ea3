//! `vf=auto[,mac=…][,vlan=…][,trust=on|off][,spoof-check=on|off]` of `--device`.

use crate::cli::{link, shown};
use devices::driver::LinkSetting;
use devices::host::Problem;
use devices::pci::HostSbdf;

/// What was given so far of a virtual function that is to be chosen.
#[derive(Default)]
pub(super) struct VirtualKeys {
    /// Whether there is one to be chosen.
    pub(super) auto: bool,
    settings: Vec<LinkSetting>,
}

impl VirtualKeys {
    /// Takes a value; whether there was one before.
    pub(super) fn take(&mut self, key: &str, value: &str, what: &str) -> Result<bool, Problem> {
        if key == "vf" {
            if value != "auto" {
                let why = format!("vf={} is not auto", shown(value));
                let remedy = "write vf=auto to get a free virtual function of host=; a certain one is named by its own \
                              address in host=";
                return Err(Problem::new(what, why, remedy));
            }
            return Ok(std::mem::replace(&mut self.auto, true));
        }
        let setting = link::setting(key, value, what)?;
        let again = self.settings.iter().any(|given| given.same_kind(setting));
        self.settings.push(setting);
        Ok(again)
    }

    /// In the order in which they are made; they are of use only with `vf=auto`.
    pub(super) fn settings(&self, what: &str, host: HostSbdf) -> Result<Vec<LinkSetting>, Problem> {
        if let Some(setting) = self.settings.first().filter(|_| !self.auto) {
            let name = setting.name();
            return Err(Problem::new(
                what,
                format!("{name}= is a setting of a virtual function that vf=auto chooses"),
                format!(
                    "add vf=auto, with host= naming its physical function; or, before: sudo ferry vf set {host} --{name} …"
                ),
            ));
        }
        let given = |name| self.settings.iter().find(|given| given.name() == name);
        let ordered = LinkSetting::NAMES.into_iter().filter_map(given);
        Ok(ordered.copied().collect())
    }
}
