//! `<network>`.

mod defaults;
mod dhcp;
mod direct;
mod dns;
mod extension;
mod forward;
mod hybrid;
mod ip;
mod places;
mod read;
mod update;
mod validate;
mod write;

pub use dhcp::{Bootp, Dhcp, DhcpHost, DhcpRange, Lease, LeaseUnit};
pub use dns::{Dns, DnsDomain, DnsForwarder, DnsHost, DnsService, DnsText};
pub use extension::{
    NetworkExtension, NumaPolicy, PfVfs, PoolLend, Spread, VfLink, VfSettings, VlanProtocol,
};
pub use ip::{IpFamily, IpMask, IpNetwork, IpRoute};
pub use places::Places;
pub(crate) use read::DNSMASQ_NAMESPACE;
pub use update::{NetworkUpdate, UpdateCommand, UpdateSection};
pub use write::{DeviceStatus, NetworkStatus, PoolDevice};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::xml::{RawXml, keywords};
use crate::{Bandwidth, Forward, ForwardMode, MacAddress, VirtualPort, Vlan};

/// A network: what a guest's interface names, and where its ports' devices come from.
///
/// <https://libvirt.org/formatnetwork.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Unique name; no `/`, no newline.
    pub name: String,
    /// Unique identity, made up where the document has none.
    pub uuid: Uuid,
    /// One line for people.
    pub title: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// Whatever other programs keep here.
    pub metadata: Option<RawXml>,
    /// Absent: isolated.
    pub forward: Option<Forward>,
    /// Ports can't reach each other.
    pub isolated_ports: Option<bool>,
    /// Guests may change their MAC and filters (default for ports).
    pub trust_guest_rx_filters: Option<bool>,
    /// VLANs of every port that has none of its own.
    pub vlan: Option<Vlan>,
    /// Profile of every port.
    pub virtual_port: Option<VirtualPort>,
    /// Shaping of the bridge.
    pub bandwidth: Option<Bandwidth>,
    /// Groups of ports with settings of their own.
    pub port_groups: Vec<PortGroup>,
    /// Bridge, addresses, DHCP, DNS and routes: kept and written, carried out for no mode yet.
    pub ip: IpSettings,
    /// What libvirt has no word for (`urn:virtnic:1`).
    pub extension: NetworkExtension,
    /// Where the document said it, for what [`Network::validate`] refuses.
    pub places: Places,
}

/// `<portgroup>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortGroup {
    /// Unique within the network.
    pub name: String,
    /// Used by interfaces that name none.
    pub is_default: bool,
    /// Guests may change their MAC and filters.
    pub trust_guest_rx_filters: Option<bool>,
    /// VLANs of its ports.
    pub vlan: Option<Vlan>,
    /// Profile of its ports.
    pub virtual_port: Option<VirtualPort>,
    /// Shaping of its ports.
    pub bandwidth: Option<Bandwidth>,
    /// `<virtnic:vf …>` of its ports (ours).
    pub vf: Option<VfSettings>,
}

/// `<nat>` under `<forward>`; kept, not carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nat {
    /// `nat/@ipv6`.
    pub ipv6: Option<bool>,
    /// First and last address.
    pub addresses: Option<(String, String)>,
    /// First and last port.
    pub ports: Option<(u16, u16)>,
}

/// The part of a network that makes an IP network on a bridge of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpSettings {
    /// `network/@ipv6`.
    pub ipv6: bool,
    /// `<bridge>`.
    pub bridge: Option<NetworkBridge>,
    /// `<mtu size=…>`, bytes.
    pub mtu: Option<u32>,
    /// The bridge's own address.
    pub mac: Option<MacAddress>,
    /// `<domain>`.
    pub domain: Option<DnsDomain>,
    /// `<dns>`.
    pub dns: Dns,
    /// `<ip>`, in order.
    pub addresses: Vec<IpNetwork>,
    /// `<route>`, in order.
    pub routes: Vec<IpRoute>,
    /// `<dnsmasq:option value=…>`, in order.
    pub dnsmasq_options: Vec<String>,
}

/// `<bridge>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkBridge {
    /// The bridge's name.
    pub name: Option<String>,
    /// firewalld's zone.
    pub zone: Option<String>,
    /// Spanning tree; printed for modes that make a bridge.
    pub stp: bool,
    /// Forward delay, seconds.
    pub delay: u32,
    /// `macTableManager`.
    pub mac_table_manager: Option<MacTableManager>,
}

impl Default for NetworkBridge {
    /// As libvirt has it where the document is silent: with spanning tree.
    fn default() -> Self {
        Self {
            name: None,
            zone: None,
            stp: true,
            delay: 0,
            mac_table_manager: None,
        }
    }
}

/// Who fills the bridge's forwarding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacTableManager {
    /// The kernel, by learning.
    Kernel,
    /// The daemon, for each guest that it plugs in.
    Libvirt,
}

keywords!(MacTableManager {
    Kernel = "kernel",
    Libvirt = "libvirt",
});

impl Network {
    /// How it reaches the outside; none where it is isolated.
    #[must_use]
    pub fn forward_mode(&self) -> Option<ForwardMode> {
        self.forward.as_ref().map(|forward| forward.mode)
    }

    /// Whether the network has a bridge of its own: isolated, nat, route and open.
    #[must_use]
    pub fn makes_bridge(&self) -> bool {
        matches!(
            self.forward_mode(),
            None | Some(ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open)
        )
    }

    /// The existing bridge that guests are plugged into, if it is a network of such a kind.
    #[must_use]
    pub fn existing_bridge(&self) -> Option<&str> {
        let bridge = self.ip.bridge.as_ref()?.name.as_deref()?;
        (self.forward_mode() == Some(ForwardMode::Bridge)).then_some(bridge)
    }

    /// The port group of that name, or the default one where no name is given.
    #[must_use]
    pub fn port_group(&self, name: Option<&str>) -> Option<&PortGroup> {
        match name {
            Some(name) => self.port_groups.iter().find(|group| group.name == name),
            None => self.port_groups.iter().find(|group| group.is_default),
        }
    }
}
