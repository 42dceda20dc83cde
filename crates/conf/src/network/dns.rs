//! `<domain>` and `<dns>` of a network with a bridge of its own.

use std::net::IpAddr;

use super::read::all;
use crate::xml::{Element, FromXml, ToXml, Writer};
use crate::{Error, ErrorKind, Faults};

/// `<domain>`: the DNS domain of the DHCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsDomain {
    /// As in `host.name`; never empty.
    pub name: String,
    /// Queries for it are never forwarded.
    pub local_only: Option<bool>,
    /// It is registered with the host's resolver; needs `local_only`.
    pub register: Option<bool>,
}

/// `<dns>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Whether there is a DNS server at all.
    pub enable: Option<bool>,
    /// Whether names without a domain are forwarded.
    pub forward_plain_names: Option<bool>,
    /// Where queries go.
    pub forwarders: Vec<DnsForwarder>,
    /// TXT records, in order.
    pub texts: Vec<DnsText>,
    /// SRV records, in order.
    pub services: Vec<DnsService>,
    /// Names of addresses.
    pub hosts: Vec<DnsHost>,
}

/// `<forwarder>`: a domain, a server, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsForwarder {
    /// Only for this domain.
    pub domain: Option<String>,
    /// The server; none: the host's own resolver.
    pub address: Option<IpAddr>,
}

/// `<txt>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsText {
    /// The record's name, without blanks.
    pub name: String,
    /// The record's text.
    pub value: String,
}

/// `<srv>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsService {
    /// As in `_service._protocol.domain`.
    pub service: String,
    /// As in `_service._protocol.domain`.
    pub protocol: String,
    /// As in `_service._protocol.domain`.
    pub domain: Option<String>,
    /// The host that serves; port, priority and weight need one.
    pub target: Option<String>,
    /// 1–65535.
    pub port: Option<u16>,
    /// Lower is preferred; none: 0.
    pub priority: Option<u16>,
    /// Share among equal priorities; none: 0.
    pub weight: Option<u16>,
}

/// `<host>` of `<dns>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    /// The address that the names stand for.
    pub address: IpAddr,
    /// At least one name.
    pub names: Vec<String>,
}

/// libvirt's own bound: a name in DNS, less what surrounds it in a SRV record.
const MAX_SERVICE: usize = 512 - 30 - 6;

impl FromXml for DnsDomain {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let domain = Self {
            name: element.attribute_string("name").unwrap_or_default(),
            local_only: faults.or_default(element.yes_no("localOnly")),
            register: faults.or_default(element.yes_no("register")),
        };
        faults.finish()?;
        if domain.register == Some(true) && domain.local_only != Some(true) {
            return Err(element.attribute_error(
                ErrorKind::ConfigUnsupported,
                "register",
                "register='yes' on <domain> needs localOnly='yes'",
            ));
        }
        Ok(domain)
    }
}

impl ToXml for DnsDomain {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("domain", |w| {
            w.attribute("name", &self.name);
            w.optional_yes_no("localOnly", self.local_only);
            w.optional_yes_no("register", self.register);
        });
    }
}

impl FromXml for Dns {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let dns = Self {
            enable: faults.or_default(element.yes_no("enable")),
            forward_plain_names: faults.or_default(element.yes_no("forwardPlainNames")),
            forwarders: all(element, "forwarder", FromXml::from_xml, &mut faults),
            texts: all(element, "txt", FromXml::from_xml, &mut faults),
            services: all(element, "srv", FromXml::from_xml, &mut faults),
            hosts: all(element, "host", FromXml::from_xml, &mut faults),
        };
        faults.finish()?;
        if !dns.is_consistent() {
            return Err(element.error(
                ErrorKind::Xml,
                "<dns enable='no'> can have nothing else in it",
            ));
        }
        Ok(dns)
    }
}

impl ToXml for Dns {
    /// Nothing, where it says nothing.
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_unless_empty("dns", |w| {
            w.optional_yes_no("enable", self.enable);
            w.optional_yes_no("forwardPlainNames", self.forward_plain_names);
            for forwarder in &self.forwarders {
                w.element("forwarder", |w| {
                    w.optional_attribute("domain", forwarder.domain.as_deref());
                    w.optional_attribute("addr", forwarder.address);
                });
            }
            for text in &self.texts {
                w.element("txt", |w| {
                    w.attribute("name", &text.name);
                    w.attribute("value", &text.value);
                });
            }
            for service in &self.services {
                w.element("srv", |w| {
                    w.attribute("service", &service.service);
                    w.attribute("protocol", &service.protocol);
                    w.optional_attribute("domain", service.domain.as_deref());
                    w.optional_attribute("target", service.target.as_deref());
                    w.optional_attribute("port", service.port);
                    w.optional_attribute("priority", service.priority);
                    w.optional_attribute("weight", service.weight);
                });
            }
            for host in &self.hosts {
                w.element("host", |w| {
                    w.attribute("ip", host.address);
                    for name in &host.names {
                        w.text_element("hostname", name);
                    }
                });
            }
        });
    }
}

impl Dns {
    /// A server that is switched off has nothing to say.
    pub(super) fn is_consistent(&self) -> bool {
        self.enable != Some(false) || !self.has_records()
    }

    fn has_records(&self) -> bool {
        Self {
            enable: None,
            forward_plain_names: None,
            ..self.clone()
        } != Self::default()
    }
}

impl FromXml for DnsForwarder {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let forwarder = Self {
            domain: element.attribute_string("domain"),
            address: super::ip::address(element, ErrorKind::Xml, "addr")?,
        };
        if forwarder.domain.is_none() && forwarder.address.is_none() {
            return Err(element.error(
                ErrorKind::Xml,
                "<forwarder> needs the attribute 'addr' or 'domain'",
            ));
        }
        Ok(forwarder)
    }
}

impl FromXml for DnsText {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let name = required(element, "name")?;
        if name.contains(' ') {
            return Err(element.invalid(ErrorKind::XmlDetail, "name", "a name without blanks"));
        }
        let value = required(element, "value")?;
        Ok(Self { name, value })
    }
}

impl FromXml for DnsService {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let short = |name| {
            let text = required(element, name)?;
            if text.len() > MAX_SERVICE {
                let expected = format!("at most {MAX_SERVICE} bytes");
                return Err(element.invalid(ErrorKind::XmlDetail, name, expected));
            }
            Ok(text)
        };
        let target = element.attribute_string("target");
        let number = |name, min| {
            let Some(text) = element.attribute(name) else {
                return Ok(None);
            };
            if target.is_none() {
                return Err(element.attribute_error(
                    ErrorKind::XmlDetail,
                    name,
                    format!("'{name}' on <srv> needs a 'target'"),
                ));
            }
            match text.parse::<u16>() {
                Ok(value) if value >= min => Ok(Some(value)),
                _ => {
                    let expected = format!("a number from {min} to 65535");
                    Err(element.invalid(ErrorKind::XmlDetail, name, expected))
                }
            }
        };
        let mut faults = Faults::default();
        let port = faults.or_default(number("port", 1));
        // libvirt can't tell 0 from absent.
        let mut positive = |name| {
            faults
                .or_default(number(name, 0))
                .filter(|&value| value > 0)
        };
        let (priority, weight) = (positive("priority"), positive("weight"));
        let service = Self {
            service: faults.or_default(short("service")),
            protocol: faults.or_default(short("protocol")),
            domain: element.attribute_string("domain"),
            port,
            priority,
            weight,
            target: target.clone(),
        };
        faults.finish()?;
        Ok(service)
    }
}

impl FromXml for DnsHost {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let (address, names) = Self::search(element)?;
        let address = address.ok_or_else(|| element.missing(ErrorKind::XmlDetail, "ip"))?;
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(element.error(
                ErrorKind::XmlDetail,
                "<host> of <dns> needs a <hostname> with a name",
            ));
        }
        Ok(Self { address, names })
    }
}

impl DnsHost {
    /// What an element says of a host; part of it is enough to find one.
    pub(super) fn search(element: Element<'_>) -> Result<(Option<IpAddr>, Vec<String>), Error> {
        let address = super::ip::address(element, ErrorKind::XmlDetail, "ip")?;
        let names = element.children_named("hostname");
        Ok((address, names.map(|name| name.text()).collect()))
    }
}

fn required(element: Element<'_>, name: &str) -> Result<String, Error> {
    element
        .attribute_string(name)
        .ok_or_else(|| element.missing(ErrorKind::XmlDetail, name))
}
