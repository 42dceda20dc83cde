//! How a claimed item is to be prepared for its guest.

use conf::{Bandwidth, DirectMode, HostDriver, MacAddress, NetdevName, Uuid};
use host::{BridgePort, PortAction, TapQueues, VlanId};
use serde::{Deserialize, Serialize};

use crate::config::VfConfig;

/// By its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preparation {
    /// A PCI function, by vfio. Wants a claim of the device.
    Vfio(VfioPreparation),
    /// A macvtap. Wants a claim of the device below in passthrough mode, else of a link on it.
    Macvtap(MacvtapPreparation),
    /// A tap. Wants a claim of a link without a parent.
    Tap(TapPreparation),
    /// A USB device. Wants a claim of the device.
    Usb,
}

/// A PCI function for vfio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioPreparation {
    /// Bound and given back by us; else it has to be bound to a vfio driver already.
    pub managed: bool,
    /// How it is bound; unset: to the driver that fits it best.
    pub driver: Option<HostDriver>,
    /// What is set through its PF first. `None`: a plain host device, whose settings are the
    /// administrator's.
    pub network: Option<VfConfig>,
    /// Its port profile. Only 802.1Qbh can be had; MAC and VLAN are the profile's then, so that
    /// `network` can't name a VLAN.
    pub profile: Option<Profile>,
}

/// A macvtap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvtapPreparation {
    /// The device below, which has to be the claimed one, or the claimed link's parent.
    pub lower: NetdevName,
    /// How its frames reach others.
    pub mode: DirectMode,
    /// Its name; `None`: the lowest free `macvtapN`.
    pub name: Option<NetdevName>,
    /// The guest's MAC. In passthrough mode the device below gets it.
    pub mac: MacAddress,
    /// In passthrough mode on a VF: what is set through its PF. Its MAC is the guest's too.
    pub vf: Option<VfConfig>,
    /// The guest's VLAN, of which it sees no tag: the macvtap stands on a VLAN device of the device
    /// below, which guests share. Not in passthrough mode: a VF is given its VLAN through its PF
    /// (`vf`).
    pub vlan: Option<VlanId>,
    /// Its queues.
    pub queues: TapQueues,
    /// Whether the kernel moves its frames.
    pub vhost: Vhost,
    /// Bytes; `None`: those of the device below.
    pub mtu: Option<u32>,
    /// How fast.
    pub bandwidth: Option<Bandwidth>,
    /// All multicasts reach the guest from its start; else only what it is let have later.
    pub all_multicast: bool,
    /// Its port profile.
    pub profile: Option<Profile>,
}

/// A tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPreparation {
    /// Its name; `None`: the lowest free `vnetN`.
    pub name: Option<NetdevName>,
    /// The bridge that it is put into.
    pub bridge: Option<NetdevName>,
    /// The guest's MAC. The tap's own is that with the first byte 0xfe (0xfa if the guest's is
    /// 0xfe), so that it is never the lowest one, which bridges take for their own.
    pub mac: MacAddress,
    /// Its queues.
    pub queues: TapQueues,
    /// Whether the kernel moves its frames.
    pub vhost: Vhost,
    /// Bytes; `None`: those of the bridge, or 1500.
    pub mtu: Option<u32>,
    /// How it stands in its bridge.
    pub port: BridgePort,
    /// The guest's MAC is put into the bridge's table while the guest runs.
    pub static_mac: bool,
    /// How fast.
    pub bandwidth: Option<Bandwidth>,
    /// It is there already, under its name, made by somebody else; it is opened, and neither
    /// changed (its bandwidth apart) nor removed.
    pub existing: bool,
}

/// Whether frames go to the guest through the kernel (vhost-net) or through QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vhost {
    /// Through QEMU.
    Never,
    /// Through the kernel where it can.
    IfThere,
    /// Through the kernel, or not at all.
    Required,
}

/// A port profile: what the switch is told of the guest's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// [`PortAction::Associate`]; where a guest is awaited from another host,
    /// [`PortAction::PreAssociate`], and [`crate::Assigner::associate`] when it is here.
    pub action: PortAction,
    /// Identity of the port profile.
    pub id: ProfileId,
}

/// A port profile's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileId {
    /// 802.1Qbg (VDP).
    Qbg {
        /// VSI manager.
        manager_id: u8,
        /// VSI type, 24 bits.
        type_id: u32,
        /// Its version.
        type_id_version: u8,
        /// The VSI instance.
        instance_id: Uuid,
    },
    /// 802.1Qbh (VN-Link).
    Qbh {
        /// The profile's name, at most 39 bytes.
        profile_id: String,
        /// This host.
        host: Uuid,
    },
}
