//! Changing what an `<ip>` serves by DHCP.

use std::net::IpAddr;

use super::{NetworkUpdate, UpdateCommand, added, without};
use crate::network::Network;
use crate::network::dhcp::{DhcpHost, DhcpRange};
use crate::network::ip::address;
use crate::xml::{Document, Element};
use crate::{Error, ErrorKind, MacAddress};

impl Network {
    /// The `<ip>` whose `<dhcp>` is meant.
    fn parent_of(&self, change: &NetworkUpdate<'_>) -> Result<usize, Error> {
        let all = &self.ip.addresses;
        match change.parent {
            Some(index) if index < all.len() => Ok(index),
            Some(index) => Err(self.invalid(format_args!("has no <ip> of index {index}"))),
            None => {
                let of_family = |ipv6: bool| {
                    all.iter()
                        .position(|ip| ip.address.is_some_and(|a| a.is_ipv6() == ipv6))
                };
                let serving = all.iter().position(|ip| ip.dhcp.serves());
                serving
                    .or_else(|| of_family(false))
                    .or_else(|| of_family(true))
                    .ok_or_else(|| self.invalid("has no <ip>"))
            }
        }
    }

    pub(super) fn update_dhcp_host(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        let parent = self.parent_of(change)?;
        let ip = &self.ip.addresses[parent];
        let document = Document::parse(change.xml)?;
        let element = document.plain_named("host")?;
        let wanted = HostSearch::read(element)?;
        // All that a deletion says must fit; an addition must not meet anything of another.
        let found = match change.command {
            UpdateCommand::Delete => ip.dhcp.hosts.iter().position(|host| wanted.fits(host)),
            _ => ip.dhcp.hosts.iter().position(|host| wanted.meets(host)),
        };
        let hosts = match (change.command, found) {
            (UpdateCommand::Delete, Some(index)) => without(&ip.dhcp.hosts, index),
            (UpdateCommand::Modify, Some(index)) => {
                let mut hosts = ip.dhcp.hosts.clone();
                hosts[index] = DhcpHost::parse(element, ip)?;
                hosts
            }
            (UpdateCommand::Delete | UpdateCommand::Modify, None) => {
                return Err(self.invalid(format_args!("has no dhcp <host {wanted}>")));
            }
            (_, Some(_)) => {
                return Err(self.invalid(format_args!(
                    "has a dhcp host with some of <host {wanted}> already"
                )));
            }
            (command, None) => added(
                &ip.dhcp.hosts,
                DhcpHost::parse(element, ip)?,
                command == UpdateCommand::AddFirst,
            ),
        };
        self.ip.addresses[parent].dhcp.hosts = hosts;
        self.one_dhcp()
    }

    pub(super) fn update_dhcp_range(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let parent = self.parent_of(change)?;
        let ip = &self.ip.addresses[parent];
        let document = Document::parse(change.xml)?;
        let range = DhcpRange::parse(document.plain_named("range")?, ip)?;
        let same = |other: &DhcpRange| (other.start, other.end) == (range.start, range.end);
        let found = ip.dhcp.ranges.iter().position(same);
        let shown = format!("<range start='{}' end='{}'>", range.start, range.end);
        let ranges = match (change.command, found) {
            (UpdateCommand::Delete, Some(index)) => without(&ip.dhcp.ranges, index),
            (UpdateCommand::Delete, None) => {
                return Err(self.invalid(format_args!("has no dhcp {shown}")));
            }
            (_, Some(_)) => {
                return Err(self.invalid(format_args!("has the dhcp {shown} already")));
            }
            (command, None) => added(&ip.dhcp.ranges, range, command == UpdateCommand::AddFirst),
        };
        self.ip.addresses[parent].dhcp.ranges = ranges;
        self.one_dhcp()
    }

    /// One `<ip>` of each family may serve addresses.
    fn one_dhcp(&self) -> Result<(), Error> {
        self.check_dhcp().map_err(|error| Error {
            kind: ErrorKind::OperationInvalid,
            ..error
        })
    }
}

/// What a change says of a DHCP host; it need not be a whole one to find one.
struct HostSearch {
    mac: Option<MacAddress>,
    id: Option<String>,
    name: Option<String>,
    address: Option<IpAddr>,
}

impl HostSearch {
    fn read(element: Element<'_>) -> Result<Self, Error> {
        let search = Self {
            mac: element.parsed(ErrorKind::Xml, "mac")?,
            id: element.attribute_string("id"),
            name: element.attribute_string("name"),
            address: address(element, ErrorKind::Xml, "ip")?,
        };
        let silent = search.mac.is_none() && search.id.is_none() && search.name.is_none();
        if silent && search.address.is_none() {
            return Err(element.error(
                ErrorKind::Xml,
                "<host> of <dhcp> needs the attribute 'mac', 'id', 'name' or 'ip'",
            ));
        }
        Ok(search)
    }

    fn compare(&self, host: &DhcpHost) -> [Option<bool>; 4] {
        let mac = host.mac.as_deref().and_then(|mac| mac.parse().ok());
        [
            self.mac.map(|own| Some(own) == mac),
            self.id.as_ref().map(|own| Some(own) == host.id.as_ref()),
            self.name
                .as_ref()
                .map(|own| Some(own) == host.name.as_ref()),
            self.address.map(|own| own == host.address),
        ]
    }

    /// Whether all that is said is so.
    fn fits(&self, host: &DhcpHost) -> bool {
        self.compare(host).into_iter().flatten().all(|same| same)
    }

    /// Whether any of what is said is so.
    fn meets(&self, host: &DhcpHost) -> bool {
        self.compare(host).into_iter().flatten().any(|same| same)
    }
}

impl std::fmt::Display for HostSearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut gap = "";
        let parts = [
            ("mac", self.mac.map(|mac| mac.to_string())),
            ("id", self.id.clone()),
            ("name", self.name.clone()),
            ("ip", self.address.map(|address| address.to_string())),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "{gap}{name}='{value}'")?;
                gap = " ";
            }
        }
        Ok(())
    }
}
