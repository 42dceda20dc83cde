//! `<dhcp>` of an `<ip>`.

use std::net::IpAddr;

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
        let (start, end) = (need("start")?, need("end")?);
        if start.is_ipv4() != end.is_ipv4() || start > end {
            let expected = format!("an address not before {start}");
            return Err(element.invalid(ErrorKind::Internal, "end", expected));
        }
        Ok(Self {
            start,
            end,
            lease: element.parse_child("lease")?,
        })
    }
}

impl DhcpHost {
    pub(super) fn parse(element: Element<'_>, ip: &IpNetwork) -> Result<Self, Error> {
        let kind = ErrorKind::Xml;
        let ipv6 = ip.family == Some(IpFamily::Ipv6);
        let mac: Option<MacAddress> = element.parsed(kind, "mac")?;
        if ipv6 && mac.is_some() {
            let message = "'mac' on <host>: IPv6 hosts are known by 'id' or 'name'";
            return Err(element.attribute_error(kind, "mac", message));
        }
        if mac.is_some_and(MacAddress::is_multicast) {
            return Err(element.invalid(kind, "mac", "the address of one host, not of a group"));
        }
        let id = element.attribute_string("id");
        let plain = |id: &str| id.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if !id.as_deref().is_none_or(plain) {
            return Err(element.invalid(kind, "id", "hex digits and colons"));
        }
        let name = element.attribute_string("name");
        let named = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !name.as_deref().is_none_or(named) {
            return Err(element.invalid(
                kind,
                "name",
                "a name that starts with a letter or a digit",
            ));
        }
        let who = if ipv6 { id.is_some() } else { mac.is_some() };
        if !who && name.is_none() {
            let which = if ipv6 { "id" } else { "mac" };
            let message = format!("<host> of <dhcp> needs the attribute '{which}' or 'name'");
            return Err(element.error(kind, message));
        }
        let address = address(element, kind, "ip")?.ok_or_else(|| element.missing(kind, "ip"))?;
        Ok(Self {
            mac: element.attribute_string("mac"),
            id,
            name,
            address,
            lease: element.parse_child("lease")?,
        })
    }
}

impl Bootp {
    fn parse(element: Element<'_>) -> Result<Self, Error> {
        let file = element.require("file")?.to_owned();
        let server = address(element, ErrorKind::Xml, "server")?;
        Ok(Self { file, server })
    }
}

impl FromXml for Lease {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let text = element.require("expiry")?;
        let expected = "0, or a number of at least two minutes";
        let expiry = parse_unsigned(text, Base::Ten).and_then(|value| u32::try_from(value).ok());
        let Some(expiry) = expiry else {
            return Err(element.invalid(ErrorKind::Xml, "expiry", expected));
        };
        let unit = element.keyword("unit")?.unwrap_or_default();
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
