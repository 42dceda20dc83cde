//! Virtual port profiles (802.1Qbg, 802.1Qbh, Open vSwitch, MidoNet).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A port profile; which parameters a type needs and refuses is `behaviour` of libvirt's format:
/// <https://libvirt.org/formatnetwork.html>.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualPort {
    /// The protocol; port groups and interfaces of a network may leave it open.
    pub kind: Option<VirtualPortKind>,
    /// 802.1Qbg: VSI manager, 0–255.
    pub manager_id: Option<u8>,
    /// 802.1Qbg: VSI type, 0–0xffffff.
    pub type_id: Option<u32>,
    /// 802.1Qbg: version of the VSI type, 0–255.
    pub type_id_version: Option<u8>,
    /// 802.1Qbg: the VSI instance.
    pub instance_id: Option<Uuid>,
    /// Open vSwitch and MidoNet: the interface.
    pub interface_id: Option<Uuid>,
    /// 802.1Qbh and Open vSwitch: the profile's name, at most 39 bytes.
    pub profile_id: Option<String>,
}

/// The protocol of a port profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtualPortKind {
    /// VEPA with VDP, through lldpad.
    #[serde(rename = "802.1Qbg")]
    Qbg,
    /// VN-Link, through the kernel and the card.
    #[serde(rename = "802.1Qbh")]
    Qbh,
    /// An Open vSwitch port.
    #[serde(rename = "openvswitch")]
    OpenVSwitch,
    /// A MidoNet port.
    #[serde(rename = "midonet")]
    MidoNet,
}
