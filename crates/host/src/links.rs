//! Network devices of the host, and those that are made for guests.

use std::os::fd::OwnedFd;

use conf::{Bandwidth, DirectMode, MacAddress, NetdevName, PciAddress, Uuid};
use serde::{Deserialize, Serialize};

use crate::{HostError, LinkState, Usage, VirtualFunction, VlanId, VlanSpec};

/// What virtnic asks of a host's network devices. Part of [`crate::Host`], and like it: each method
/// does one thing to one device, blocks, and tells what the kernel said.
///
/// Devices are addressed by their index wherever the kernel lets: a name can move to another device
/// between two calls, an index can't.
pub trait Links: Send + Sync + 'static {
    /// All network devices, by index.
    fn netdevs(&self) -> Result<Vec<Netdev>, HostError>;

    /// The device of that name, or of that alternative name; [`HostError::NoNetdev`].
    fn netdev(&self, name: &str) -> Result<Netdev, HostError>;

    /// What uses the device on this host: addresses while it is up, a bridge or bond, devices on
    /// top of it, the default route. Devices that carry our tag ([`tag`]) don't count.
    fn netdev_usage(&self, netdev: &Netdev) -> Result<Vec<Usage>, HostError>;

    /// What a description of the device shows beyond [`Netdev`]. What a host does not tell is left
    /// out.
    fn netdev_details(&self, _netdev: &Netdev) -> Result<NetdevDetails, HostError> {
        Ok(NetdevDetails::default())
    }

    /// What the NIC can do for guests.
    fn nic_ability(&self, netdev: &Netdev) -> Result<NicAbility, HostError>;

    /// What went through the device, from its own point of view.
    fn netdev_counters(&self, ifindex: u32) -> Result<Counters, HostError>;

    /// What went through a VF, from the VF's point of view (`IFLA_VF_STATS`, read through the PF).
    /// `None`: all is 0, which is also what the kernel tells for a driver that counts nothing.
    fn vf_counters(&self, vf: &VirtualFunction) -> Result<Option<Counters>, HostError>;

    /// Sets `IFF_UP`.
    fn set_up(&self, ifindex: u32, up: bool) -> Result<(), HostError>;

    /// Changes the mode of a macvtap or macvlan; nothing changes to or from passthrough.
    fn set_macvlan_mode(&self, netdev: &Netdev, mode: DirectMode) -> Result<(), HostError>;

    /// How the kernel gives the device IPv6 addresses by itself; `None`: it has no IPv6, or not on
    /// that device.
    fn ipv6_autoconf(&self, ifindex: u32) -> Result<Option<Ipv6Autoconf>, HostError>;

    /// Sets [`Ipv6Autoconf::addr_gen_mode`]. Addresses that are there stay.
    fn set_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Result<(), HostError>;

    /// Sets [`Ipv6Autoconf::accept_ra`]. Addresses and routes that are there stay.
    fn set_accept_ra(&self, ifindex: u32, accept: i32) -> Result<(), HostError>;

    /// Sets the device's own MAC (`IFLA_ADDRESS`). [`crate::Host::set_netdev_mac`], by index.
    fn set_mac(&self, ifindex: u32, mac: MacAddress) -> Result<(), HostError>;

    /// Sets the MTU, bytes.
    fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), HostError>;

    /// Makes a macvtap or macvlan, down, and tags it; refused with EEXIST if the name is taken. A
    /// macvtap gets no IPv6 address of the host's; a macvlan is for the host's own use.
    /// A failure after its making removes it again.
    fn make_macvlan(&self, spec: &MacvlanSpec) -> Result<Netdev, HostError>;

    /// Makes a VLAN device of 802.1Q, down, with the MTU and the MAC of the device below, and tags
    /// it. EEXIST if the name is taken, or if the device below has that VLAN already: the kernel
    /// lets it have one device for each. A failure after its making removes it again.
    fn make_vlan(&self, spec: &VlanSpec) -> Result<Netdev, HostError>;

    /// The queues of a macvtap, each opened read-write, not inherited by programs. Needs a sysfs of
    /// this network namespace; does without a node in `/dev`.
    fn open_macvtap(&self, netdev: &Netdev, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError>;

    /// Makes a tap, down, tagged, and opens its queues. It gets no IPv6 address of the host's. It is gone when the last of these is
    /// closed. EEXIST if the name is taken.
    fn make_tap(&self, spec: &TapSpec) -> Result<(Netdev, Vec<OwnedFd>), HostError>;

    /// Opens the queues of a tap or macvtap that somebody else made.
    fn open_tap(&self, name: NetdevName, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError>;

    /// `/dev/vhost-net`, opened that many times. [`HostError::NoVhost`] where there is none.
    fn open_vhost(&self, count: u16) -> Result<Vec<OwnedFd>, HostError>;

    /// Removes a device, if it still has that name; gone already is fine.
    fn delete_link(&self, ifindex: u32, name: NetdevName) -> Result<(), HostError>;

    /// Puts the device into a bridge (by index), or out of its master.
    fn set_master(&self, ifindex: u32, master: Option<u32>) -> Result<(), HostError>;

    /// How the device stands in its bridge.
    fn set_bridge_port(&self, ifindex: u32, port: &BridgePort) -> Result<(), HostError>;

    /// Adds a MAC to, or removes it from, the forwarding table of the device's bridge, statically.
    fn set_bridge_mac(&self, ifindex: u32, mac: MacAddress, present: bool)
    -> Result<(), HostError>;

    /// What the device lets in besides its own MAC.
    fn rx_filter(&self, ifindex: u32) -> Result<RxFilter, HostError>;

    /// Makes the device let in just that (`IFF_PROMISC`, `IFF_ALLMULTI`, multicast groups).
    fn set_rx_filter(&self, ifindex: u32, filter: &RxFilter) -> Result<(), HostError>;

    /// Shapes what goes to the guest (leaves the device) and what comes from it, in place of any
    /// earlier shaping; the default removes it. On a macvtap or macvlan what goes to the guest is
    /// what arrives at the device, and that is minded. A failure leaves the device unshaped.
    /// [`HostError::Unsupported`]: the kernel lacks what it takes, or a rate is guaranteed.
    fn set_bandwidth(&self, ifindex: u32, bandwidth: &Bandwidth) -> Result<(), HostError>;

    /// Whether drivers take the PF's new VFs at once (`sriov_drivers_autoprobe`).
    fn autoprobe(&self, pf: &crate::PhysicalFunction) -> Result<bool, HostError>;

    /// Sets that.
    fn set_autoprobe(&self, pf: &crate::PhysicalFunction, on: bool) -> Result<(), HostError>;

    /// Asks for a port profile's association, or its end, and waits for the switch's word: at most
    /// 10 s. A card's port that is not confirmed by then is given up again.
    /// [`HostError::PortProfile`]: it was refused, or not answered. [`HostError::Unsupported`]: the
    /// card has none, or lldpad does not run. That an association ended later is told by
    /// [`crate::HostEvent::PortDisassociated`].
    fn port_profile(&self, request: &PortRequest) -> Result<(), HostError>;
}

/// Marks the devices that virtnic made: the beginning of their `ifalias`.
pub const TAG: &str = "virtnic:";

/// The tag of a device that was made for that guest under that claim.
#[must_use]
pub fn tag(guest: Uuid, claim: &str) -> String {
    format!("{TAG}{guest}:{claim}")
}

/// A network device, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// Its index, good until it is gone.
    pub index: u32,
    /// Its name.
    pub name: NetdevName,
    /// Its alternative names (`IFLA_ALT_IFNAME`).
    pub alternative_names: Vec<String>,
    /// Its MAC; zeroes where it has none.
    pub mac: MacAddress,
    /// Up, carrier, MTU.
    pub state: LinkState,
    /// Its kind (`IFLA_INFO_KIND`: `macvtap`, `bond`, `vlan`, `bridge`, `tun`, `veth` …); `None`: a
    /// card's.
    pub kind: Option<String>,
    /// What its frames are tagged with on the device below, where it is a VLAN device of 802.1Q.
    pub vlan: Option<VlanId>,
    /// Index of the device that it sits on (`IFLA_LINK`), in the same namespace.
    pub lower: Option<u32>,
    /// Index of its bridge, bond or team.
    pub master: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// The PCI function that it belongs to.
    pub pci: Option<PciAddress>,
    /// What it speaks.
    pub link_type: LinkType,
}

/// What a network device speaks (`ARPHRD_…`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet.
    #[default]
    Ethernet,
    /// The host with itself.
    Loopback,
    /// Something else: a tunnel, InfiniBand.
    Other,
}

impl Netdev {
    /// Whether virtnic made it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.starts_with(TAG))
    }
}

/// How the kernel gives a device IPv6 addresses by itself, once it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Autoconf {
    /// How a link-local address is made up (`IFLA_INET6_ADDR_GEN_MODE`): 0 from the MAC, 1 not at
    /// all, 2 and 3 so that nobody recognises the MAC.
    pub addr_gen_mode: u8,
    /// Whether routers are believed that advertise prefixes and routes (`accept_ra`): 0 never, 1 if
    /// the host does not forward, 2 always.
    pub accept_ra: i32,
}

impl Ipv6Autoconf {
    /// No address comes by itself, and no route.
    pub const NONE: Self = Self {
        addr_gen_mode: 1,
        accept_ra: 0,
    };
}

/// How a network device works, for people to read. `None`: it is none of that kind, or tells
/// nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetdevDetails {
    /// Of its link, Mbit/s.
    pub speed: Option<u32>,
    /// A bridge's.
    pub bridge: Option<BridgeDetails>,
    /// A bond's.
    pub bond: Option<BondDetails>,
    /// A VLAN's tag.
    pub vlan: Option<u16>,
}

/// How a bridge works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeDetails {
    /// Spanning tree.
    pub stp: bool,
    /// Hundredths of a second.
    pub forward_delay: u32,
}

/// How a bond works; times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BondDetails {
    /// `IFLA_BOND_MODE`.
    pub mode: u8,
    /// How often the links are looked at; 0: not so.
    pub mii_frequency: u32,
    /// How long a link has to be up to count.
    pub up_delay: u32,
    /// How long a link has to be down to count.
    pub down_delay: u32,
}

/// What a NIC can do for guests, in the order of how much of the work the card does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum NicAbility {
    /// It makes VFs.
    SrIov {
        /// Most VFs that it can make.
        max_vfs: u16,
        /// VFs that it has.
        vfs: u16,
    },
    /// It is a VF.
    VirtualFunction,
    /// It sorts frames for macvlans itself (VMDq; ethtool's `l2-fwd-offload`).
    MacvlanOffload {
        /// Switched on.
        on: bool,
    },
    /// macvlan and bridges are done in software.
    Ethernet,
}

/// Frames and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Received broken; `None`: not told.
    pub rx_errors: Option<u64>,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Received multicasts; `None`: not told.
    pub rx_multicast: Option<u64>,
    /// Received broadcasts; `None`: not told.
    pub rx_broadcast: Option<u64>,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Not sent for an error; `None`: not told.
    pub tx_errors: Option<u64>,
    /// Dropped before they were sent.
    pub tx_dropped: u64,
}

impl Counters {
    /// The same from the other end of the cable; nothing tells multicasts apart there.
    #[must_use]
    pub fn from_other_end(&self) -> Self {
        Self {
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            rx_multicast: None,
            rx_broadcast: None,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// A macvtap or macvlan to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvlanSpec {
    /// Its name.
    pub name: NetdevName,
    /// Index of the device below.
    pub lower: u32,
    /// How its frames reach others.
    pub mode: DirectMode,
    /// Its MAC. In passthrough mode the kernel gives it that of the device below, whatever this is,
    /// and each change of the one changes the other.
    pub mac: MacAddress,
    /// Bytes; `None`: that of the device below.
    pub mtu: Option<u32>,
    /// With a character device for QEMU (macvtap), or for the host's own use (macvlan).
    pub tap: bool,
    /// Its `ifalias`, see [`tag`].
    pub tag: String,
}

/// A tap to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: NetdevName,
    /// The MAC of the host's end.
    pub mac: MacAddress,
    /// Bytes; `None`: 1500.
    pub mtu: Option<u32>,
    /// Its queues.
    pub queues: TapQueues,
    /// Its `ifalias`, see [`tag`].
    pub tag: String,
}

/// How a tap's queues are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapQueues {
    /// How many, at least 1.
    pub count: u16,
    /// With the header that virtio uses (`IFF_VNET_HDR`).
    pub vnet_hdr: bool,
}

/// How a device stands in its bridge. `None`: as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// Isolated ports don't reach each other (`IFLA_BRPORT_ISOLATED`).
    pub isolated: Option<bool>,
    /// The bridge learns MACs behind it.
    pub learning: Option<bool>,
    /// The bridge sends it frames for MACs that it does not know.
    pub unicast_flood: Option<bool>,
    /// Its VLANs, in place of those that it has.
    pub vlans: Option<Vec<BridgeVlan>>,
}

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeVlan {
    /// 1–4094.
    pub id: u16,
    /// Frames that come without a tag belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

/// What a device lets in besides its own MAC and broadcasts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxFilter {
    /// Everything.
    pub promiscuous: bool,
    /// Every multicast.
    pub all_multicast: bool,
    /// These multicast groups.
    pub multicast: Vec<MacAddress>,
}

/// Refuses what can't be done on one device by itself.
pub(crate) fn shapeable(
    bandwidth: &Bandwidth,
    target: impl FnOnce() -> String,
) -> Result<(), HostError> {
    let rates = [bandwidth.inbound, bandwidth.outbound];
    if rates.into_iter().flatten().any(|rate| rate.floor.is_some()) {
        return Err(HostError::Unsupported {
            target: target(),
            reason: String::from(
                "a guaranteed rate ('floor') holds among the guests of a network, not for one \
                 device",
            ),
        });
    }
    Ok(())
}

/// A request about a port profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// What is wanted.
    pub action: PortAction,
    /// The guest's MAC.
    pub mac: MacAddress,
    /// The protocol, and what it needs.
    pub profile: PortProfile,
}

/// What is wanted of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortAction {
    /// The destination of a migration announces itself (`PORT_REQUEST_PREASSOCIATE`; for 802.1Qbh
    /// with resource reservation, `…_PREASSOCIATE_RR`).
    PreAssociate,
    /// `PORT_REQUEST_ASSOCIATE`.
    Associate,
    /// The same, without waiting for the answer: the agent was restarted and knows nothing.
    AssociateAgain,
    /// `PORT_REQUEST_DISASSOCIATE`.
    Disassociate,
}

/// A port profile, and where it applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProfile {
    /// 802.1Qbg (VDP), spoken by lldpad.
    Qbg {
        /// The macvtap; the device that counts is the lowest one below it.
        link: NetdevName,
        /// VSI manager.
        manager_id: u8,
        /// VSI type, 24 bits.
        type_id: u32,
        /// Its version.
        type_id_version: u8,
        /// The VSI instance.
        instance_id: Uuid,
    },
    /// 802.1Qbh (VN-Link), done by the card's driver.
    Qbh {
        /// The PF's network device, or the NIC itself.
        link: NetdevName,
        /// The VF's number; `None`: the NIC itself.
        vf: Option<u16>,
        /// The profile's name, at most 39 bytes.
        profile_id: String,
        /// The guest.
        guest: Uuid,
        /// The host.
        host: Uuid,
    },
}

impl PortProfile {
    /// The network device that it is for.
    #[must_use]
    pub fn link(&self) -> NetdevName {
        match self {
            Self::Qbg { link, .. } | Self::Qbh { link, .. } => *link,
        }
    }
}
