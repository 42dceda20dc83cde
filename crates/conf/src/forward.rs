//! How a network reaches the outside, and the pool of devices that it lends from.

use serde::{Deserialize, Serialize};

use crate::PciAddress;
use crate::xml::keywords;

/// `<forward>` of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What guests get.
    pub mode: ForwardMode,
    /// Host devices are bound and given back by us (`hostdev` mode only).
    pub managed: bool,
    /// How host devices are bound.
    pub driver: Option<crate::HostDriver>,
    /// `<nat>`, mode `nat` only.
    pub nat: Option<crate::Nat>,
    /// The devices to lend.
    pub members: PoolMembers,
}

/// `forward/@mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the words are libvirt's own")]
pub enum ForwardMode {
    Nat,
    Route,
    Open,
    /// An existing bridge, or macvtap in bridge mode.
    Bridge,
    /// macvtap in private mode.
    Private,
    /// macvtap in vepa mode.
    Vepa,
    /// macvtap in passthrough mode: a device to each guest.
    Passthrough,
    /// A VF, given whole to the guest.
    Hostdev,
    /// A VF beside a virtio device on macvtap over its PF (ours).
    HostdevHybrid,
}

/// Where a pool's devices come from. The format has one kind at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PoolMembers {
    /// No device is named.
    #[default]
    None,
    /// The VFs of these PFs, by netdev name. libvirt takes one; several are ours.
    PhysicalFunctions(Vec<String>),
    /// These network devices.
    Interfaces(Vec<String>),
    /// These PCI functions.
    Addresses(Vec<PciAddress>),
}

keywords!(ForwardMode {
    Nat = "nat",
    Route = "route",
    Open = "open",
    Bridge = "bridge",
    Private = "private",
    Vepa = "vepa",
    Passthrough = "passthrough",
    Hostdev = "hostdev",
    HostdevHybrid = "hostdev-hybrid",
});

impl PoolMembers {
    /// How many are named.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::PhysicalFunctions(names) | Self::Interfaces(names) => names.len(),
            Self::Addresses(addresses) => addresses.len(),
        }
    }

    /// Whether none is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ForwardMode {
    /// Whether guests get PCI functions, so that a pool's devices are named by their addresses.
    #[must_use]
    pub const fn lends_host_devices(self) -> bool {
        matches!(self, Self::Hostdev | Self::HostdevHybrid)
    }

    /// Whether a device is lent to one guest at a time.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        matches!(
            self,
            Self::Passthrough | Self::Hostdev | Self::HostdevHybrid
        )
    }
}
