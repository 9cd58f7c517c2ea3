//! Settings of a network card's virtual function: `--mac`, `--vlan`, `--trust` and `--spoof-check` of `ferry vf set`,
//! `mac=`, `vlan=`, `trust=` and `spoof-check=` of `--device`.

use super::{on_off, shown};
use devices::driver::{LinkSetting, MacAddress, VirtualLink, Vlan};
use devices::host::Problem;

/// Says that the physical function is to settle none.
const NONE: &str = "none";

/// The setting `name` with the value `value`; `written` is how the user wrote both.
pub(super) fn setting(name: &str, value: &str, written: &str) -> Result<LinkSetting, Problem> {
    let problem = |why: &str, remedy: &str| Problem::new(written, why, remedy);
    match name {
        "mac" => mac(value).map(LinkSetting::Mac).map_err(|why| {
            let remedy = "give the address of one station, e.g. 52:54:00:12:34:56, or none";
            problem(&format!("{}: {why}", shown(value)), remedy)
        }),
        "vlan" => vlan(value).map(LinkSetting::Vlan).ok_or_else(|| {
            let why = format!("{} is no VLAN", shown(value));
            problem(&why, "give a number from 1 to 4094, or none")
        }),
        _ => {
            let on = on_off(value).ok_or_else(|| {
                let why = format!("{} is neither on nor off", shown(value));
                problem(&why, "write on or off, or leave it out")
            })?;
            Ok(match name {
                "trust" => LinkSetting::Trust(on),
                _ => LinkSetting::SpoofCheck(on),
            })
        }
    }
}

fn mac(text: &str) -> Result<MacAddress, &'static str> {
    if text == NONE {
        return Ok(MacAddress::default());
    }
    let mac: MacAddress = text.parse()?;
    match mac.is_of_a_station() {
        true => Ok(mac),
        false => Err("no card can have it: it is a group's, or all zeros"),
    }
}

fn vlan(text: &str) -> Option<Vlan> {
    let id = match text {
        NONE => 0,
        _ => {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let id = text.parse().ok().filter(|_| digits)?;
            (1..=4094).contains(&id).then_some(id)?
        }
    };
    Some(Vlan { id, priority: 0 })
}

/// All settings in a line, those that are off left out.
pub(super) fn line(link: &VirtualLink) -> String {
    let mut words = vec![match link.mac.is_of_a_station() {
        true => format!("MAC {}", link.mac),
        false => "MAC left to its driver".to_owned(),
    }];
    if link.vlan.id != 0 {
        words.push(format!("VLAN {}", link.vlan.id));
    }
    if link.trust {
        words.push("trusted".to_owned());
    }
    if link.spoof_check {
        words.push("spoof check".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, value: &str) -> Option<LinkSetting> {
        setting(name, value, "--x").ok()
    }

    #[test]
    fn settings_are_understood() {
        let mac = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(
            made("mac", "52:54:00:12:34:56"),
            Some(LinkSetting::Mac(mac))
        );
        let vlan = |id| Some(LinkSetting::Vlan(Vlan { id, priority: 0 }));
        assert_eq!(made("vlan", "4094"), vlan(4094));
        assert_eq!(made("vlan", "none"), vlan(0));
        assert_eq!(made("trust", "on"), Some(LinkSetting::Trust(true)));
        assert_eq!(
            made("spoof-check", "off"),
            Some(LinkSetting::SpoofCheck(false))
        );
    }

    #[test]
    fn what_no_card_can_have_is_refused() {
        for (name, value) in [
            ("mac", "01:00:5e:00:00:01"),
            ("mac", "00:00:00:00:00:00"),
            ("mac", ""),
            ("vlan", "0"),
            ("vlan", "4095"),
            ("vlan", "+5"),
            ("vlan", ""),
            ("trust", "yes"),
        ] {
            let problem = setting(name, value, "--x").unwrap_err();
            assert_eq!(problem.to_string().lines().count(), 3, "{problem}");
        }
    }

    #[test]
    fn a_line_tells_what_is_set() {
        let mut link = VirtualLink::default();
        assert_eq!(line(&link), "MAC left to its driver");
        link.mac = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        link.vlan.id = 5;
        (link.trust, link.spoof_check) = (true, true);
        let text = "MAC 52:54:00:12:34:56, VLAN 5, trusted, spoof check";
        assert_eq!(line(&link), text);
    }
}
