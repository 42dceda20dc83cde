//! `<dhcp>` of an `<ip>`.

use std::net::{IpAddr, Ipv4Addr};

use super::ip::{IpFamily, IpNetwork, address};
use super::read::all;
use crate::xml::{Base, Element, FromXml, ToXml, Writer, keywords, parse_unsigned};
use crate::{Error, ErrorKind, Faults, MacAddress};

/// `<dhcp>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// Addresses that are given to anybody.
    pub ranges: Vec<DhcpRange>,
    /// Addresses that are given to somebody.
    pub hosts: Vec<DhcpHost>,
    /// What a client boots.
    pub bootp: Option<Bootp>,
}

/// `<range>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpRange {
    /// The first address, within its network.
    pub start: IpAddr,
    /// The last address, within its network and not before the first.
    pub end: IpAddr,
    /// For how long.
    pub lease: Option<Lease>,
}

/// `<host>` of `<dhcp>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpHost {
    /// Who, on IPv4: a MAC, as the document writes it.
    pub mac: Option<String>,
    /// Who, on IPv6: hex digits and colons.
    pub id: Option<String>,
    /// The name it gets; starts with a letter or a digit.
    pub name: Option<String>,
    /// The address it gets.
    pub address: IpAddr,
    /// For how long.
    pub lease: Option<Lease>,
}

/// `<lease>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// `expiry='0'`.
    Infinite,
    /// At least two minutes.
    For {
        /// How many of the unit.
        expiry: u32,
        /// The unit that is counted.
        unit: LeaseUnit,
    },
}

/// `lease/@unit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum LeaseUnit {
    Seconds,
    #[default]
    Minutes,
    Hours,
}

/// `<bootp>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootp {
    /// The file to boot.
    pub file: String,
    /// Where it is; none: here.
    pub server: Option<IpAddr>,
}

keywords!(LeaseUnit {
    Seconds = "seconds",
    Minutes = "minutes",
    Hours = "hours",
});

impl Dhcp {
    pub(super) fn parse(element: Element<'_>, ip: &IpNetwork) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let dhcp = Self {
            ranges: all(
                element,
                "range",
                |range| DhcpRange::parse(range, ip),
                &mut faults,
            ),
            hosts: all(
                element,
                "host",
                |host| DhcpHost::parse(host, ip),
                &mut faults,
            ),
            bootp: faults.or_default(element.child("bootp").map(Bootp::parse).transpose()),
        };
        faults.finish()?;
        Ok(dhcp)
    }

    /// Whether a DHCP server would have anything to give.
    #[must_use]
    pub fn serves(&self) -> bool {
        !self.ranges.is_empty() || !self.hosts.is_empty()
    }
}

impl ToXml for Dhcp {
    /// Nothing, where it says nothing.
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_unless_empty("dhcp", |w| {
            for range in &self.ranges {
                w.element("range", |w| {
                    w.attribute("start", range.start);
                    w.attribute("end", range.end);
                    w.write_optional(range.lease.as_ref());
                });
            }
            for host in &self.hosts {
                w.element("host", |w| {
                    w.optional_attribute("mac", host.mac.as_deref());
                    w.optional_attribute("id", host.id.as_deref());
                    w.optional_attribute("name", host.name.as_deref());
                    w.attribute("ip", host.address);
                    w.write_optional(host.lease.as_ref());
                });
            }
            if let Some(bootp) = &self.bootp {
                w.element("bootp", |w| {
                    w.attribute("file", &bootp.file);
                    w.optional_attribute("server", bootp.server);
                });
            }
        });
    }
}

impl DhcpRange {
    pub(super) fn parse(element: Element<'_>, ip: &IpNetwork) -> Result<Self, Error> {
        let need = |name| {
            let value = address(element, ErrorKind::Xml, name)?
                .ok_or_else(|| element.missing(ErrorKind::Xml, name))?;
            if ip.address.is_some() && !ip.contains(value) {
                let expected = "an address of the network of its <ip>";
                return Err(element.invalid(ErrorKind::Internal, name, expected));
            }
            Ok(value)
        };
        let mut faults = Faults::default();
        let ends = (faults.optional(need("start")), faults.optional(need("end")));
        let lease = faults.or_default(element.parse_child("lease"));
        if let (Some(start), Some(end)) = ends
            && (start.is_ipv4() != end.is_ipv4() || start > end)
        {
            let expected = format!("an address not before {start}");
            faults.push(element.invalid(ErrorKind::Internal, "end", expected));
        }
        faults.finish()?;
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Ok(Self {
            start: ends.0.unwrap_or(unspecified),
            end: ends.1.unwrap_or(unspecified),
            lease,
        })
    }
}

impl DhcpHost {
    pub(super) fn parse(element: Element<'_>, ip: &IpNetwork) -> Result<Self, Error> {
        let kind = ErrorKind::Xml;
        let ipv6 = ip.family == Some(IpFamily::Ipv6);
        let mut faults = Faults::default();
        let mac = faults.or_default(element.parsed::<MacAddress>(kind, "mac"));
        if ipv6 && mac.is_some() {
            let message = "'mac' on <host>: IPv6 hosts are known by 'id' or 'name'";
            faults.push(element.attribute_error(kind, "mac", message));
        } else if mac.is_some_and(MacAddress::is_multicast) {
            faults.push(element.invalid(kind, "mac", "the address of one host, not of a group"));
        }
        let id = element.attribute_string("id");
        let plain = |id: &str| id.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if !id.as_deref().is_none_or(plain) {
            faults.push(element.invalid(kind, "id", "hex digits and colons"));
        }
        let name = element.attribute_string("name");
        let named = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !name.as_deref().is_none_or(named) {
            let expected = "a name that starts with a letter or a digit";
            faults.push(element.invalid(kind, "name", expected));
        }
        let which = if ipv6 { "id" } else { "mac" };
        if element.attribute(which).is_none() && name.is_none() {
            let message = format!("<host> of <dhcp> needs the attribute '{which}' or 'name'");
            faults.push(element.error(kind, message));
        }
        let address = address(element, kind, "ip");
        let address = address.and_then(|found| found.ok_or_else(|| element.missing(kind, "ip")));
        let address = faults.optional(address);
        let lease = faults.or_default(element.parse_child("lease"));
        faults.finish()?;
        Ok(Self {
            mac: element.attribute_string("mac"),
            id,
            name,
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            lease,
        })
    }
}

impl Bootp {
    fn parse(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let bootp = Self {
            file: faults.or_default(element.require("file")).to_owned(),
            server: faults.or_default(address(element, ErrorKind::Xml, "server")),
        };
        faults.finish()?;
        Ok(bootp)
    }
}

impl FromXml for Lease {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let text = element.require("expiry")?;
        let expected = "0, or a number of at least two minutes";
        let expiry = parse_unsigned(text, Base::Ten).and_then(|value| u32::try_from(value).ok());
        let mut faults = Faults::default();
        let expiry = expiry.ok_or_else(|| element.invalid(ErrorKind::Xml, "expiry", expected));
        let expiry = faults.or_default(expiry);
        let unit = faults
            .or_default(element.keyword("unit"))
            .unwrap_or_default();
        faults.finish()?;
        let enough = match unit {
            LeaseUnit::Seconds => expiry >= 120,
            LeaseUnit::Minutes => expiry >= 2,
            LeaseUnit::Hours => true,
        };
        match expiry {
            0 => Ok(Self::Infinite),
            _ if enough => Ok(Self::For { expiry, unit }),
            _ => Err(element.invalid(ErrorKind::ConfigUnsupported, "expiry", expected)),
        }
    }
}

impl ToXml for Lease {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("lease", |w| match self {
            Self::Infinite => w.attribute("expiry", 0),
            Self::For { expiry, unit } => {
                w.attribute("expiry", expiry);
                w.keyword("unit", *unit);
            }
        });
    }
}
