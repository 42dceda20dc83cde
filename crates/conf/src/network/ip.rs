//! `<ip>` and `<route>`.

use std::net::{IpAddr, Ipv4Addr};

use super::dhcp::Dhcp;
use crate::xml::{Element, FromXml, ToXml, Writer, keywords};
use crate::{Error, ErrorKind, Faults};

/// `<ip>`: an address of the bridge, and what is served there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpNetwork {
    /// As the document said it; an address without a family is an IPv4 one.
    pub family: Option<IpFamily>,
    /// The bridge's address.
    pub address: Option<IpAddr>,
    /// How much of it is the network.
    pub mask: Option<IpMask>,
    /// `localPtr`: reverse queries are answered here only.
    pub local_ptr: Option<bool>,
    /// `<tftp root=…>`.
    pub tftp_root: Option<String>,
    /// `<dhcp>`.
    pub dhcp: Dhcp,
}

/// `<route>`: a static route by way of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpRoute {
    /// As the document said it.
    pub family: Option<IpFamily>,
    /// The network that is reached.
    pub address: IpAddr,
    /// How much of it is the network.
    pub mask: Option<IpMask>,
    /// Through whom; of the same family.
    pub gateway: IpAddr,
    /// At least 1.
    pub metric: Option<u32>,
}

/// `@family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum IpFamily {
    Ipv4,
    Ipv6,
}

/// `@netmask` or `@prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpMask {
    /// IPv4 only; its ones come first.
    Netmask(Ipv4Addr),
    /// Bits, at most 32 or 128.
    Prefix(u8),
}

keywords!(IpFamily {
    Ipv4 = "ipv4",
    Ipv6 = "ipv6",
});

impl IpMask {
    /// The length of the network's part in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        match self {
            // At most 32.
            #[expect(clippy::cast_possible_truncation, reason = "a count of 32 bits")]
            Self::Netmask(mask) => mask.to_bits().count_ones() as u8,
            Self::Prefix(prefix) => prefix,
        }
    }

    fn write(self, writer: &mut Writer) {
        match self {
            Self::Netmask(mask) => writer.attribute("netmask", mask),
            Self::Prefix(prefix) => writer.attribute("prefix", prefix),
        }
    }
}

impl IpNetwork {
    /// The length of the network's part in bits: as given, else that of the address's class (IPv4)
    /// or 64 (IPv6).
    #[must_use]
    pub fn prefix(&self) -> Option<u8> {
        if let Some(mask) = self.mask {
            return Some(mask.prefix());
        }
        Some(match self.address? {
            IpAddr::V4(address) => match address.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                192..=223 => 24,
                _ => return None,
            },
            IpAddr::V6(_) => 64,
        })
    }

    /// The network that the address is in, and the length of its part in bits.
    pub(super) fn network(&self) -> Option<(IpAddr, u8)> {
        let prefix = self.prefix()?;
        Some((network_part(self.address?, prefix), prefix))
    }

    /// Whether an address is in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network()
            .is_some_and(|(network, prefix)| network_part(address, prefix) == network)
    }
}

/// An address with the bits behind the prefix cleared.
pub(super) fn network_part(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// An attribute that is an IP address; an empty one is none, as in libvirt.
pub(super) fn address(
    element: Element<'_>,
    kind: ErrorKind,
    name: &str,
) -> Result<Option<IpAddr>, Error> {
    match element.attribute(name) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(element.invalid(kind, name, "an IP address")),
        },
    }
}

/// Reads `netmask` and `prefix`, of which one at most may be given, beside an address; one that could
/// not be read is of either family.
fn mask(
    element: Element<'_>,
    kind: ErrorKind,
    address: Option<IpAddr>,
) -> Result<Option<IpMask>, Error> {
    let mut faults = Faults::default();
    let prefix = prefix(element, kind, address);
    let has_prefix = prefix.as_ref().is_ok_and(|prefix| *prefix > Some(0));
    let prefix = faults.or_default(prefix);
    let netmask = element.attribute("netmask").filter(|text| !text.is_empty());
    let Some(text) = netmask else {
        faults.finish()?;
        return Ok(prefix.map(IpMask::Prefix));
    };
    let mask = text.parse::<Ipv4Addr>();
    // Ones, then zeroes.
    let is_mask = |mask: &Ipv4Addr| mask.to_bits().leading_ones() == mask.to_bits().count_ones();
    faults.or_default(match &mask {
        Err(_) => Err(element.invalid(ErrorKind::Xml, "netmask", "an IPv4 netmask")),
        Ok(_) if address.is_some_and(|address| address.is_ipv6()) => {
            let message = format!("netmask on <{}> needs an IPv4 address", element.name());
            Err(element.attribute_error(kind, "netmask", message))
        }
        Ok(_) if has_prefix => {
            let message = format!("<{}> has both a netmask and a prefix", element.name());
            Err(element.error(kind, message))
        }
        Ok(mask) if !is_mask(mask) => Err(element.invalid(kind, "netmask", "an IPv4 netmask")),
        Ok(_) => Ok(()),
    });
    faults.finish()?;
    Ok(mask.ok().map(IpMask::Netmask))
}

fn prefix(
    element: Element<'_>,
    kind: ErrorKind,
    address: Option<IpAddr>,
) -> Result<Option<u8>, Error> {
    let most = match address {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) | None => 128,
    };
    let prefix: Option<u32> = element.number("prefix")?;
    if prefix.is_some_and(|prefix| prefix > most) {
        let expected = format!("a number from 0 to {most}");
        return Err(element.invalid(kind, "prefix", expected));
    }
    Ok(prefix.and_then(|prefix| u8::try_from(prefix).ok()))
}

/// Checks that an address is of its element's family.
fn check_family(
    element: Element<'_>,
    kind: ErrorKind,
    name: &str,
    family: Option<IpFamily>,
    address: IpAddr,
) -> Result<(), Error> {
    let expected = match family {
        None => "an IPv4 address, or family='ipv6'",
        Some(IpFamily::Ipv4) => "an IPv4 address",
        Some(IpFamily::Ipv6) => "an IPv6 address",
    };
    if address.is_ipv6() == (family == Some(IpFamily::Ipv6)) {
        return Ok(());
    }
    Err(element.invalid(kind, name, expected))
}

impl FromXml for IpNetwork {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let kind = ErrorKind::ConfigUnsupported;
        let mut faults = Faults::default();
        let family = faults.optional(element.keyword("family"));
        let address = address(element, ErrorKind::Xml, "address")
            .and_then(|found| found.ok_or_else(|| element.missing(ErrorKind::Xml, "address")));
        let address = faults.optional(address);
        // Whatever was not read is not judged.
        if let (Some(family), Some(address)) = (family, address) {
            faults.or_default(check_family(element, kind, "address", family, address));
        }
        let mask = faults.or_default(mask(element, kind, address));
        let local_ptr = faults.or_default(element.yes_no("localPtr"));
        let is_known = faults.is_empty();
        let mut ip = Self {
            family: family.flatten(),
            // What an address is to be in is not asked where that was not read.
            address: address.filter(|_| is_known),
            // libvirt can't tell a prefix of 0 from none.
            mask: mask.filter(|mask| *mask != IpMask::Prefix(0)),
            local_ptr,
            tftp_root: element
                .child("tftp")
                .and_then(|tftp| tftp.attribute_string("root"))
                .filter(|root| !root.is_empty()),
            dhcp: Dhcp::default(),
        };
        if let Some(dhcp) = element.child("dhcp") {
            ip.dhcp = faults.or_default(Dhcp::parse(dhcp, &ip));
        }
        if let (Some(tftp), Some(IpAddr::V6(_))) = (element.child("tftp"), address) {
            faults.push(tftp.error(kind, "<tftp> is for IPv4 only"));
        }
        faults.finish()?;
        Ok(ip)
    }
}

impl ToXml for IpNetwork {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_with_end("ip", |w| {
            w.optional_keyword("family", self.family);
            w.optional_attribute("address", self.address);
            if let Some(mask) = self.mask {
                mask.write(w);
            }
            w.optional_yes_no("localPtr", self.local_ptr);
            if let Some(root) = &self.tftp_root {
                w.element("tftp", |w| w.attribute("root", root));
            }
            w.write(&self.dhcp);
        });
    }
}

impl FromXml for IpRoute {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let kind = ErrorKind::Xml;
        let mut faults = Faults::default();
        let family = faults.optional(element.keyword("family"));
        let metric = faults.or_default(element.number("metric"));
        if metric == Some(0) {
            faults.push(element.invalid(kind, "metric", "a number from 1 to 4294967295"));
        }
        let mut need = |name| {
            let value = address(element, kind, name)
                .and_then(|value| value.ok_or_else(|| element.missing(kind, name)))
                .and_then(|value| match family {
                    Some(family) => {
                        check_family(element, kind, name, family, value).map(|()| value)
                    }
                    None => Ok(value),
                });
            faults.optional(value)
        };
        let (address, gateway) = (need("address"), need("gateway"));
        let family = family.flatten();
        let mask = faults.or_default(mask(element, kind, address));
        faults.finish()?;
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (address, gateway) = (
            address.unwrap_or(unspecified),
            gateway.unwrap_or(unspecified),
        );
        let route = Self {
            family,
            address,
            mask,
            gateway,
            metric,
        };
        if network_part(address, route.prefix()) != address {
            let expected = format!("a network of {} bits, with no host part", route.prefix());
            return Err(element.invalid(kind, "address", expected));
        }
        Ok(route)
    }
}

impl IpRoute {
    /// The length of the network's part in bits; a route without a mask is a default route.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.mask.map_or(0, IpMask::prefix)
    }
}

impl ToXml for IpRoute {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("route", |w| {
            w.optional_keyword("family", self.family);
            w.attribute("address", self.address);
            if let Some(mask) = self.mask {
                mask.write(w);
            }
            w.attribute("gateway", self.gateway);
            w.optional_attribute("metric", self.metric);
        });
    }
}
