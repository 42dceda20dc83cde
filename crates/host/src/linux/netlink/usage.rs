//! Addresses and routes of one link.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::attributes::{Attributes, malformed, u32_at};
use super::connection::Connections;

const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const AF_INET6: u8 = 10;

impl Connections {
    /// The first address that somebody gave the link, as `10.0.0.5/24`. IPv6's link-local
    /// addresses do not count: the kernel makes one for whatever is up.
    pub(crate) fn first_address(&self, ifindex: u32) -> io::Result<Option<String>> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = ifindex;
            let request = RouteNetlinkMessage::GetAddress(message);
            let found = self.dump(&request, |_, payload| read_address(payload, ifindex));
            if let Some(address) = supported(found)?.into_iter().next() {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Whether a default route, in whatever table, leaves through the link.
    pub(crate) fn has_default_route(&self, ifindex: u32) -> io::Result<bool> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes = vec![RouteAttribute::Oif(ifindex)];
            let request = RouteNetlinkMessage::GetRoute(message);
            let found = self.dump(&request, |_, payload| {
                Ok(is_default_route(payload)?.then_some(()))
            });
            if !supported(found)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A kernel without IPv6, or with it switched off, has none of it.
fn supported<T>(found: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    match found {
        Err(error) if [Some(EAFNOSUPPORT), Some(EOPNOTSUPP)].contains(&crate::errno(&error)) => {
            Ok(Vec::new())
        }
        found => found,
    }
}

fn read_address(payload: &[u8], ifindex: u32) -> io::Result<Option<String>> {
    let [family, prefix, _, scope] = *payload.first_chunk().ok_or_else(malformed)?;
    // A kernel that does not filter answers for every link.
    if u32_at(payload, 4)? != ifindex || (family == AF_INET6 && scope >= RT_SCOPE_LINK) {
        return Ok(None);
    }
    let attributes = Attributes::after(ADDRESS_HEADER, payload)?;
    let address = match attributes.find(IFA_LOCAL)? {
        Some(local) => Some(local),
        None => attributes.find(IFA_ADDRESS)?,
    };
    let address = address.ok_or_else(malformed)?;
    let address = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
        (Ok(bytes), _) => IpAddr::from(Ipv4Addr::from(bytes)),
        (_, Ok(bytes)) => IpAddr::from(Ipv6Addr::from(bytes)),
        _ => return Err(malformed()),
    };
    Ok(Some(format!("{address}/{prefix}")))
}

/// The request names the link, and the kernel answers with its routes alone.
fn is_default_route(payload: &[u8]) -> io::Result<bool> {
    if payload.len() < ROUTE_HEADER {
        return Err(malformed());
    }
    Ok(payload[1] == 0 && payload[7] == RTN_UNICAST)
}
