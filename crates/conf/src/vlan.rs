//! VLAN tags of an interface, a port group or a network.

use serde::{Deserialize, Serialize};

/// The VLANs that a port carries. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// Whether tagged frames pass to the guest. More than one tag implies it.
    pub trunk: bool,
    /// The tags, in the order of the document; at most one has a native mode.
    pub tags: Vec<VlanTag>,
}

/// One VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanTag {
    /// VLAN identifier, 0–4095 as libvirt accepts them (IEEE 802.1Q reserves 4095).
    pub id: u16,
    /// Whether untagged frames belong to this VLAN, and how its frames leave.
    pub native: Option<NativeMode>,
}

/// How frames of the native VLAN leave the guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeMode {
    /// With a tag.
    Tagged,
    /// Without one.
    Untagged,
}

impl Vlan {
    /// The only tag, if frames are tagged and untagged for the guest: all that a VF can do.
    #[must_use]
    pub fn access_tag(&self) -> Option<u16> {
        match self.tags.as_slice() {
            [tag] if !self.trunk => Some(tag.id),
            _ => None,
        }
    }
}
