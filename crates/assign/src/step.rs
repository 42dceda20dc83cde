//! The single changes of which lending consists.

use std::fmt;

use conf::xml::Keyword;
use conf::{DirectMode, MacAddress, NetdevName, UsbAddress};
use host::{BridgePort, PortAction, PortProfile, TapQueues, VfSetting, VlanId};

use crate::settings::describe;

/// One change. [`fmt::Display`] says it in words.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// One setting of a VF, through its PF.
    Set(VfSetting),
    /// Binding a PCI function.
    Bind {
        /// To this driver.
        driver: String,
    },
    /// Letting the guest's QEMU, and nobody else but root, open the vfio group.
    Grant {
        /// The group.
        group: u32,
    },
    /// Letting the guest's QEMU, and nobody else but root, open the node of a USB device.
    GrantUsb {
        /// The device.
        address: UsbAddress,
    },
    /// Keeping the host's kernel from taking IPv6 addresses on the device below a macvtap in
    /// passthrough mode.
    NoIpv6 {
        /// The device below.
        netdev: NetdevName,
    },
    /// Giving the device below a macvtap in passthrough mode the guest's MAC.
    LowerMac {
        /// The device below.
        netdev: NetdevName,
        /// The MAC.
        mac: MacAddress,
    },
    /// Giving that device an MTU.
    LowerMtu {
        /// The device below.
        netdev: NetdevName,
        /// Bytes.
        mtu: u32,
    },
    /// Having a VLAN device on which macvtaps stand.
    TakeVlan {
        /// Its name.
        name: NetdevName,
        /// The device below it.
        lower: NetdevName,
        /// The VLAN.
        id: VlanId,
        /// Where it comes from.
        source: VlanSource,
    },
    /// Making a macvtap.
    MakeMacvtap {
        /// Its name; another one, if somebody takes that first.
        name: NetdevName,
        /// The device below.
        lower: NetdevName,
        /// Its mode.
        mode: DirectMode,
        /// Bytes; `None`: those of the device below.
        mtu: Option<u32>,
    },
    /// Making a tap.
    MakeTap {
        /// Its name; another one, if somebody takes that first.
        name: NetdevName,
        /// Bytes; `None`: 1500.
        mtu: Option<u32>,
    },
    /// Putting the tap into a bridge.
    Join {
        /// The bridge.
        bridge: NetdevName,
        /// Its index.
        index: u32,
    },
    /// Setting how it stands there.
    Port(BridgePort),
    /// Letting all multicasts in.
    AllMulticast,
    /// Shaping what goes in and out.
    Shape(conf::Bandwidth),
    /// Telling the switch.
    Profile {
        /// Association, or its end.
        action: PortAction,
        /// Of which protocol.
        protocol: &'static str,
    },
    /// Opening the link's queues.
    Open {
        /// The link.
        name: NetdevName,
        /// Its queues.
        queues: TapQueues,
    },
    /// Opening vhost-net, once for each queue.
    Vhost {
        /// It is no failure if there is none.
        optional: bool,
    },
    /// Switching the tap on.
    Up,
}

/// Where a VLAN device comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VlanSource {
    /// It is made.
    Made,
    /// It was made for other guests, and is shared with them.
    Shared,
    /// Somebody else made it: it is neither changed nor removed.
    Theirs,
}

/// Who opens `/dev/vfio/N`, and the nodes of USB devices, where that is not root: the user as whom
/// every QEMU runs. A guest whose QEMU has a group of its own opens them by that
/// ([`Assigner::prepare_for`](crate::Assigner::prepare_for)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfioUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(setting) => write!(f, "set {}", describe(*setting)),
            Self::Bind { driver } => write!(f, "bind to {driver}"),
            Self::Grant { group } => write!(f, "let its QEMU alone open /dev/vfio/{group}"),
            Self::GrantUsb { address } => write!(
                f,
                "let its QEMU alone open /dev/bus/usb/{:03}/{:03}",
                address.bus(),
                address.device()
            ),
            Self::NoIpv6 { netdev } => {
                write!(f, "keep the host from taking IPv6 addresses on {netdev}")
            }
            Self::LowerMac { netdev, mac } => write!(f, "give {netdev} the MAC {mac}"),
            Self::LowerMtu { netdev, mtu } => write!(f, "give {netdev} an MTU of {mtu}"),
            Self::TakeVlan {
                name,
                lower,
                id,
                source,
            } => match source {
                VlanSource::Made => write!(f, "make {name} for VLAN {id} of {lower}"),
                VlanSource::Shared => {
                    write!(f, "share {name}, which is there for VLAN {id} of {lower}")
                }
                VlanSource::Theirs => write!(
                    f,
                    "use {name}, which the host has for VLAN {id} of {lower}, and leave it as it is"
                ),
            },
            Self::MakeMacvtap {
                name,
                lower,
                mode,
                mtu,
            } => {
                write!(f, "make {name} on {lower} in {} mode", mode.word())?;
                mtu.map_or(Ok(()), |mtu| write!(f, " with an MTU of {mtu}"))
            }
            Self::MakeTap { name, mtu } => {
                write!(f, "make {name}")?;
                mtu.map_or(Ok(()), |mtu| write!(f, " with an MTU of {mtu}"))
            }
            Self::Join { bridge, .. } => write!(f, "put it into {bridge}"),
            Self::Port(port) => write!(f, "as a port of it: {}", describe_port(port)),
            Self::AllMulticast => f.write_str("let all multicasts in"),
            Self::Shape(_) => f.write_str("limit its bandwidth"),
            Self::Profile { action, protocol } => {
                let action = match action {
                    PortAction::PreAssociate => "announce it to",
                    PortAction::Associate | PortAction::AssociateAgain => "associate it with",
                    PortAction::Disassociate => "take it back from",
                };
                write!(f, "{action} the switch by {protocol}")
            }
            Self::Open { name, queues } => match queues.count {
                1 => write!(f, "open {name}"),
                count => write!(f, "open {count} queues of {name}"),
            },
            Self::Vhost { optional: false } => f.write_str("open /dev/vhost-net"),
            Self::Vhost { optional: true } => f.write_str("open /dev/vhost-net if it is there"),
            Self::Up => f.write_str("switch it on"),
        }
    }
}

fn describe_port(port: &BridgePort) -> String {
    let mut words = Vec::new();
    let mut add = |value: Option<bool>, what: &str| match value {
        Some(true) => words.push(what.to_owned()),
        Some(false) => words.push(format!("no {what}")),
        None => {}
    };
    add(port.isolated, "isolation");
    add(port.learning, "learning");
    add(port.unicast_flood, "flooding");
    if let Some(vlans) = &port.vlans {
        let ids: Vec<_> = vlans.iter().map(|vlan| vlan.id.to_string()).collect();
        words.push(format!("VLANs {}", ids.join(" ")));
    }
    words.join(", ")
}

/// What a profile's protocol is called.
pub(crate) fn protocol(profile: &PortProfile) -> &'static str {
    match profile {
        PortProfile::Qbg { .. } => "802.1Qbg",
        PortProfile::Qbh { .. } => "802.1Qbh",
    }
}
