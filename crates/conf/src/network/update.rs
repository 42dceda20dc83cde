//! Changing one part of a network, as `virsh net-update` asks for it.
//!
//! The change is made to the typed definition itself. Nothing is printed and read again, so that
//! whatever a document can't say (which devices the PFs turned out to have, who is on them) stays
//! with whoever keeps it.

mod dhcp;
mod dns;

use super::{Network, NetworkStatus, PoolDevice, PortGroup};
use crate::xml::{Document, FromXml, Keyword, keywords};
use crate::{Error, ErrorKind, PoolMembers};

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
    /// The element that is added, deleted or put in another's place.
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
        // Its document says something else by now.
        changed.places = super::places::Places::default();
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
        let name = super::forward::device_name(document.plain_named("interface")?)?;
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
        let group = document.read_definition("portgroup", PortGroup::from_xml)?;
        let name = group.name.clone();
        let found = self.port_groups.iter().position(|g| g.name == name);
        let default = self.port_groups.iter().find(|other| other.is_default);
        if let Some(default) = default.filter(|other| group.is_default && other.name != name)
            && change.command != UpdateCommand::Delete
        {
            return Err(self.invalid(format_args!(
                "has the default portgroup '{}' already, and there can be one; '{name}' can't be it, \
                 too",
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
