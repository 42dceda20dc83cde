//! What is on the list.

use std::fmt;
use std::str::FromStr;

use conf::{DeviceId, DirectMode, MacAddress, NetdevName, NetdevNameError, PciAddress, Uuid};
use host::VirtualFunction;
use serde::{Deserialize, Serialize};

/// What a line of the list is about.
///
/// Written as the device; `link-3.17`: what was made under claim 3.17; or `detached-0000:01:10.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Item {
    /// A device of the host, lent whole: by vfio, over USB, or below a macvtap in passthrough mode.
    Device(DeviceId),
    /// A macvtap on a shared device, or a tap: made for one guest.
    Link(Generation),
    /// A PCI function that was taken from the host's driver, for nobody yet. A guest may have it all
    /// the same: that is another line, under the device.
    Detached(PciAddress),
}

/// How a guest gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A PCI function, by vfio.
    Hostdev,
    /// A macvtap.
    Macvtap,
    /// A tap.
    Tap,
    /// A USB device.
    Usb,
}

impl Item {
    /// A link that nobody claimed: for planning only.
    pub const PLANNED_LINK: Self = Self::Link(Generation { start: 0, count: 0 });

    /// The device of the host, if it is one.
    #[must_use]
    pub fn device(self) -> Option<DeviceId> {
        match self {
            Self::Device(device) => Some(device),
            Self::Link(_) | Self::Detached(_) => None,
        }
    }

    /// The PCI function, if it is one that was taken from the host for nobody yet.
    #[must_use]
    pub fn detached(self) -> Option<PciAddress> {
        match self {
            Self::Detached(address) => Some(address),
            Self::Device(_) | Self::Link(_) => None,
        }
    }
}

/// What names of detached functions begin with. With an address it is longer than any network device's.
const DETACHED: &str = "detached-";

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::Link(generation) => write!(f, "link-{generation}"),
            Self::Detached(address) => write!(f, "{DETACHED}{address}"),
        }
    }
}

impl Item {
    /// What a person is told: a tap has a name of its own only while it is there.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Device(device) => device.to_string(),
            Self::Link(_) => "a tap device".to_owned(),
            Self::Detached(address) => address.to_string(),
        }
    }
}

impl FromStr for Item {
    type Err = NetdevNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let generation = (text.strip_prefix("link-")).and_then(|text| text.parse().ok());
        if let Some(generation) = generation {
            return Ok(Self::Link(generation));
        }
        let detached = (text.strip_prefix(DETACHED)).and_then(|text| text.parse().ok());
        match detached {
            Some(address) => Ok(Self::Detached(address)),
            None => text.parse().map(Self::Device),
        }
    }
}

impl From<DeviceId> for Item {
    fn from(device: DeviceId) -> Self {
        Self::Device(device)
    }
}

/// Which claim of a device is meant. No two claims share one, across restarts of the daemon too
/// (until the next boot), so that a late clean-up can't reach the next holder's device.
///
/// Written `3.17`: the 17th claim since the third start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Generation {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// A text that is no generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no generation of the form 3.17")]
pub struct ParseGenerationError(String);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.start, self.count)
    }
}

impl FromStr for Generation {
    type Err = ParseGenerationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('.').and_then(|(start, count)| {
            Some(Self {
                start: start.parse().ok()?,
                count: count.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| ParseGenerationError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for Generation {
    type Error = ParseGenerationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

/// What asked for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A network's port: the network chose the device.
    PoolPort,
    /// An interface that names the device itself.
    Interface,
    /// A plain host device.
    HostDevice,
    /// An administrator who took it from the host for nobody yet.
    Detached,
}

/// Whose the device is while it is lent. (`pool` has one of its own, with what a refusal tells.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The guest's identity.
    pub guest: Uuid,
    /// The guest's name.
    pub name: String,
    /// The network that lent it.
    pub network: Option<String>,
    /// The network's port.
    pub port: Option<Uuid>,
    /// The guest's MAC on it.
    pub mac: Option<MacAddress>,
    /// The guest's name for the device.
    pub alias: Option<String>,
    /// The identity of the guest's attachment; `None` in records of earlier releases, and for
    /// whoever has none.
    #[serde(default)]
    pub attachment: Option<Uuid>,
}

impl Holder {
    /// Nobody: of what was only taken from the host.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            guest: Uuid::nil(),
            name: String::new(),
            network: None,
            port: None,
            mac: None,
            alias: None,
            attachment: None,
        }
    }
}

/// How far a device is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Spoken for; not touched.
    Claimed,
    /// On its way to the guest.
    Preparing,
    /// The guest's.
    Lent,
    /// On its way back.
    Returning,
    /// Not as it was found, for these reasons; nobody's until it is.
    Dirty(Vec<String>),
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The device, or the tap of one.
    pub item: Item,
    /// Which claim of it.
    pub generation: Generation,
    /// The guest, and its network if it came through one.
    pub holder: Holder,
    /// Asked for by what.
    pub origin: Origin,
    /// How far.
    pub phase: Phase,
    /// How the guest gets it; `None` while it is only claimed.
    pub kind: Option<Kind>,
    /// When its preparation began, in seconds since 1970; `None` while it is only claimed.
    pub since: Option<u64>,
    /// PF and number, if the device is a VF lent whole; `None` also while it is only claimed.
    pub vf: Option<VirtualFunction>,
    /// The driver that it has for the guest, where it is lent by vfio.
    pub driver: Option<String>,
    /// The driver that it had, and gets back.
    pub host_driver: Option<String>,
    /// Its IOMMU group, where it is lent by vfio; `None` also while it is only claimed.
    pub group: Option<u32>,
    /// The device that the link shares; `None`: it shares none, or the device is lent whole.
    pub parent: Option<DeviceId>,
    /// The macvtap's mode.
    pub mode: Option<DirectMode>,
    /// The name of the macvtap or tap, as it was made.
    pub netdev: Option<NetdevName>,
    /// Its index, good until it is gone.
    pub ifindex: Option<u32>,
    /// The bridge that it was put into.
    pub bridge: Option<NetdevName>,
    /// The VSI instance of its 802.1Qbg profile.
    pub instance: Option<Uuid>,
}

impl Assignment {
    /// The device of the host that is lent, or shared.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        self.item.device().or(self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_reads_as_it_writes() {
        let generation: Generation = "3.17".parse().unwrap();
        assert_eq!(generation.to_string(), "3.17");
        assert!(generation < "4.0".parse().unwrap());
        for text in ["", "3", "3.", ".1", "3.1.2", "-1.0"] {
            assert!(text.parse::<Generation>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_item_reads_as_it_writes() {
        for (text, is_device) in [
            ("0000:03:10.1", true),
            ("bond0", true),
            ("link-3.17", false),
            ("link-3.x", true),
            ("detached-0000:03:10.1", false),
        ] {
            let item: Item = text.parse().unwrap();
            assert_eq!(
                (item.to_string(), item.device().is_some()),
                (text.to_owned(), is_device)
            );
        }
    }
}
