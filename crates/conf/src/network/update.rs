//! Changing one part of a network, as `virsh net-update` asks for it.
//!
//! The change is made to the typed definition itself. Nothing is printed and read again, so that
//! whatever a document can't say (which devices the PFs turned out to have, who is on them) stays
//! with whoever keeps it.

use std::net::IpAddr;

use super::dhcp::{DhcpHost, DhcpRange};
use super::dns::{DnsHost, DnsService, DnsText};
use super::{Network, NetworkStatus, PoolDevice, PortGroup};
use crate::xml::{Document, Element, FromXml, Keyword, keywords};
use crate::{Error, ErrorKind, MacAddress, PoolMembers};

/// One change to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkUpdate<'x> {
    /// What is done.
    pub command: UpdateCommand,
    /// To which kind of element.
    pub section: UpdateSection,
    /// Which `<ip>`, from 0, a part of its `<dhcp>` belongs to; none: the one that has a `<dhcp>`,
    /// or else the first.
    pub parent: Option<usize>,
    /// The element.
    pub xml: &'x str,
}

/// What is done with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateCommand {
    /// The one it matches becomes it.
    Modify,
    /// The one it matches goes.
    Delete,
    /// It is added behind the others.
    AddLast,
    /// It is added before the others.
    AddFirst,
}

/// A part of a network that can be named in a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are virsh's own")]
pub enum UpdateSection {
    Bridge,
    Domain,
    Ip,
    IpDhcpHost,
    IpDhcpRange,
    Forward,
    ForwardInterface,
    ForwardPf,
    PortGroup,
    DnsHost,
    DnsText,
    DnsService,
}

keywords!(UpdateSection {
    Bridge = "bridge",
    Domain = "domain",
    Ip = "ip",
    IpDhcpHost = "ip-dhcp-host",
    IpDhcpRange = "ip-dhcp-range",
    Forward = "forward",
    ForwardInterface = "forward-interface",
    ForwardPf = "forward-pf",
    PortGroup = "portgroup",
    DnsHost = "dns-host",
    DnsText = "dns-txt",
    DnsService = "dns-srv",
});

impl UpdateCommand {
    /// The command that libvirt's protocol means by this number (`virNetworkUpdateCommand`).
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Modify,
            2 => Self::Delete,
            3 => Self::AddLast,
            4 => Self::AddFirst,
            _ => return None,
        })
    }
}

impl UpdateSection {
    /// The section that libvirt's protocol means by this number (`virNetworkUpdateSection`).
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::Bridge,
            Self::Domain,
            Self::Ip,
            Self::IpDhcpHost,
            Self::IpDhcpRange,
            Self::Forward,
            Self::ForwardInterface,
            Self::ForwardPf,
            Self::PortGroup,
            Self::DnsHost,
            Self::DnsText,
            Self::DnsService,
        ];
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        all.get(index).copied()
    }
}

impl Network {
    /// The network after a change. `running` says who uses its devices, if it runs: one that has
    /// guests is not taken away.
    ///
    /// # Errors
    /// [`ErrorKind::OperationInvalid`] for what is there already, is not there, or is in use;
    /// [`ErrorKind::OperationUnsupported`] for a section that can't be changed, or not in this
    /// way; and whatever is wrong with the element itself, or with the network that would result.
    pub fn update(
        &self,
        change: &NetworkUpdate<'_>,
        running: Option<&NetworkStatus>,
    ) -> Result<Self, Error> {
        let mut changed = self.clone();
        match change.section {
            UpdateSection::ForwardInterface => changed.update_interface(change, running),
            UpdateSection::PortGroup => changed.update_port_group(change),
            UpdateSection::IpDhcpHost => changed.update_dhcp_host(change),
            UpdateSection::IpDhcpRange => changed.update_dhcp_range(change),
            UpdateSection::DnsHost => changed.update_dns_host(change),
            UpdateSection::DnsText => changed.update_dns_text(change),
            UpdateSection::DnsService => changed.update_dns_service(change),
            UpdateSection::Bridge
            | UpdateSection::Domain
            | UpdateSection::Ip
            | UpdateSection::Forward
            | UpdateSection::ForwardPf => Err(Error::new(
                ErrorKind::OperationUnsupported,
                format!(
                    "network '{}': its section '{}' can't be changed by itself; define the \
                     network anew",
                    self.name,
                    change.section.word()
                ),
            )),
        }?;
        if let Some(fault) = changed.members_fault() {
            let message = format!("network '{}': {fault}", self.name);
            return Err(Error::new(ErrorKind::Xml, message));
        }
        changed.validate()?;
        Ok(changed)
    }

    fn invalid(&self, message: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::OperationInvalid,
            format!("network '{}' {message}", self.name),
        )
    }

    /// Only whole entries can be added and deleted where nothing tells them apart but what they say.
    fn not_modified(&self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        if change.command != UpdateCommand::Modify {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OperationUnsupported,
            format!(
                "network '{}': a {} can't be modified; delete it and add the other",
                self.name,
                change.section.word()
            ),
        ))
    }

    fn update_interface(
        &mut self,
        change: &NetworkUpdate<'_>,
        running: Option<&NetworkStatus>,
    ) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let name = super::forward::device_name(document.root_named("interface")?)?;
        let Some(forward) = &self.forward else {
            return Err(self.invalid("has no <forward>, so no <interface> either"));
        };
        let mut names = match &forward.members {
            PoolMembers::None => Vec::new(),
            PoolMembers::Interfaces(names) => names.clone(),
            PoolMembers::PhysicalFunctions(_) => {
                return Err(self.invalid("lends the VFs of its <pf>, not an <interface> of a list"));
            }
            PoolMembers::Addresses(_) => {
                return Err(self.invalid("lends devices by <address>, not by <interface>"));
            }
        };
        let found = names.iter().position(|other| other == name);
        match (change.command, found) {
            (UpdateCommand::Delete, None) => {
                return Err(self.invalid(format_args!("has no <interface dev='{name}'>")));
            }
            (UpdateCommand::Delete, Some(index)) => {
                let guests = running.map_or(0, |status| status.connections_of(name));
                if guests > 0 {
                    return Err(self.invalid(format_args!(
                        "can't give up '{name}': {guests} of its guests' interfaces are on it; \
                         unplug them first"
                    )));
                }
                names.remove(index);
            }
            (_, Some(_)) => {
                return Err(self.invalid(format_args!("has the <interface dev='{name}'> already")));
            }
            (UpdateCommand::AddFirst, None) => names.insert(0, name.to_owned()),
            (_, None) => names.push(name.to_owned()),
        }
        if let Some(forward) = &mut self.forward {
            forward.members = match names.is_empty() {
                true => PoolMembers::None,
                false => PoolMembers::Interfaces(names),
            };
        }
        Ok(())
    }

    fn update_port_group(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        let document = Document::parse(change.xml)?;
        let group = PortGroup::from_xml(document.root_named("portgroup")?)?;
        let name = group.name.clone();
        let found = self.port_groups.iter().position(|g| g.name == name);
        let default = self.port_groups.iter().find(|other| other.is_default);
        if let Some(default) = default.filter(|other| group.is_default && other.name != name)
            && change.command != UpdateCommand::Delete
        {
            return Err(self.invalid(format_args!(
                "has the default portgroup '{}' already; of '{name}' and it one can be",
                default.name
            )));
        }
        match (change.command, found) {
            (UpdateCommand::Modify | UpdateCommand::Delete, None) => {
                return Err(self.invalid(format_args!("has no portgroup '{name}'")));
            }
            (UpdateCommand::Modify, Some(index)) => self.port_groups[index] = group,
            (UpdateCommand::Delete, Some(index)) => drop(self.port_groups.remove(index)),
            (_, Some(_)) => {
                return Err(self.invalid(format_args!("has a portgroup '{name}' already")));
            }
            (UpdateCommand::AddFirst, None) => self.port_groups.insert(0, group),
            (UpdateCommand::AddLast, None) => self.port_groups.push(group),
        }
        Ok(())
    }

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

    fn update_dhcp_host(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        let parent = self.parent_of(change)?;
        let ip = &self.ip.addresses[parent];
        let document = Document::parse(change.xml)?;
        let element = document.root_named("host")?;
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

    fn update_dhcp_range(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let parent = self.parent_of(change)?;
        let ip = &self.ip.addresses[parent];
        let document = Document::parse(change.xml)?;
        let range = DhcpRange::parse(document.root_named("range")?, ip)?;
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

    fn update_dns_host(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.root_named("host")?;
        let (address, names) = DnsHost::search(element)?;
        if address.is_none() && names.is_empty() {
            return Err(element.error(
                ErrorKind::XmlDetail,
                "<host> of <dns> needs the attribute 'ip' or a <hostname>",
            ));
        }
        let meets = |host: &DnsHost| {
            address == Some(host.address) || host.names.iter().any(|name| names.contains(name))
        };
        let entries = &self.ip.dns.hosts;
        let entries = match change.command {
            UpdateCommand::Delete => without(entries, self.one_of(entries, meets, "<host>")?),
            _ => {
                self.none_of(entries, meets, "<host>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsHost::from_xml(element)?, first)
            }
        };
        self.ip.dns.hosts = entries;
        self.dns_enabled()
    }

    fn update_dns_text(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.root_named("txt")?;
        let (name, value) = (element.attribute("name"), element.attribute("value"));
        let Some(name) = name else {
            return Err(element.missing(ErrorKind::XmlDetail, "name"));
        };
        let entries = &self.ip.dns.texts;
        let entries = match change.command {
            UpdateCommand::Delete => {
                let fits = |text: &DnsText| {
                    text.name == name && value.is_none_or(|value| text.value == value)
                };
                without(entries, self.one_of(entries, fits, "<txt>")?)
            }
            _ => {
                self.none_of(entries, |text| text.name == name, "<txt>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsText::from_xml(element)?, first)
            }
        };
        self.ip.dns.texts = entries;
        self.dns_enabled()
    }

    fn update_dns_service(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.root_named("srv")?;
        let said = |name: &str, own: Option<&str>| {
            let wanted = element.attribute(name);
            wanted.is_none() || wanted == own
        };
        let fits = |service: &DnsService| {
            said("service", Some(&service.service))
                && said("protocol", Some(&service.protocol))
                && said("domain", service.domain.as_deref())
                && said("target", service.target.as_deref())
        };
        let entries = &self.ip.dns.services;
        let entries = match change.command {
            UpdateCommand::Delete => without(entries, self.one_of(entries, fits, "<srv>")?),
            _ => {
                self.none_of(entries, fits, "<srv>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsService::from_xml(element)?, first)
            }
        };
        self.ip.dns.services = entries;
        self.dns_enabled()
    }

    /// The one entry that fits.
    fn one_of<T>(
        &self,
        entries: &[T],
        fits: impl Fn(&T) -> bool,
        what: &str,
    ) -> Result<usize, Error> {
        let mut fitting = (0..entries.len()).filter(|&index| fits(&entries[index]));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(self.invalid(format_args!("has no such {what} in its <dns>"))),
            (Some(_), Some(_)) => Err(self.invalid(format_args!(
                "has more than one such {what} in its <dns>; say more of the one that is meant"
            ))),
            (Some(index), None) => Ok(index),
        }
    }

    fn none_of<T>(
        &self,
        entries: &[T],
        meets: impl Fn(&T) -> bool,
        what: &str,
    ) -> Result<(), Error> {
        match entries.iter().any(meets) {
            false => Ok(()),
            true => Err(self.invalid(format_args!(
                "has a {what} in its <dns> already that says some of this"
            ))),
        }
    }

    /// A server that is switched off has no records.
    fn dns_enabled(&self) -> Result<(), Error> {
        match self.ip.dns.is_consistent() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Xml,
                format!("network '{}' has <dns enable='no'>", self.name),
            )),
        }
    }
}

impl NetworkStatus {
    /// Guests' interfaces on that network device.
    fn connections_of(&self, name: &str) -> u32 {
        let on = |device: &&super::DeviceStatus| match &device.device {
            PoolDevice::Interface(own) => own == name,
            PoolDevice::Address(_) => false,
        };
        self.devices
            .iter()
            .filter(on)
            .map(|device| device.connections)
            .sum()
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
            address: super::ip::address(element, ErrorKind::Xml, "ip")?,
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

fn without<T: Clone>(entries: &[T], index: usize) -> Vec<T> {
    let mut entries = entries.to_vec();
    entries.remove(index);
    entries
}

fn added<T: Clone>(entries: &[T], entry: T, first: bool) -> Vec<T> {
    let mut entries = entries.to_vec();
    entries.insert(if first { 0 } else { entries.len() }, entry);
    entries
}
