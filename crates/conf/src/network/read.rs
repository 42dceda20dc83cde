//! Reading `<network>`.

use uuid::Uuid;

use super::dns::DnsDomain;
use super::places::Places;
use super::{
    IpNetwork, IpRoute, IpSettings, Network, NetworkBridge, NetworkExtension, PortGroup, VfSettings,
};
use crate::virtualport::VirtualPortRules;
use crate::xml::{Document, Element, FromXml};
use crate::{
    Bandwidth, Error, ErrorKind, Faults, ForwardMode, MacAddress, PoolMembers, VirtualPort,
    object_name,
};

/// What libvirt's dnsmasq options live in.
pub(crate) const DNSMASQ_NAMESPACE: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

impl Network {
    /// Reads a `<network>` document. A uuid is made up where it has none.
    ///
    /// What needs more than the document's own words is checked by [`Network::validate`].
    ///
    /// # Errors
    /// What is wrong, in libvirt's class, with line, column and path; all of it, where reading can go on.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_definition("network", Self::from_xml)
    }
}

impl FromXml for Network {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        // In libvirt's order, so that of several faults the same one is told first.
        let mut faults = Faults::default();
        let name = faults.or_default(name(element));
        let uuid = faults.or_default(element.child_uuid("uuid"));
        let title = faults.or_default(title(element));
        let mut ip = faults.or_default(IpSettings::of(element));
        let bandwidth = faults.or_default(bandwidth(element));
        let vlan = faults.or_default(element.parse_child("vlan"));
        let isolated_ports = element
            .child("port")
            .and_then(|port| faults.or_default(port.yes_no("isolated")));
        let dns = faults.or_default(element.parse_child("dns"));
        ip.dns = dns.unwrap_or_default();
        let virtual_port = faults.or_default(virtual_port(element, VirtualPortRules::Typed));
        let port_groups = all(element, "portgroup", PortGroup::from_xml, &mut faults);
        ip.addresses = all(element, "ip", IpNetwork::from_xml, &mut faults);
        ip.routes = all(element, "route", IpRoute::from_xml, &mut faults);
        let (forward, vfs) = match element.child("forward") {
            Some(forward) => faults.or_default(super::forward::parse(forward)),
            None => (None, Vec::new()),
        };
        let trust_guest_rx_filters = faults.or_default(element.yes_no("trustGuestRxFilters"));
        let extension = faults.or_default(NetworkExtension::from_network(element));
        faults.finish()?;
        let mut network = Self {
            name,
            uuid: uuid.unwrap_or_else(Uuid::new_v4),
            title,
            description: element.child_text("description"),
            metadata: metadata(element),
            forward,
            isolated_ports,
            trust_guest_rx_filters,
            vlan,
            virtual_port,
            bandwidth,
            port_groups,
            ip,
            extension: NetworkExtension { vfs, ..extension },
            places: Places::of(element),
        };
        if network.makes_bridge() {
            network.ip.bridge.get_or_insert_default();
        } else {
            let silent = NetworkBridge::default();
            network.ip.bridge = network.ip.bridge.filter(|bridge| *bridge != silent);
        }
        network.check_mode(element)?;
        Ok(network)
    }
}

/// All children of a name, but those with a fault and what follows too many of them.
pub(super) fn all<'d, T>(
    parent: Element<'d>,
    name: &str,
    read: impl Fn(Element<'d>) -> Result<T, Error>,
    faults: &mut Faults,
) -> Vec<T> {
    let mut all = Vec::new();
    faults.each(parent.children_named(name), |child| {
        all.push(read(child)?);
        Ok(())
    });
    all
}

fn name(network: Element<'_>) -> Result<String, Error> {
    let Some(name) = network.child_text("name") else {
        return Err(network.error(ErrorKind::NoName, "<network> needs a <name>"));
    };
    if let Some(fault) = object_name::unfit(&name) {
        let kind = match name.contains('/') {
            true => ErrorKind::XmlDetail,
            false => ErrorKind::Xml,
        };
        let place = network.child("name").unwrap_or(network);
        let message = format!("the network's name {:?} {fault}", object_name::shown(&name));
        return Err(place.error(kind, message));
    }
    Ok(name)
}

fn title(network: Element<'_>) -> Result<Option<String>, Error> {
    let title = network.child_text("title");
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        let place = network.child("title").unwrap_or(network);
        return Err(place.error(ErrorKind::Xml, "<title> has more than one line"));
    }
    Ok(title)
}

/// `<metadata>`, if there is anything in it.
fn metadata(network: Element<'_>) -> Option<crate::xml::RawXml> {
    let metadata = network.child("metadata")?;
    metadata.children().next().map(|_| metadata.raw())
}

fn virtual_port(
    element: Element<'_>,
    rules: VirtualPortRules,
) -> Result<Option<VirtualPort>, Error> {
    let port = element.child("virtualport");
    let port = port
        .map(|port| VirtualPort::parse(port, rules))
        .transpose()?;
    Ok(port.filter(|port| *port != VirtualPort::default()))
}

fn bandwidth(element: Element<'_>) -> Result<Option<Bandwidth>, Error> {
    match element.child("bandwidth") {
        Some(bandwidth) => Bandwidth::parse(bandwidth, false),
        None => Ok(None),
    }
}

impl FromXml for PortGroup {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let name = match element.attribute("name") {
            None | Some("") => Err(element.missing(ErrorKind::Xml, "name")),
            Some(name) => Ok(name.to_owned()),
        };
        let group = Self {
            name: faults.or_default(name),
            is_default: faults.or_default(lenient_yes_no(element, "default")),
            trust_guest_rx_filters: faults.or_default(element.yes_no("trustGuestRxFilters")),
            vlan: faults.or_default(element.parse_child("vlan")),
            virtual_port: faults.or_default(virtual_port(element, VirtualPortRules::Open)),
            bandwidth: faults.or_default(bandwidth(element)),
            vf: (faults.or_default(VfSettings::of(element)))
                .filter(|vf| *vf != VfSettings::default()),
        };
        faults.finish()?;
        Ok(group)
    }
}

impl IpSettings {
    /// What stands in the network itself; `<dns>`, `<ip>` and `<route>` are read later.
    fn of(network: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let ipv6 = match network.attribute("ipv6") {
            Some("") => None,
            _ => faults.or_default(network.yes_no("ipv6")),
        };
        let domain: Option<DnsDomain> = faults.or_default(network.parse_child("domain"));
        let bridge = network.child("bridge").map(NetworkBridge::parse);
        let bridge = faults.or_default(bridge.transpose());
        let mtu = network.child("mtu").map(|mtu| mtu.number("size"));
        let mtu: Option<u32> = faults.or_default(mtu.transpose()).flatten();
        let options = network
            .children_in(DNSMASQ_NAMESPACE, "options")
            .flat_map(|options| {
                options
                    .children()
                    .filter(|child| child.namespace() == Some(DNSMASQ_NAMESPACE))
            })
            .filter(|option| option.name() == "option");
        let mut dnsmasq_options = Vec::new();
        faults.each(options, |option| {
            let value = option.attribute_string("value");
            dnsmasq_options
                .push(value.ok_or_else(|| option.missing(ErrorKind::Internal, "value"))?);
            Ok(())
        });
        let settings = Self {
            ipv6: ipv6.unwrap_or(false),
            bridge,
            mtu: mtu.filter(|&mtu| mtu > 0),
            mac: faults.or_default(mac(network)),
            domain: domain.filter(|domain| !domain.name.is_empty()),
            dnsmasq_options,
            ..Self::default()
        };
        faults.finish()?;
        Ok(settings)
    }
}

fn mac(network: Element<'_>) -> Result<Option<MacAddress>, Error> {
    let Some(element) = network.child("mac") else {
        return Ok(None);
    };
    let mac: Option<MacAddress> = element.parsed(ErrorKind::Xml, "address")?;
    if mac.is_some_and(MacAddress::is_multicast) {
        let expected = "the address of one host, not of a group";
        return Err(element.invalid(ErrorKind::Xml, "address", expected));
    }
    Ok(mac)
}

impl NetworkBridge {
    fn parse(element: Element<'_>) -> Result<Self, Error> {
        let word = |name| {
            let value = element.attribute_string(name);
            value.filter(|value| !value.is_empty())
        };
        let mut faults = Faults::default();
        let bridge = Self {
            name: word("name"),
            zone: word("zone"),
            stp: match element.attribute("stp") {
                Some("") => true,
                _ => faults.or_default(element.on_off("stp")).unwrap_or(true),
            },
            delay: faults.or_default(element.number("delay")).unwrap_or(0),
            mac_table_manager: faults.or_default(element.keyword("macTableManager")),
        };
        faults.finish()?;
        Ok(bridge)
    }
}

/// `yes` or `no` in any case, as libvirt takes it; another word would be as good as `no` there.
pub(super) fn lenient_yes_no(element: Element<'_>, name: &str) -> Result<bool, Error> {
    match element.attribute(name) {
        None | Some("") => Ok(false),
        Some(word) if word.eq_ignore_ascii_case("yes") => Ok(true),
        Some(word) if word.eq_ignore_ascii_case("no") => Ok(false),
        Some(_) => Err(element.invalid(ErrorKind::Xml, name, "yes or no")),
    }
}

fn not_here(bridge: Element<'_>, attribute: &str) -> Error {
    bridge.attribute_error(
        ErrorKind::Xml,
        attribute,
        format!("'{attribute}' on <bridge> is for isolated, nat, route and open networks"),
    )
}

impl Network {
    /// How many devices each forward mode takes.
    pub(super) fn members_fault(&self) -> Option<String> {
        let forward = self.forward.as_ref()?;
        let mode = crate::xml::Keyword::word(forward.mode);
        match forward.mode {
            ForwardMode::Nat | ForwardMode::Route => {
                if self.ip.addresses.is_empty() {
                    return Some(format!("mode='{mode}' needs an <ip>"));
                }
                let several = forward.members.len() > 1;
                several.then(|| format!("mode='{mode}' allows one <interface>"))
            }
            ForwardMode::Open => {
                let any = forward.members != PoolMembers::None;
                any.then(|| "mode='open' allows no device".to_owned())
            }
            ForwardMode::Bridge => {
                let both = self.existing_bridge().is_some() && forward.members != PoolMembers::None;
                both.then(|| {
                    "mode='bridge' takes a <bridge name=…> or devices, not both".to_owned()
                })
            }
            ForwardMode::Private
            | ForwardMode::Vepa
            | ForwardMode::Passthrough
            | ForwardMode::Hostdev
            | ForwardMode::HostdevHybrid => None,
        }
    }

    /// What each forward mode needs and refuses.
    fn check_mode(&self, element: Element<'_>) -> Result<(), Error> {
        let Some(forward) = &self.forward else {
            return Ok(());
        };
        let place = element.child("forward").unwrap_or(element);
        let bridge = element.child("bridge");
        let mode = crate::xml::Keyword::word(forward.mode);
        let mut faults = Faults::default();
        if let Some(message) = self.members_fault() {
            faults.push(place.error(ErrorKind::Xml, message));
        }
        if !self.makes_bridge() && forward.mode != ForwardMode::Bridge {
            for attribute in ["name", "zone", "macTableManager"] {
                let given = bridge
                    .filter(|bridge| bridge.attribute(attribute).is_some_and(|v| !v.is_empty()));
                if let Some(bridge) = given {
                    faults.push(bridge.attribute_error(
                        ErrorKind::Xml,
                        attribute,
                        format!("mode='{mode}' allows no '{attribute}' on <bridge>"),
                    ));
                }
            }
        }
        if !self.makes_bridge() {
            if let (Some(bridge), Some(own)) = (bridge, &self.ip.bridge) {
                if own.delay > 0 {
                    faults.push(not_here(bridge, "delay"));
                }
                // Only a bridge of our own has a spanning tree to speak of.
                if bridge.attribute("stp").is_some() {
                    faults.push(not_here(bridge, "stp"));
                }
                // In the other modes it was refused just above.
                if own.zone.is_some() && forward.mode == ForwardMode::Bridge {
                    faults.push(not_here(bridge, "zone"));
                }
            }
            if self.ip.mtu.is_some() {
                let place = element.child("mtu").unwrap_or(element);
                faults.push(place.error(
                    ErrorKind::Xml,
                    format!("mode='{mode}' allows no <mtu>: its devices have their own"),
                ));
            }
        }
        faults.finish()
    }
}
