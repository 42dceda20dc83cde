//! VLAN devices.
//!
//! Numbers are those of the kernel's `linux/if_link.h` and `linux/if_ether.h`.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::attributes::{AttributeWriter, Attributes};
use super::connection::Connections;
use super::device::{
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, RTM_NEWLINK, ignore,
    raw, to_link,
};
use crate::VlanSpec;

const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const ETH_P_8021Q: [u8; 2] = [0x81, 0x00];

impl Connections {
    /// Makes a VLAN device, without its tag.
    pub(crate) fn make_vlan(&self, spec: &VlanSpec) -> io::Result<()> {
        let request = request(spec);
        self.exchange(
            raw(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &request),
            ignore,
        )
    }
}

fn request(spec: &VlanSpec) -> AttributeWriter {
    let mut request = to_link(0);
    request
        .text(IFLA_IFNAME, spec.name.as_str())
        .value(IFLA_LINK, spec.lower.to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vlan")
                .nest(IFLA_INFO_DATA, |data| {
                    data.value(IFLA_VLAN_ID, spec.id.get().to_ne_bytes())
                        .value(IFLA_VLAN_PROTOCOL, ETH_P_8021Q);
                });
        });
    request
}

/// The number of a VLAN of 802.1Q, from its `IFLA_INFO_DATA`. A device of 802.1ad has its numbers
/// for itself: the kernel keeps one device below for each protocol and number.
pub(super) fn read(data: Attributes<'_>) -> io::Result<Option<u16>> {
    // Kernels before 3.10 tell none, and have no other.
    let protocol = data.find(IFLA_VLAN_PROTOCOL)?;
    if protocol.is_some_and(|protocol| !protocol.starts_with(&ETH_P_8021Q)) {
        return Ok(None);
    }
    let id = data.find(IFLA_VLAN_ID)?;
    Ok(id.and_then(|id| id.first_chunk().copied().map(u16::from_ne_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::netlink::link::HEADER;

    fn told(protocol: Option<[u8; 2]>) -> Option<u16> {
        let mut data = AttributeWriter::default();
        data.value(IFLA_VLAN_ID, 42_u16.to_ne_bytes());
        if let Some(protocol) = protocol {
            data.value(IFLA_VLAN_PROTOCOL, protocol);
        }
        read(Attributes::from(data.bytes())).unwrap()
    }

    #[test]
    fn only_a_vlan_of_802_1q_tells_its_number() {
        assert_eq!(told(None), Some(42));
        assert_eq!(told(Some(ETH_P_8021Q)), Some(42));
        assert_eq!(told(Some([0x88, 0xa8])), None);
    }

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let spec = VlanSpec {
            name: "vn7.42".parse().unwrap(),
            lower: 7,
            id: 42.try_into().unwrap(),
            tag: String::new(),
        };
        let request = request(&spec);
        let info = Attributes::after(HEADER, request.bytes()).unwrap();
        let info = info.nested(IFLA_LINKINFO).unwrap().unwrap();
        assert_eq!(info.find(IFLA_INFO_KIND).unwrap(), Some(&b"vlan\0"[..]));
        let data = info.nested(IFLA_INFO_DATA).unwrap().unwrap();
        assert_eq!(read(data).unwrap(), Some(42));
    }
}
