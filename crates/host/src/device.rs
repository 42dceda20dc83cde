//! What a host consists of.

use conf::{MacAddress, PciAddress, UsbAddress, Uuid, VfLink, VlanProtocol};
use serde::{Deserialize, Serialize};

use crate::Operation;

/// A card's own function, which makes VFs and sets them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PhysicalFunction {
    /// Where it sits.
    pub address: PciAddress,
    /// Its network device's name, as it was when this was read.
    pub netdev: String,
    /// Its network device's index: the name can change, this can't.
    pub ifindex: u32,
    /// Most VFs that it can make (`sriov_totalvfs`).
    pub max_vfs: u16,
    /// VFs that it has (`sriov_numvfs`).
    pub vf_count: u16,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
}

/// A VF. Can't be made from a PF: only [`crate::Host`] makes one, having seen its `physfn`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VirtualFunction {
    /// Where it sits.
    pub address: PciAddress,
    /// Its PF.
    pub pf_address: PciAddress,
    /// Its PF's network device, as it was when this was read.
    pub pf_netdev: String,
    /// Index of its PF's network device.
    pub pf_ifindex: u32,
    /// Its number among the PF's VFs, from 0.
    pub number: u16,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
}

/// A PCI function, as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    /// Where it sits.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, 24 bits.
    pub class: u32,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its network devices' names.
    pub netdevs: Vec<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// NUMA node.
    pub numa_node: Option<u16>,
    /// PCI Express, as opposed to conventional PCI.
    pub is_express: bool,
    /// What it is in SR-IOV.
    pub sriov: Sriov,
}

/// A PCI function's part in SR-IOV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sriov {
    /// None.
    None,
    /// A PF: its VFs' addresses by number, and how many it can have.
    Physical {
        /// By VF number.
        vfs: Vec<PciAddress>,
        /// `sriov_totalvfs`.
        max: u16,
    },
    /// A VF of that PF.
    Virtual {
        /// The PF.
        pf: PciAddress,
    },
}

/// An IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number, good for this boot.
    pub number: u32,
    /// All members with their drivers, by address.
    pub members: Vec<(PciAddress, Option<String>)>,
}

/// A network device's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOWER_UP`.
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
}

/// A VF's settings, as the kernel tells them. `None`: the driver does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfState {
    /// The MAC that the PF gave it; zeroes: none.
    pub mac: MacAddress,
    /// VLAN, 0: none.
    pub vlan: u16,
    /// VLAN priority.
    pub qos: u8,
    /// The VLAN's protocol.
    pub vlan_protocol: VlanProtocol,
    /// `IFLA_VF_SPOOFCHK`.
    pub spoof_check: Option<bool>,
    /// `IFLA_VF_TRUST`.
    pub trust: Option<bool>,
    /// `IFLA_VF_LINK_STATE`.
    pub link: Option<VfLink>,
    /// Mbit/s, 0: none.
    pub min_rate: u32,
    /// Mbit/s, 0: none.
    pub max_rate: u32,
    /// `IFLA_VF_RSS_QUERY_EN`.
    #[serde(default)]
    pub rss_query: Option<bool>,
    /// The driver that has the VF.
    pub driver: Option<String>,
    /// The VF's own network device, where its driver makes one, and that device's MAC.
    pub netdev: Option<(String, MacAddress)>,
}

/// One attribute of a VF, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VfSetting {
    /// `IFLA_VF_MAC`.
    Mac(MacAddress),
    /// `IFLA_VF_VLAN_LIST` with one entry (`IFLA_VF_VLAN` for plain 802.1Q).
    Vlan {
        /// 0–4094; 0: none.
        id: u16,
        /// 0–7.
        qos: u8,
        /// 802.1Q or 802.1ad.
        protocol: VlanProtocol,
    },
    /// `IFLA_VF_SPOOFCHK`.
    SpoofCheck(bool),
    /// `IFLA_VF_TRUST`.
    Trust(bool),
    /// `IFLA_VF_LINK_STATE`.
    Link(VfLink),
    /// `IFLA_VF_RATE`, Mbit/s.
    Rate {
        /// Guaranteed, 0: none.
        min: u32,
        /// Limit, 0: none.
        max: u32,
    },
    /// `IFLA_VF_RSS_QUERY_EN`: the guest may read its RSS table and key.
    RssQuery(bool),
}

impl VfSetting {
    /// The operation that sets it.
    #[must_use]
    pub fn operation(self) -> Operation {
        match self {
            Self::Mac(_) => Operation::SetMac,
            Self::Vlan { .. } => Operation::SetVlan,
            Self::SpoofCheck(_) => Operation::SetSpoofCheck,
            Self::Trust(_) => Operation::SetTrust,
            Self::Link(_) => Operation::SetLink,
            Self::Rate { .. } => Operation::SetRate,
            Self::RssQuery(_) => Operation::SetRssQuery,
        }
    }
}

/// Something on the host that uses a VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Its network device is up and has an address.
    Addressed {
        /// The device.
        netdev: String,
        /// The first address.
        address: String,
    },
    /// Its network device belongs to a bridge, bond or team.
    Enslaved {
        /// The device.
        netdev: String,
        /// The master.
        master: String,
    },
    /// Another network device sits on top of it.
    Lower {
        /// The device.
        netdev: String,
        /// What sits on it.
        upper: String,
    },
    /// A default route leaves through it.
    DefaultRoute {
        /// The device.
        netdev: String,
    },
    /// Its driver makes a network device, and none is to be seen here.
    OtherNamespace,
    /// A disk behind it, or a part of one, is in use.
    Block {
        /// The disk's or the partition's name.
        device: String,
        /// By what.
        by: crate::BlockUse,
    },
    /// It shows the host's console.
    Console,
    /// A process holds its vfio group.
    VfioOpen(VfioHolder),
}

/// A process that has a vfio group open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfioHolder {
    /// The group.
    pub group: u32,
    /// The process; `None`: it is not to be seen from here, or just closes the group.
    pub process: Option<u32>,
}

impl std::fmt::Display for VfioHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.process {
            Some(process) => write!(
                f,
                "process {process} has its vfio group {} open",
                self.group
            ),
            None => write!(f, "a process has its vfio group {} open", self.group),
        }
    }
}

/// A change on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A PCI function appeared.
    PciAdded(PciAddress),
    /// A PCI function vanished.
    PciRemoved(PciAddress),
    /// A driver took or left a PCI function.
    PciDriverChanged(PciAddress),
    /// A USB device vanished.
    UsbRemoved(UsbAddress),
    /// A USB device, or an interface of one, came, went, or changed; by the kernel's name.
    UsbChanged(String),
    /// A network device vanished.
    LinkRemoved {
        /// Its index.
        ifindex: u32,
        /// Its name.
        netdev: String,
    },
    /// A network device appeared or changed.
    LinkChanged {
        /// Its index.
        ifindex: u32,
        /// Its name.
        netdev: String,
    },
    /// The switch, by its agent, ended a guest's port profile; it should be associated again
    /// ([`crate::PortAction::AssociateAgain`]).
    PortDisassociated {
        /// The guest's MAC.
        mac: MacAddress,
        /// The VSI instance, where it was told.
        instance: Option<Uuid>,
    },
    /// Events were lost: look again at everything.
    Lost,
}
