//! Virtual functions of a network card as rtnetlink shows and sets them (rtnetlink(7); `IFLA_VFINFO_LIST` of
//! include/uapi/linux/if_link.h, Linux 6.12).

use super::virtual_link::{LinkSetting, MacAddress, VirtualLink, VirtualLinks, Vlan};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoMac, VfInfoSpoofCheck,
    VfInfoTrust, VfInfoVlan,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::collections::BTreeMap;
use std::io;

/// The kernel's rtnetlink, of this process's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteNetlink;

impl VirtualLinks for RouteNetlink {
    fn read(&self, interface: &str) -> io::Result<BTreeMap<u32, VirtualLink>> {
        Ok(get(interface)?.1)
    }

    fn change(&self, interface: &str, index: u32, setting: LinkSetting) -> io::Result<()> {
        let (number, _) = get(interface)?;
        let mut message = LinkMessage::default();
        message.header.index = number;
        let info = LinkVfInfo(vec![attribute(index, setting)]);
        message.attributes = vec![LinkAttribute::VfInfoList(vec![info])];
        talk(RouteNetlinkMessage::SetLink(message)).map(drop)
    }
}

fn attribute(index: u32, setting: LinkSetting) -> VfInfo {
    match setting {
        LinkSetting::Mac(MacAddress(bytes)) => VfInfo::Mac(VfInfoMac::new(index, &bytes)),
        LinkSetting::Vlan(Vlan { id, priority }) => {
            VfInfo::Vlan(VfInfoVlan::new(index, id.into(), priority.into()))
        }
        LinkSetting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(index, on)),
        LinkSetting::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(index, on)),
    }
}

/// The number of an interface, and its virtual functions by their numbers.
fn get(interface: &str) -> io::Result<(u32, BTreeMap<u32, VirtualLink>)> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(interface.to_owned()),
        // Statistics of many virtual functions would not fit the attribute.
        LinkAttribute::ExtMask(vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats]),
    ];
    let answers = talk(RouteNetlinkMessage::GetLink(message))?;
    let link = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let link = link.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let listed = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::VfInfoList(list) => Some(list.as_slice()),
            _ => None,
        });
    let links = listed.unwrap_or_default().iter().filter_map(virtual_link);
    Ok((link.header.index, links.collect()))
}

/// The number of a virtual function, which each of its attributes has, and what they say.
fn virtual_link(info: &LinkVfInfo) -> Option<(u32, VirtualLink)> {
    let mut link = VirtualLink::default();
    let mut index = None;
    for attribute in &info.0 {
        match attribute {
            VfInfo::Mac(mac) => {
                index = Some(mac.vf_id);
                let bytes = mac.mac.first_chunk().copied().unwrap_or_default();
                link.mac = MacAddress(bytes);
            }
            VfInfo::Vlan(vlan) => {
                link.vlan = Vlan {
                    id: u16::try_from(vlan.vlan_id).unwrap_or_default(),
                    priority: u8::try_from(vlan.qos).unwrap_or_default(),
                }
            }
            VfInfo::Trust(trust) => link.trust = trust.enabled,
            VfInfo::SpoofCheck(check) => link.spoof_check = check.enabled,
            _ => {}
        }
    }
    // The kernel always has the address among them.
    Some((index?, link))
}

/// Asks the kernel, which answers before it acknowledges.
fn talk(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
            match answer.payload {
                // One without a code acknowledges.
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
            // Messages lie at multiples of four (NLMSG_ALIGN).
            let next = length.max(1).next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_virtual_functions_has_an_empty_list() {
        assert_eq!(RouteNetlink.read("lo").unwrap(), BTreeMap::new());
    }

    #[test]
    fn an_interface_that_is_not_there_has_an_errno() {
        let error = RouteNetlink.read("no-such-one").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn what_the_kernel_lists_is_what_was_set() {
        let settings = [
            LinkSetting::Mac(MacAddress([0x52, 0x54, 0, 1, 2, 3])),
            LinkSetting::Vlan(Vlan { id: 7, priority: 5 }),
            LinkSetting::Trust(true),
            LinkSetting::SpoofCheck(true),
        ];
        let info = LinkVfInfo(settings.map(|setting| attribute(3, setting)).to_vec());
        let expected = VirtualLink {
            mac: MacAddress([0x52, 0x54, 0, 1, 2, 3]),
            vlan: Vlan { id: 7, priority: 5 },
            trust: true,
            spoof_check: true,
        };
        assert_eq!(virtual_link(&info), Some((3, expected)));
    }
}
