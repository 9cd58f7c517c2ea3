//! What a network card's physical function settles for its virtual ones: address, VLAN, trust, spoof check.

use crate::host::{HostError, HostFunction, HostRoot, Problem};
use crate::pci::HostSbdf;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

/// An Ethernet address; all zeros where the physical function settles none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// A VLAN that the card adds to what a virtual function sends and takes from what it receives (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// Its id, 1 to 4094; 0 for none.
    pub id: u16,
    /// Priority of what is sent, 0 to 7.
    pub priority: u8,
}

/// One setting of a virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSetting {
    /// The address that its driver finds; of zeros, its driver chooses.
    Mac(MacAddress),
    /// Its VLAN.
    Vlan(Vlan),
    /// Whether its driver may change the address and receive all packets.
    Trust(bool),
    /// Whether packets with another sender's address are dropped.
    SpoofCheck(bool),
}

/// All settings of a virtual function. What its driver says nothing of is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualLink {
    /// See [`LinkSetting::Mac`].
    pub mac: MacAddress,
    /// See [`LinkSetting::Vlan`].
    pub vlan: Vlan,
    /// See [`LinkSetting::Trust`].
    pub trust: bool,
    /// See [`LinkSetting::SpoofCheck`].
    pub spoof_check: bool,
}

/// Where the kernel keeps the settings; a trait so that tests play its part.
pub trait VirtualLinks {
    /// Those of the virtual functions of a network interface by their numbers. One that its driver says nothing of at the
    /// moment, because it is being reset, say, is left out.
    ///
    /// # Errors
    /// The kernel's errno.
    fn read(&self, interface: &str) -> io::Result<BTreeMap<u32, VirtualLink>>;

    /// Changes a setting of the virtual function number `index`.
    ///
    /// # Errors
    /// The kernel's errno; `EOPNOTSUPP` where the interface's driver has no such setting.
    fn change(&self, interface: &str, index: u32, setting: LinkSetting) -> io::Result<()>;
}

/// Why a virtual function has not the settings that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum VirtualLinkError {
    /// A fact about the host could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It is no virtual function.
    #[error("{function} is no virtual function")]
    NotVirtual {
        /// The function.
        function: HostFunction,
        /// Whether it may have some.
        physical: bool,
    },
    /// The card is no network card, or its driver is not there.
    #[error("{sbdf} has no address and no VLAN to be set")]
    NoInterface {
        /// The virtual function.
        sbdf: HostSbdf,
        /// Its physical function.
        physical: HostFunction,
    },
    /// The kernel does not tell of it.
    #[error("the settings of {sbdf} can't be read from {interface}")]
    Unread {
        /// The virtual function.
        sbdf: HostSbdf,
        /// The interface of its physical function.
        interface: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel or the driver does not take a setting.
    #[error("{sbdf} can't have {setting}")]
    Refused {
        /// The virtual function.
        sbdf: HostSbdf,
        /// What it should have had.
        setting: LinkSetting,
        /// The interface of its physical function.
        interface: String,
        /// The driver of its physical function.
        driver: Option<String>,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

/// Gives a virtual function settings, all or none, and tells what it had in their place.
///
/// # Errors
/// [`VirtualLinkError`]; what was changed before is as it was.
pub fn set_link(
    root: &HostRoot,
    links: &dyn VirtualLinks,
    sbdf: HostSbdf,
    settings: &[LinkSetting],
) -> Result<Vec<LinkSetting>, VirtualLinkError> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let place = Place::of(root, links, sbdf)?;
    let mut former = Vec::new();
    for setting in settings {
        if let Err(error) = place.change(links, *setting) {
            for earlier in former.iter().rev() {
                if let Err(error) = place.change(links, *earlier) {
                    log::warn!("{error}, which it had before");
                }
            }
            return Err(error);
        }
        former.push(place.link.setting_like(*setting));
    }
    Ok(former)
}

/// Whether the driver of a function has chosen the address of its network interface (`addr_assign_type`,
/// Documentation/ABI/testing/sysfs-class-net): random, stolen or set, and not the card's own.
#[must_use]
pub fn has_own_address(root: &HostRoot, sbdf: HostSbdf) -> bool {
    let folder = format!("sys/bus/pci/devices/{sbdf}/net");
    let interfaces = root.names(&folder).unwrap_or_default();
    interfaces.iter().any(|name| {
        let kind = root.text_or_empty(format!("{folder}/{name}/addr_assign_type"));
        !kind.is_empty() && kind != "0"
    })
}

/// The settings of a virtual function; `None` where there are none, as for a disk's.
///
/// # Errors
/// [`VirtualLinkError`].
pub fn link_of(
    root: &HostRoot,
    links: &dyn VirtualLinks,
    sbdf: HostSbdf,
) -> Result<Option<VirtualLink>, VirtualLinkError> {
    match Place::of(root, links, sbdf) {
        Ok(place) => Ok(Some(place.link)),
        Err(VirtualLinkError::NoInterface { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the settings of a virtual function are.
struct Place {
    sbdf: HostSbdf,
    driver: Option<String>,
    interface: String,
    index: u32,
    link: VirtualLink,
}

impl Place {
    fn of(
        root: &HostRoot,
        links: &dyn VirtualLinks,
        sbdf: HostSbdf,
    ) -> Result<Self, VirtualLinkError> {
        let function = root.function(sbdf)?;
        let Some(physical) = root.physical_function(sbdf)? else {
            let physical = root.virtual_functions(sbdf)?.is_some();
            return Err(VirtualLinkError::NotVirtual { function, physical });
        };
        let position = root.virtual_functions_of(physical)?;
        let position = position.iter().position(|other| *other == sbdf);
        let index = position.and_then(|at| u32::try_from(at).ok());
        let physical = root.function(physical)?;
        let mut unread = None;
        // A card may have an interface for each of its ports, each with all virtual functions or with its own.
        for interface in root.names(format!("sys/bus/pci/devices/{}/net", physical.sbdf))? {
            let listed = match links.read(&interface) {
                Ok(listed) => listed,
                Err(source) => {
                    unread = Some(VirtualLinkError::Unread {
                        sbdf,
                        interface,
                        source,
                    });
                    continue;
                }
            };
            let found = index.and_then(|index| Some((index, listed.get(&index)?)));
            if let Some((index, link)) = found {
                return Ok(Self {
                    sbdf,
                    driver: physical.driver,
                    index,
                    link: *link,
                    interface,
                });
            }
            if !listed.is_empty() {
                unread = Some(VirtualLinkError::Unread {
                    sbdf,
                    interface,
                    source: io::Error::other("its driver says nothing of it at the moment"),
                });
            }
        }
        Err(unread.unwrap_or(VirtualLinkError::NoInterface { sbdf, physical }))
    }

    fn change(
        &self,
        links: &dyn VirtualLinks,
        setting: LinkSetting,
    ) -> Result<(), VirtualLinkError> {
        links
            .change(&self.interface, self.index, setting)
            .map_err(|source| VirtualLinkError::Refused {
                sbdf: self.sbdf,
                setting,
                interface: self.interface.clone(),
                driver: self.driver.clone(),
                source,
            })
    }
}

impl VirtualLink {
    /// The setting of the same kind as `setting`.
    pub(super) fn setting_like(&self, setting: LinkSetting) -> LinkSetting {
        match setting {
            LinkSetting::Mac(_) => LinkSetting::Mac(self.mac),
            LinkSetting::Vlan(_) => LinkSetting::Vlan(self.vlan),
            LinkSetting::Trust(_) => LinkSetting::Trust(self.trust),
            LinkSetting::SpoofCheck(_) => LinkSetting::SpoofCheck(self.spoof_check),
        }
    }
}

impl MacAddress {
    /// Whether a card may have it: of one station, and not all zeros.
    #[must_use]
    pub fn is_of_a_station(self) -> bool {
        const GROUP: u8 = 1;
        let [first, ..] = self.0;
        first & GROUP == 0 && self != Self::default()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is not of the form 52:54:00:12:34:56";
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let word = words.next().filter(|word| word.len() == 2);
            let word = word.filter(|word| word.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(word.ok_or(FORM)?, 16).map_err(|_| FORM)?;
        }
        match words.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(FORM),
        }
    }
}

impl fmt::Display for LinkSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        match self {
            Self::Mac(mac) if *mac == MacAddress::default() => f.write_str("an address of its own"),
            Self::Mac(mac) => write!(f, "the address {mac}"),
            Self::Vlan(Vlan { id: 0, .. }) => f.write_str("no VLAN"),
            Self::Vlan(vlan) => write!(f, "VLAN {}", vlan.id),
            Self::Trust(trust) => write!(f, "trust {}", on(*trust)),
            Self::SpoofCheck(check) => write!(f, "spoof check {}", on(*check)),
        }
    }
}

impl VirtualLinkError {
    /// Whether it may be otherwise a moment later.
    pub(super) fn may_pass(&self) -> bool {
        let (Self::Unread { source, .. } | Self::Refused { source, .. }) = self else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
    }

    /// The three lines a user sees.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let messages = || "see what the kernel says: sudo dmesg | tail".to_owned();
        let (why, remedy) = match self {
            Self::Host(error) => return error.problem(),
            Self::NotVirtual { function, physical } => (
                "only a virtual function has settings that its physical one makes".to_owned(),
                match physical {
                    true => format!("name one of: ferry vf list {}", function.sbdf),
                    false => "see which devices have some, in the column VFS: ferry devices --all"
                        .to_owned(),
                },
            ),
            Self::NoInterface { physical, .. } => (
                match &physical.driver {
                    Some(driver) => format!(
                        "{physical} has no network interface that tells of it; its driver is {driver}"
                    ),
                    None => format!("{physical} has no driver, whose part that is"),
                },
                "leave the settings out".to_owned(),
            ),
            Self::Unread { source, .. } => (source.to_string(), messages()),
            Self::Refused {
                driver,
                interface,
                source,
                setting,
                ..
            } => {
                let driver = driver.as_deref().unwrap_or("no driver");
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    let why = format!("the driver of {interface}, {driver}, has no such setting");
                    (why, format!("leave {} out", setting.option()))
                } else {
                    (
                        format!("the driver of {interface}, {driver}, answers: {source}"),
                        messages(),
                    )
                }
            }
        };
        Problem::new(self.to_string(), why, remedy)
    }
}

impl LinkSetting {
    /// What `ferry vf set` and `--device` call it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Mac(_) => "mac",
            Self::Vlan(_) => "vlan",
            Self::Trust(_) => "trust",
            Self::SpoofCheck(_) => "spoof-check",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::saved::{NIC, SavedHost, sbdf};
    use std::cell::RefCell;

    const VF: &str = "0000:03:10.1";
    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 3, 0x10]);

    /// A host with a NIC of two virtual functions, and the kernel's part.
    struct Card {
        host: SavedHost,
        changes: RefCell<Vec<(String, u32, LinkSetting)>>,
        links: BTreeMap<u32, VirtualLink>,
        /// A setting that fails.
        refused: Option<(LinkSetting, i32)>,
    }

    impl Card {
        fn new() -> Self {
            let host = SavedHost::intel();
            host.function(NIC, Some("igb"), Some(16));
            let directory = format!("sys/bus/pci/devices/{}", NIC.0);
            host.file(&format!("{directory}/net/eth0/ifindex"), "2\n");
            for (index, address) in ["0000:03:10.0", VF].into_iter().enumerate() {
                host.function((address, "8086:10ca", "0x020000"), None, Some(30));
                let link = format!("{directory}/virtfn{index}");
                host.link(&link, &format!("../{address}"));
                let link = format!("sys/bus/pci/devices/{address}/physfn");
                host.link(&link, &format!("../{}", NIC.0));
            }
            let second = VirtualLink {
                spoof_check: true,
                ..VirtualLink::default()
            };
            Self {
                host,
                changes: RefCell::default(),
                links: [(0, VirtualLink::default()), (1, second)].into(),
                refused: None,
            }
        }

        fn set(&self, settings: &[LinkSetting]) -> Result<Vec<LinkSetting>, VirtualLinkError> {
            set_link(&self.host.root(), self, sbdf(VF), settings)
        }
    }

    impl VirtualLinks for Card {
        fn read(&self, _: &str) -> io::Result<BTreeMap<u32, VirtualLink>> {
            Ok(self.links.clone())
        }

        fn change(&self, interface: &str, index: u32, setting: LinkSetting) -> io::Result<()> {
            if let Some((refused, errno)) = self.refused
                && refused == setting
            {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let mut changes = self.changes.borrow_mut();
            changes.push((interface.to_owned(), index, setting));
            Ok(())
        }
    }

    #[test]
    fn settings_go_to_the_physical_functions_interface_and_the_former_ones_come_back() {
        let card = Card::new();
        let settings = [LinkSetting::Mac(MAC), LinkSetting::SpoofCheck(false)];
        let former = card.set(&settings).unwrap();
        let made = settings.map(|setting| ("eth0".to_owned(), 1, setting));
        assert_eq!(*card.changes.borrow(), made);
        let nothing = LinkSetting::Mac(MacAddress::default());
        assert_eq!(former, [nothing, LinkSetting::SpoofCheck(true)]);
    }

    #[test]
    fn no_settings_need_no_virtual_function() {
        let card = Card::new();
        let none = set_link(&card.host.root(), &card, sbdf(NIC.0), &[]).unwrap();
        assert_eq!(none, []);
    }

    #[test]
    fn settings_made_before_one_that_fails_are_undone() {
        let mut card = Card::new();
        card.refused = Some((LinkSetting::Trust(true), libc::EOPNOTSUPP));
        let settings = [LinkSetting::Mac(MAC), LinkSetting::Trust(true)];
        let problem = card.set(&settings).unwrap_err().problem();
        let nothing = LinkSetting::Mac(MacAddress::default());
        let made: Vec<_> = card
            .changes
            .borrow()
            .iter()
            .map(|change| change.2)
            .collect();
        assert_eq!(made, [LinkSetting::Mac(MAC), nothing]);
        assert_eq!(
            problem.to_string(),
            "0000:03:10.1 can't have trust on\n  \
             why: the driver of eth0, igb, has no such setting\n  \
             fix: leave trust out"
        );
    }

    #[test]
    fn a_virtual_function_that_is_not_listed_now_is_not_taken_for_its_neighbour() {
        let mut card = Card::new();
        card.links.remove(&1);
        let error = card.set(&[LinkSetting::Mac(MAC)]).unwrap_err();
        let problem = error.problem();
        assert!(problem.why.contains("at the moment"), "{problem}");
        assert!(card.changes.borrow().is_empty());
    }

    #[test]
    fn a_card_with_two_interfaces_is_asked_at_the_one_that_lists_the_virtual_function() {
        struct Second(Card);
        impl VirtualLinks for Second {
            fn read(&self, interface: &str) -> io::Result<BTreeMap<u32, VirtualLink>> {
                match interface {
                    "eth0" => Ok([(0, VirtualLink::default())].into()),
                    other => self.0.read(other),
                }
            }
            fn change(&self, interface: &str, index: u32, setting: LinkSetting) -> io::Result<()> {
                self.0.change(interface, index, setting)
            }
        }
        let card = Second(Card::new());
        let file = format!("sys/bus/pci/devices/{}/net/eth1/ifindex", NIC.0);
        card.0.host.file(&file, "3\n");
        set_link(
            &card.0.host.root(),
            &card,
            sbdf(VF),
            &[LinkSetting::Mac(MAC)],
        )
        .unwrap();
        let changes = card.0.changes.borrow();
        assert_eq!(*changes, [("eth1".to_owned(), 1, LinkSetting::Mac(MAC))]);
    }

    #[test]
    fn a_card_without_an_interface_has_no_settings() {
        let card = Card::new();
        card.host.remove("sys/bus/pci/devices/0000:03:00.0/net");
        let root = card.host.root();
        assert_eq!(link_of(&root, &card, sbdf(VF)).unwrap(), None);
        let error = card.set(&[LinkSetting::Mac(MAC)]).unwrap_err();
        assert!(matches!(error, VirtualLinkError::NoInterface { .. }));
    }

    #[test]
    fn a_physical_function_is_no_virtual_one() {
        let card = Card::new();
        let error = link_of(&card.host.root(), &card, sbdf(NIC.0)).unwrap_err();
        let problem = error.problem();
        assert!(
            problem.what.ends_with("is no virtual function"),
            "{problem}"
        );
        assert!(problem.remedy.contains("ferry devices"), "{problem}");
        let file = format!("sys/bus/pci/devices/{}/sriov_totalvfs", NIC.0);
        card.host.file(&file, "7\n");
        let error = link_of(&card.host.root(), &card, sbdf(NIC.0)).unwrap_err();
        let problem = error.problem();
        assert!(
            problem.remedy.ends_with("ferry vf list 0000:03:00.0"),
            "{problem}"
        );
    }

    #[test]
    fn addresses_are_six_hexadecimal_bytes() {
        assert_eq!("52:54:00:00:03:10".parse(), Ok(MAC));
        assert_eq!(MAC.to_string(), "52:54:00:00:03:10");
        for text in [
            "",
            "52:54:00:00:03",
            "52:54:00:00:03:10:1",
            "5:54:00:00:03:10",
            "+1:54:00:00:03:10",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
        assert!(MAC.is_of_a_station());
        assert!(!MacAddress::default().is_of_a_station());
        assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_of_a_station());
    }
}
