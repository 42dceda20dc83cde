//! How bridges, bonds and VLANs work.

use std::io;

use netlink_packet_route::link::LinkExtentMask;

use super::attributes::{Attributes, malformed, text, u32_at};
use super::connection::Connections;
use super::link::{HEADER, get_link};
use crate::{BondDetails, BridgeDetails, NetdevDetails};

const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFLA_BOND_UPDELAY: u16 = 4;
const IFLA_BOND_DOWNDELAY: u16 = 5;
const IFLA_VLAN_ID: u16 = 1;

impl Connections {
    /// What a device tells of itself by its kind; all but its speed.
    pub(crate) fn details(&self, ifindex: u32) -> io::Result<NetdevDetails> {
        let mut found = None;
        let request = get_link(ifindex, vec![LinkExtentMask::SkipStats]);
        self.get(request, |_, payload| {
            found = Some(read(payload)?);
            Ok(())
        })?;
        found.ok_or_else(malformed)
    }
}

fn read(payload: &[u8]) -> io::Result<NetdevDetails> {
    let mut details = NetdevDetails::default();
    let Some(info) = Attributes::after(HEADER, payload)?.nested(IFLA_LINKINFO)? else {
        return Ok(details);
    };
    let (Some(kind), Some(data)) = (info.find(IFLA_INFO_KIND)?, info.nested(IFLA_INFO_DATA)?)
    else {
        return Ok(details);
    };
    let number = |kind| -> io::Result<u32> {
        let value = data.find(kind)?;
        value.map_or(Ok(0), |value| u32_at(value, 0))
    };
    match text(kind).as_str() {
        "bridge" => {
            details.bridge = Some(BridgeDetails {
                stp: number(IFLA_BR_STP_STATE)? != 0,
                forward_delay: number(IFLA_BR_FORWARD_DELAY)?,
            });
        }
        "bond" => {
            let mode = data.find(IFLA_BOND_MODE)?;
            details.bond = Some(BondDetails {
                mode: mode.and_then(|mode| mode.first()).copied().unwrap_or(0),
                mii_frequency: number(IFLA_BOND_MIIMON)?,
                up_delay: number(IFLA_BOND_UPDELAY)?,
                down_delay: number(IFLA_BOND_DOWNDELAY)?,
            });
        }
        "vlan" => {
            let id = data.find(IFLA_VLAN_ID)?.and_then(|id| id.first_chunk());
            details.vlan = id.map(|id| u16::from_ne_bytes(*id));
        }
        _ => {}
    }
    Ok(details)
}

#[cfg(test)]
mod tests {
    use super::super::attributes::AttributeWriter;
    use super::*;

    fn told(kind: &str, data: impl FnOnce(&mut AttributeWriter)) -> NetdevDetails {
        let mut message = AttributeWriter::after([0; HEADER]);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind);
            info.nest(IFLA_INFO_DATA, data);
        });
        read(message.bytes()).unwrap()
    }

    #[test]
    fn each_kind_tells_its_own() {
        let bridge = told("bridge", |data| {
            data.value(IFLA_BR_FORWARD_DELAY, 1500_u32.to_ne_bytes());
            data.value(IFLA_BR_STP_STATE, 1_u32.to_ne_bytes());
        });
        let expected = BridgeDetails {
            stp: true,
            forward_delay: 1500,
        };
        assert_eq!((bridge.bridge, bridge.bond), (Some(expected), None));
        let bond = told("bond", |data| {
            data.value(IFLA_BOND_MODE, [4]);
            data.value(IFLA_BOND_MIIMON, 100_u32.to_ne_bytes());
            data.value(IFLA_BOND_UPDELAY, 20_u32.to_ne_bytes());
            data.value(IFLA_BOND_DOWNDELAY, 10_u32.to_ne_bytes());
        });
        let expected = BondDetails {
            mode: 4,
            mii_frequency: 100,
            up_delay: 20,
            down_delay: 10,
        };
        assert_eq!(bond.bond, Some(expected));
        let vlan = told("vlan", |data| {
            data.value(IFLA_VLAN_ID, 42_u16.to_ne_bytes());
        });
        assert_eq!(vlan.vlan, Some(42));
        // The same numbers mean something else to another kind.
        let veth = told("veth", |data| {
            data.value(IFLA_VLAN_ID, 42_u16.to_ne_bytes());
        });
        assert_eq!(veth, NetdevDetails::default());
    }

    #[test]
    fn what_is_cut_short_is_no_panic() {
        let vlan = told("vlan", |data| {
            data.value(IFLA_VLAN_ID, [1]);
        });
        assert_eq!(vlan.vlan, None);
        read(&[0; HEADER - 1]).unwrap_err();
    }
}
