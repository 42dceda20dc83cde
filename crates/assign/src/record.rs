//! What the journal keeps of an item: all that it takes to restore it.

use conf::{DeviceId, DirectMode, MacAddress, NetdevName, PciAddress, UsbAddress, Uuid};
use host::{
    Ipv6Autoconf, NodeAccess, PortProfile, UsbInterface, VfSetting, VfState, VirtualFunction,
    VlanId,
};
use serde::{Deserialize, Serialize};

use crate::device::{Generation, Holder, Item, Kind, Origin};

/// One item's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) item: Item,
    pub(crate) generation: Generation,
    pub(crate) stage: Stage,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// Called `owner` in each format.
    #[serde(rename = "owner")]
    pub(crate) holder: Holder,
    pub(crate) origin: Origin,
    pub(crate) work: Work,
}

/// How far the item was when the record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    Preparing,
    Lent,
    Returning,
}

/// What is done for the guest, and what was found before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    Vfio(VfioWork),
    Link(LinkWork),
    Usb(UsbWork),
}

/// A USB device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsbWork {
    pub(crate) address: UsbAddress,
    /// Who could open its node.
    pub(crate) found: NodeAccess,
    /// Who is let open it; `None`: as it was found.
    pub(crate) granted: Option<NodeAccess>,
    /// Its interfaces as they were found.
    pub(crate) interfaces: Vec<UsbInterface>,
}

/// A PCI function, for vfio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VfioWork {
    pub(crate) address: PciAddress,
    pub(crate) group: u32,
    /// The driver for the guest.
    pub(crate) driver: String,
    /// Whether it has to be bound to it, and given back.
    pub(crate) bind: bool,
    pub(crate) host_driver: Option<String>,
    pub(crate) vf: Option<VfWork>,
    pub(crate) profile: Option<ProfileWork>,
    /// Its group's node; `None`: nobody is let open it, or an earlier release wrote this, which let
    /// QEMU's user do so.
    #[serde(default)]
    pub(crate) node: Option<NodeWork>,
}

/// The node of an IOMMU group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeWork {
    /// Who could open it; `None`: it was not there.
    pub(crate) found: Option<NodeAccess>,
    /// Who is let open it.
    pub(crate) granted: NodeAccess,
}

/// A VF, which is set through its PF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VfWork {
    pub(crate) vf: VirtualFunction,
    /// Its settings as they were found.
    pub(crate) original: VfState,
    /// Whether its driver had found its MAC given by the PF. `None`: not known, as in earlier
    /// formats.
    #[serde(default)]
    pub(crate) mac_given: Option<bool>,
    /// What it gets; empty for plain host devices.
    pub(crate) settings: Vec<VfSetting>,
}

/// A macvtap or a tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkWork {
    pub(crate) kind: LinkKind,
    /// Chosen, and recorded, before it is made.
    pub(crate) name: NetdevName,
    /// `None`: not made, as far as is known.
    pub(crate) index: Option<u32>,
    /// The link's own MAC.
    pub(crate) mac: MacAddress,
    /// The guest's.
    pub(crate) guest_mac: MacAddress,
    /// Somebody else made it.
    pub(crate) existing: bool,
    /// The device below a macvtap.
    pub(crate) lower: Option<LowerWork>,
    /// A macvtap's mode.
    pub(crate) mode: Option<DirectMode>,
    /// A tap's bridge.
    pub(crate) bridge: Option<NetdevName>,
    /// Its index.
    pub(crate) bridge_index: Option<u32>,
    /// The guest's MAC goes into the bridge's table while the guest runs.
    pub(crate) static_mac: bool,
    /// Traffic is shaped.
    pub(crate) shaped: bool,
    pub(crate) profile: Option<ProfileWork>,
}

/// What the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkKind {
    Macvtap,
    Tap,
}

/// The device below a macvtap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LowerWork {
    pub(crate) device: DeviceId,
    pub(crate) name: NetdevName,
    pub(crate) index: u32,
    /// It was down, and was brought up for the guest.
    pub(crate) raised: bool,
    /// How it got IPv6 addresses, where it is to get none while it is up for guests only. Earlier
    /// formats lack it.
    #[serde(default)]
    pub(crate) ipv6: Option<Ipv6Autoconf>,
    /// The VLAN device on it on which the macvtap stands. Earlier formats lack it.
    #[serde(default)]
    pub(crate) vlan: Option<VlanWork>,
    /// As it was found, where it is lent whole.
    pub(crate) whole: Option<WholeWork>,
}

/// The VLAN device below a macvtap, which guests of one VLAN share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VlanWork {
    pub(crate) id: VlanId,
    pub(crate) name: NetdevName,
    /// `None`: neither found nor made, as far as is known.
    pub(crate) index: Option<u32>,
    /// Somebody else made it.
    pub(crate) existing: bool,
    /// The macvtap stands on it, or will. In memory alone it is `false` once the macvtap is gone and the
    /// VLAN device is another guest's, or gone as well.
    #[serde(default = "yes", skip_serializing)]
    pub(crate) used: bool,
}

fn yes() -> bool {
    true
}

/// A network device that is lent whole, as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WholeWork {
    pub(crate) mac: MacAddress,
    /// Bytes.
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) vf: Option<VfWork>,
}

/// A port profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProfileWork {
    pub(crate) profile: PortProfile,
    pub(crate) mac: MacAddress,
    pub(crate) association: Association,
}

/// What the switch was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Association {
    /// Nothing yet.
    None,
    /// It was asked; perhaps it heard.
    Asked,
    /// It agreed.
    Made,
}

impl Record {
    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 3;

    pub(crate) fn vfio(&self) -> Option<&VfioWork> {
        match &self.work {
            Work::Vfio(vfio) => Some(vfio),
            Work::Link(_) | Work::Usb(_) => None,
        }
    }

    pub(crate) fn link(&self) -> Option<&LinkWork> {
        match &self.work {
            Work::Link(link) => Some(link),
            Work::Vfio(_) | Work::Usb(_) => None,
        }
    }

    /// For changing what is known of the link that is being made.
    pub(crate) fn link_mut(&mut self) -> Option<&mut LinkWork> {
        match &mut self.work {
            Work::Link(link) => Some(link),
            Work::Vfio(_) | Work::Usb(_) => None,
        }
    }

    /// The VF that is lent whole.
    pub(crate) fn vf(&self) -> Option<&VfWork> {
        match &self.work {
            Work::Vfio(vfio) => vfio.vf.as_ref(),
            Work::Link(link) => link.whole()?.vf.as_ref(),
            Work::Usb(_) => None,
        }
    }

    /// For changing what is known of it.
    pub(crate) fn vf_mut(&mut self) -> Option<&mut VfWork> {
        match &mut self.work {
            Work::Vfio(vfio) => vfio.vf.as_mut(),
            Work::Link(link) => link.lower.as_mut()?.whole.as_mut()?.vf.as_mut(),
            Work::Usb(_) => None,
        }
    }

    pub(crate) fn profile_mut(&mut self) -> Option<&mut ProfileWork> {
        match &mut self.work {
            Work::Vfio(vfio) => vfio.profile.as_mut(),
            Work::Link(link) => link.profile.as_mut(),
            Work::Usb(_) => None,
        }
    }

    /// The VSI instance of an 802.1Qbg profile.
    pub(crate) fn instance(&self) -> Option<Uuid> {
        match self.profile()?.profile {
            PortProfile::Qbg { instance_id, .. } => Some(instance_id),
            PortProfile::Qbh { .. } => None,
        }
    }

    pub(crate) fn profile(&self) -> Option<&ProfileWork> {
        match &self.work {
            Work::Vfio(vfio) => vfio.profile.as_ref(),
            Work::Link(link) => link.profile.as_ref(),
            Work::Usb(_) => None,
        }
    }

    /// The VLAN device below its macvtap.
    pub(crate) fn vlan(&self) -> Option<&VlanWork> {
        self.link()?.lower.as_ref()?.vlan.as_ref()
    }

    pub(crate) fn vlan_mut(&mut self) -> Option<&mut VlanWork> {
        self.link_mut()?.lower.as_mut()?.vlan.as_mut()
    }

    pub(crate) fn kind(&self) -> Kind {
        match &self.work {
            Work::Vfio(_) => Kind::Hostdev,
            Work::Usb(_) => Kind::Usb,
            Work::Link(link) => match link.kind {
                LinkKind::Macvtap => Kind::Macvtap,
                LinkKind::Tap => Kind::Tap,
            },
        }
    }

    /// The device that the link shares with others.
    pub(crate) fn parent(&self) -> Option<DeviceId> {
        let lower = self.link()?.lower.as_ref()?;
        lower.whole.is_none().then_some(lower.device)
    }
}

impl LinkWork {
    pub(crate) fn whole(&self) -> Option<&WholeWork> {
        self.lower.as_ref()?.whole.as_ref()
    }
}

/// A record of format 1, which had nothing but VFs and other PCI functions for vfio.
#[derive(Debug, Deserialize)]
pub(crate) struct Format1 {
    device: DeviceId,
    generation: Generation,
    stage: Stage,
    since: u64,
    #[serde(rename = "owner")]
    holder: Holder,
    origin: Origin,
    group: u32,
    vf: Option<VirtualFunction>,
    driver: String,
    bind: bool,
    host_driver: Option<String>,
    original: Option<VfState>,
    settings: Vec<VfSetting>,
}

impl Format1 {
    pub(crate) const FORMAT: u32 = 1;
}

impl TryFrom<Format1> for Record {
    type Error = &'static str;

    fn try_from(old: Format1) -> Result<Self, Self::Error> {
        let address = old.device.pci().ok_or("its device is not a PCI function")?;
        let vf = old.vf.zip(old.original).map(|(vf, original)| VfWork {
            vf,
            original,
            mac_given: None,
            settings: old.settings,
        });
        Ok(Self {
            item: Item::Device(old.device),
            generation: old.generation,
            stage: old.stage,
            since: old.since,
            holder: old.holder,
            origin: old.origin,
            work: Work::Vfio(VfioWork {
                address,
                group: old.group,
                driver: old.driver,
                bind: old.bind,
                host_driver: old.host_driver,
                vf,
                profile: None,
                node: None,
            }),
        })
    }
}
