//! Ports of a bridge: their flags, VLANs, and the MACs behind them.
//!
//! Numbers are those of the kernel's `linux/if_bridge.h` and `linux/neighbour.h`.

use std::io;

use conf::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::attributes::{AttributeWriter, Attributes, malformed, u32_at};
use super::connection::Connections;
use super::device::{IFLA_AF_SPEC, PortFlags, RTM_DELLINK, RTM_SETLINK, ignore, link_message, raw};
use super::link::HEADER;
use crate::BridgeVlan;

const AF_BRIDGE: u8 = 7;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

const IFLA_PROTINFO: u16 = 12;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;

const NDA_LLADDR: u16 = 2;
const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 1 << 2;

const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();

impl Connections {
    /// Sets those flags of a port that are given.
    pub(crate) fn set_port(&self, ifindex: u32, flags: PortFlags) -> io::Result<()> {
        let mut request = link_message(AF_BRIDGE, ifindex, 0, 0);
        request.nest(IFLA_PROTINFO, |port| {
            for (kind, flag) in [
                (PortFlags::ISOLATED, flags.isolated),
                (PortFlags::LEARNING, flags.learning),
                (PortFlags::UNICAST_FLOOD, flags.unicast_flood),
            ] {
                if let Some(flag) = flag {
                    port.value(kind, [u8::from(flag)]);
                }
            }
        });
        self.exchange(raw(RTM_SETLINK, 0, &request), ignore)
    }

    /// The VLANs of a port.
    pub(crate) fn port_vlans(&self, ifindex: u32) -> io::Result<Vec<BridgeVlan>> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
        let found = self.dump(&RouteNetlinkMessage::GetLink(message), |_, payload| {
            if u32_at(payload, 4)? != ifindex {
                return Ok(None);
            }
            read_vlans(payload).map(Some)
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Adds a VLAN to a port, or sets it anew.
    pub(crate) fn add_port_vlan(&self, ifindex: u32, vlan: BridgeVlan) -> io::Result<()> {
        self.exchange(raw(RTM_SETLINK, 0, &vlan_message(ifindex, vlan)), ignore)
    }

    /// Takes a VLAN from a port.
    pub(crate) fn remove_port_vlan(&self, ifindex: u32, vlan: BridgeVlan) -> io::Result<()> {
        self.exchange(raw(RTM_DELLINK, 0, &vlan_message(ifindex, vlan)), ignore)
    }

    /// Puts a MAC behind a port, for good, or takes it away; gone already is fine.
    pub(crate) fn set_port_mac(
        &self,
        ifindex: u32,
        mac: MacAddress,
        present: bool,
    ) -> io::Result<()> {
        let mut header = vec![AF_BRIDGE, 0, 0, 0];
        header.extend(ifindex.to_ne_bytes());
        header.extend((NUD_NOARP | NUD_REACHABLE).to_ne_bytes());
        header.extend([NTF_MASTER, 0]);
        let mut request = AttributeWriter::after(header);
        request.value(NDA_LLADDR, mac.bytes());
        let (kind, flags) = match present {
            true => (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
            false => (RTM_DELNEIGH, 0),
        };
        match self.exchange(raw(kind, flags, &request), ignore) {
            Err(error) if !present && crate::errno(&error) == Some(ENOENT) => Ok(()),
            set => set,
        }
    }
}

fn vlan_message(ifindex: u32, vlan: BridgeVlan) -> AttributeWriter {
    let flag = |on: bool, flag: u16| if on { flag } else { 0 };
    let flags = flag(vlan.pvid, VLAN_PVID) | flag(vlan.untagged, VLAN_UNTAGGED);
    let mut message = link_message(AF_BRIDGE, ifindex, 0, 0);
    message.nest(IFLA_AF_SPEC, |spec| {
        let info = [flags.to_ne_bytes(), vlan.id.to_ne_bytes()].concat();
        spec.value(IFLA_BRIDGE_VLAN_INFO, info);
    });
    message
}

fn read_vlans(payload: &[u8]) -> io::Result<Vec<BridgeVlan>> {
    let mut vlans = Vec::new();
    let Some(spec) = Attributes::after(HEADER, payload)?.nested(IFLA_AF_SPEC)? else {
        return Ok(vlans);
    };
    for attribute in spec.iter() {
        if let (IFLA_BRIDGE_VLAN_INFO, info) = attribute? {
            let [a, b, c, d] = *info.first_chunk().ok_or_else(malformed)?;
            let flags = u16::from_ne_bytes([a, b]);
            vlans.push(BridgeVlan {
                id: u16::from_ne_bytes([c, d]),
                pvid: flags & VLAN_PVID != 0,
                untagged: flags & VLAN_UNTAGGED != 0,
            });
        }
    }
    Ok(vlans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_read_as_it_is_written() {
        let vlan = BridgeVlan {
            id: 42,
            pvid: true,
            untagged: false,
        };
        let message = vlan_message(7, vlan);
        assert_eq!(read_vlans(message.bytes()).unwrap(), [vlan]);
        for length in 0..message.bytes().len() {
            let cut = read_vlans(&message.bytes()[..length]);
            assert!(cut.is_err() || cut.is_ok_and(|vlans| vlans.is_empty()));
        }
    }
}
