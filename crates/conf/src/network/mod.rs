//! `<network>`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Bandwidth, Forward, MacAddress, VirtualPort, Vlan, xml::RawXml};

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
}

/// `<portgroup>`.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    // `conf`'s own grammar fills in domain, dns, ip, dhcp, routes and dnsmasq options here.
}

/// `<bridge>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// Who fills the bridge's forwarding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacTableManager {
    /// The kernel, by learning.
    Kernel,
    /// The daemon.
    Libvirt,
}

/// Settings in virtnic's own namespace, on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkExtension {
    /// `<virtnic:pool spread=…>`.
    pub spread: Spread,
    /// `<virtnic:pool numa=…>`.
    pub numa: NumaPolicy,
    /// `<virtnic:vf …>`.
    pub vf: VfSettings,
}

/// Which of several PFs a VF is taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The PF with the fewest VFs lent.
    #[default]
    Balance,
    /// The first PF that has one.
    Pack,
}

/// How much a guest's NUMA node counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NumaPolicy {
    /// A near device first.
    Prefer,
    /// A near device or none.
    Require,
    /// Not at all.
    #[default]
    Ignore,
}

/// What a VF may do, set through its PF on each hand-out. `None`: the neutral value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfSettings {
    /// The guest may change its MAC and go promiscuous.
    pub trust: Option<bool>,
    /// Frames with another source MAC are dropped.
    pub spoof_check: Option<bool>,
    /// The link that the guest sees.
    pub link: Option<VfLink>,
    /// Highest transmit rate, Mbit/s; 0: no limit.
    pub max_rate: Option<u32>,
    /// Guaranteed transmit rate, Mbit/s; 0: none.
    pub min_rate: Option<u32>,
    /// Priority of its VLAN, 0–7.
    pub qos: Option<u8>,
}

/// A VF's link as its PF sets it (`IFLA_VF_LINK_STATE`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfLink {
    /// As the PF's own.
    #[default]
    Auto,
    /// Always up.
    On,
    /// Always down.
    Off,
}

impl Network {
    /// The port group of that name, or the default one where no name is given.
    #[must_use]
    pub fn port_group(&self, name: Option<&str>) -> Option<&PortGroup> {
        match name {
            Some(name) => self.port_groups.iter().find(|group| group.name == name),
            None => self.port_groups.iter().find(|group| group.is_default),
        }
    }
}
