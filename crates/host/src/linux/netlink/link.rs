//! Links, and the VFs of a link.

use std::io;

use conf::{MacAddress, PciAddress, VfLink};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoLinkState, VfInfoMac,
    VfInfoRate, VfInfoRssQueryEn, VfInfoSpoofCheck, VfInfoTrust, VfInfoVlan, VfLinkState, VfVlan,
    VfVlanInfo, VlanProtocol as WireProtocol,
};

use super::attributes::{Attributes, malformed, text, u32_at};
use super::connection::Connections;
use crate::{LinkState, VfSetting, VlanProtocol};

pub(super) const HEADER: usize = 16;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_VFINFO_LIST: u16 = 22;
/// `if_link.h`; of a PCI device it is the address.
const IFLA_PARENT_DEV_NAME: u16 = 56;

const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_RSS_QUERY_EN: u16 = 7;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;

const ETH_P_8021AD: u16 = 0x88a8;
/// What the kernel writes where the driver did not say.
const UNTOLD: u32 = u32::MAX;

/// A network device as netlink tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) state: LinkState,
    /// Index of its bridge, bond or team.
    pub(crate) master: Option<u32>,
    /// The PCI function behind it, which the kernel tells since 5.14.
    pub(crate) function: Option<PciAddress>,
}

/// A VF in its PF's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VfRecord {
    pub(crate) mac: MacAddress,
    pub(crate) vlan: u16,
    pub(crate) qos: u8,
    pub(crate) protocol: VlanProtocol,
    pub(crate) spoof_check: Option<bool>,
    pub(crate) trust: Option<bool>,
    pub(crate) link: Option<VfLink>,
    pub(crate) min_rate: u32,
    pub(crate) max_rate: u32,
    pub(crate) rss_query: Option<bool>,
}

impl Link {
    /// From the payload of an RTM_NEWLINK or RTM_DELLINK.
    pub(crate) fn read(payload: &[u8]) -> io::Result<Self> {
        let flags = u32_at(payload, 8)?;
        let mut link = Self {
            index: u32_at(payload, 4)?,
            name: String::new(),
            state: LinkState {
                up: flags & IFF_UP != 0,
                carrier: flags & IFF_LOWER_UP != 0,
                mtu: 0,
            },
            master: None,
            function: None,
        };
        for attribute in Attributes::after(HEADER, payload)?.iter() {
            match attribute? {
                (IFLA_IFNAME, value) => link.name = text(value),
                (IFLA_MTU, value) => link.state.mtu = u32_at(value, 0)?,
                (IFLA_MASTER, value) => link.master = Some(u32_at(value, 0)?).filter(|m| *m != 0),
                (IFLA_PARENT_DEV_NAME, value) => link.function = text(value).parse().ok(),
                _ => {}
            }
        }
        Ok(link)
    }
}

impl Connections {
    /// A link, by index.
    pub(crate) fn link(&self, ifindex: u32) -> io::Result<Link> {
        // Without statistics: they are by far the longest part.
        let mask = LinkExtentMask::SkipStats;
        let mut found = None;
        self.get(get_link(ifindex, vec![mask]), |_, payload| {
            found = Some(Link::read(payload)?);
            Ok(())
        })?;
        found.ok_or_else(malformed)
    }

    /// The settings of a PF's VF; `None` where its driver does not list it.
    pub(crate) fn vf(&self, pf: u32, number: u16) -> io::Result<Option<VfRecord>> {
        let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        let mut found = None;
        self.get(get_link(pf, mask), |_, payload| {
            found = read_vf(payload, number)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Sets one attribute of a VF.
    pub(crate) fn set_vf(&self, pf: u32, number: u16, setting: VfSetting) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = pf;
        let info = LinkVfInfo(vec![encode(u32::from(number), setting)]);
        message.attributes = vec![LinkAttribute::VfInfoList(vec![info])];
        self.change(RouteNetlinkMessage::SetLink(message))
    }

    /// Sets a network device's own MAC.
    pub(crate) fn set_mac(&self, ifindex: u32, mac: MacAddress) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes = vec![LinkAttribute::Address(mac.bytes().to_vec())];
        self.change(RouteNetlinkMessage::SetLink(message))
    }
}

pub(super) fn get_link(ifindex: u32, mask: Vec<LinkExtentMask>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = vec![LinkAttribute::ExtMask(mask)];
    RouteNetlinkMessage::GetLink(message)
}

fn encode(vf: u32, setting: VfSetting) -> VfInfo {
    match setting {
        VfSetting::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.bytes())),
        VfSetting::Vlan {
            id,
            qos,
            protocol: VlanProtocol::Dot1q,
        } => VfInfo::Vlan(VfInfoVlan::new(vf, id.into(), qos.into())),
        VfSetting::Vlan {
            id,
            qos,
            protocol: VlanProtocol::Dot1ad,
        } => VfInfo::VlanList(vec![VfVlan::Info(VfVlanInfo::new(
            vf,
            id.into(),
            qos.into(),
            WireProtocol::Ieee8021Ad,
        ))]),
        VfSetting::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
        VfSetting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
        VfSetting::Link(link) => {
            let link = match link {
                VfLink::Auto => VfLinkState::Auto,
                VfLink::On => VfLinkState::Enable,
                VfLink::Off => VfLinkState::Disable,
            };
            VfInfo::LinkState(VfInfoLinkState::new(vf, link))
        }
        VfSetting::Rate { min, max } => VfInfo::Rate(VfInfoRate::new(vf, min, max)),
        VfSetting::RssQuery(on) => VfInfo::RssQueryEn(VfInfoRssQueryEn::new(vf, on)),
    }
}

/// The VF of that number in a PF's RTM_NEWLINK.
fn read_vf(payload: &[u8], number: u16) -> io::Result<Option<VfRecord>> {
    let Some(list) = Attributes::after(HEADER, payload)?.nested(IFLA_VFINFO_LIST)? else {
        return Ok(None);
    };
    for info in list.iter() {
        let info = Attributes::from(info?.1);
        let Some(mac) = info.find(IFLA_VF_MAC)? else {
            continue;
        };
        if u32_at(mac, 0)? == u32::from(number) {
            return read_record(info).map(Some);
        }
    }
    Ok(None)
}

/// Each value is a structure whose first field is the VF's number.
fn read_record(info: Attributes<'_>) -> io::Result<VfRecord> {
    let mut record = VfRecord {
        mac: MacAddress::ZERO,
        vlan: 0,
        qos: 0,
        protocol: VlanProtocol::Dot1q,
        spoof_check: None,
        trust: None,
        link: None,
        min_rate: 0,
        max_rate: 0,
        rss_query: None,
    };
    for attribute in info.iter() {
        match attribute? {
            (IFLA_VF_MAC, value) => {
                let mac = value.get(4..10).ok_or_else(malformed)?;
                record.mac = MacAddress::new(mac.try_into().map_err(|_| malformed())?);
            }
            (IFLA_VF_VLAN, value) => {
                (record.vlan, record.qos) = tag(value)?;
            }
            (IFLA_VF_VLAN_LIST, value) => {
                if let Some((_, entry)) = Attributes::from(value).iter().next().transpose()? {
                    (record.vlan, record.qos) = tag(entry)?;
                    let protocol = entry.get(12..14).ok_or_else(malformed)?;
                    record.protocol = match protocol {
                        p if p == ETH_P_8021AD.to_be_bytes() => VlanProtocol::Dot1ad,
                        _ => VlanProtocol::Dot1q,
                    };
                }
            }
            (IFLA_VF_SPOOFCHK, value) => record.spoof_check = flag(value)?,
            (IFLA_VF_TRUST, value) => record.trust = flag(value)?,
            (IFLA_VF_RSS_QUERY_EN, value) => record.rss_query = flag(value)?,
            (IFLA_VF_LINK_STATE, value) => {
                record.link = match u32_at(value, 4)? {
                    0 => Some(VfLink::Auto),
                    1 => Some(VfLink::On),
                    2 => Some(VfLink::Off),
                    _ => None,
                }
            }
            (IFLA_VF_RATE, value) => {
                record.min_rate = u32_at(value, 4)?;
                record.max_rate = u32_at(value, 8)?;
            }
            _ => {}
        }
    }
    Ok(record)
}

fn tag(value: &[u8]) -> io::Result<(u16, u8)> {
    let id = u16::try_from(u32_at(value, 4)?).map_err(|_| malformed())?;
    let qos = u8::try_from(u32_at(value, 8)?).map_err(|_| malformed())?;
    Ok((id, qos))
}

fn flag(value: &[u8]) -> io::Result<Option<bool>> {
    let setting = u32_at(value, 4)?;
    Ok((setting != UNTOLD).then_some(setting != 0))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, NLA_F_NESTED};

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = Vec::new();
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    /// A PF with the VFs of those numbers, whose MACs end in their number.
    fn answer(vfs: &[u32], spoof_check: u32) -> Vec<u8> {
        let infos: Vec<u8> = (vfs.iter())
            .flat_map(|vf| {
                let mut mac = numbers(&[*vf]);
                mac.extend([0x52, 0x54, 0, 0, 0, *vf as u8]);
                mac.resize(36, 0);
                let mut outer = numbers(&[*vf, 42, 3]);
                outer.extend([0x88, 0xa8, 0, 0]);
                let info = [
                    attribute(IFLA_VF_MAC, &mac),
                    attribute(IFLA_VF_VLAN, &numbers(&[*vf, 42, 3])),
                    attribute(IFLA_VF_VLAN_LIST | NLA_F_NESTED, &attribute(1, &outer)),
                    attribute(IFLA_VF_RATE, &numbers(&[*vf, 10, 100])),
                    attribute(IFLA_VF_SPOOFCHK, &numbers(&[*vf, spoof_check])),
                    attribute(IFLA_VF_TRUST, &numbers(&[*vf, 1])),
                    attribute(IFLA_VF_LINK_STATE, &numbers(&[*vf, 2])),
                    attribute(99, &[1, 2, 3]),
                ]
                .concat();
                attribute(1 | NLA_F_NESTED, &info)
            })
            .collect();
        let mut payload = vec![0; HEADER];
        payload.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        payload.extend(attribute(IFLA_VFINFO_LIST | NLA_F_NESTED, &infos));
        payload
    }

    #[test]
    fn the_vf_asked_for_is_found_with_all_its_settings() {
        let record = read_vf(&answer(&[0, 1, 2], 1), 2).unwrap().unwrap();
        let expected = VfRecord {
            mac: MacAddress::new([0x52, 0x54, 0, 0, 0, 2]),
            vlan: 42,
            qos: 3,
            protocol: VlanProtocol::Dot1ad,
            spoof_check: Some(true),
            trust: Some(true),
            link: Some(VfLink::Off),
            min_rate: 10,
            max_rate: 100,
            rss_query: None,
        };
        assert_eq!(record, expected);
        assert_eq!(read_vf(&answer(&[0, 1], 1), 7).unwrap(), None);
    }

    #[test]
    fn what_the_driver_does_not_tell_is_not_on() {
        let record = read_vf(&answer(&[0], UNTOLD), 0).unwrap().unwrap();
        assert_eq!(record.spoof_check, None);
    }

    #[test]
    fn a_cut_off_answer_is_an_error_or_nothing_and_never_a_panic() {
        let whole = answer(&[0, 1], 1);
        for length in 0..whole.len() {
            let cut = read_vf(&whole[..length], 1);
            assert!(!matches!(cut, Ok(Some(_))), "{length}: {cut:?}");
        }
    }

    #[test]
    fn a_plain_tag_goes_as_the_message_that_every_driver_knows() {
        let tag = |protocol| {
            let (id, qos) = (42, 3);
            let info = encode(5, VfSetting::Vlan { id, qos, protocol });
            let mut bytes = vec![0; info.buffer_len()];
            info.emit(&mut bytes);
            bytes
        };
        let plain = attribute(IFLA_VF_VLAN, &numbers(&[5, 42, 3]));
        assert_eq!(tag(VlanProtocol::Dot1q), plain);
        let outer = tag(VlanProtocol::Dot1ad);
        assert_eq!(outer[2..4], IFLA_VF_VLAN_LIST.to_ne_bytes());
        assert!(outer.windows(2).any(|bytes| bytes == [0x88, 0xa8]));
    }
}
