//! Knowing a link, and the device below it, again.

use conf::DeviceId;
use host::{Host, HostError, Netdev, tag};

use crate::assigner::Assigner;
use crate::device::Generation;
use crate::record::{LinkKind, LinkWork, LowerWork, Record};

impl Assigner {
    /// What marks the link of that record: its guest, its claim, and this daemon among others on
    /// the same host.
    pub(crate) fn tag_of(&self, record: &Record) -> String {
        let claim = format!("{}@{}", record.generation, self.journal.instance());
        tag(record.holder.guest, &claim)
    }

    /// Whose link that is, if this daemon made it.
    pub(crate) fn read_tag(&self, netdev: &Netdev) -> Option<(conf::Uuid, Generation)> {
        let tag = netdev.alias.as_deref()?.strip_prefix(host::TAG)?;
        let (guest, claim) = tag.split_once(':')?;
        let (generation, instance) = claim.split_once('@')?;
        if instance != self.journal.instance() {
            return None;
        }
        Some((guest.parse().ok()?, generation.parse().ok()?))
    }
}

/// The link of a record, if it is there: by its name and its tag. One that was renamed is found by
/// its tag; one that a crash left without a tag by all else that was to be made. Nothing else is
/// ours.
pub(crate) fn find_link(
    host: &dyn Host,
    link: &LinkWork,
    tag: &str,
) -> Result<Option<Netdev>, HostError> {
    let is_tagged = |netdev: &Netdev| netdev.alias.as_deref() == Some(tag);
    match host.netdev(link.name.as_str()) {
        Ok(netdev) if link.existing => {
            return Ok((Some(netdev.index) == link.index).then_some(netdev));
        }
        Ok(netdev) if is_tagged(&netdev) => return Ok(Some(netdev)),
        Ok(netdev) if netdev.alias.is_none() && is_as_made(host, link, &netdev)? => {
            return Ok(Some(netdev));
        }
        Ok(_) | Err(HostError::NoNetdev(_)) => {}
        Err(error) => return Err(error),
    }
    // A tap goes with its last user; only a macvtap can still be there under another name.
    if link.existing || link.index.is_none() || link.kind == LinkKind::Tap {
        return Ok(None);
    }
    Ok(host.netdevs()?.into_iter().find(is_tagged))
}

fn is_as_made(host: &dyn Host, link: &LinkWork, netdev: &Netdev) -> Result<bool, HostError> {
    let kind = match link.kind {
        LinkKind::Macvtap => "macvtap",
        LinkKind::Tap => "tun",
    };
    let same_index = link.index.is_none_or(|index| index == netdev.index);
    if netdev.kind.as_deref() != Some(kind) || !same_index {
        return Ok(false);
    }
    let Some(lower) = &link.lower else {
        return Ok(netdev.mac == link.mac);
    };
    let Some(whole) = &lower.whole else {
        // Without an index of its VLAN device nothing was made on it.
        let below = (lower.vlan.as_ref()).map_or(Some(lower.index), |vlan| vlan.index);
        return Ok(netdev.mac == link.mac && below.is_some() && netdev.lower == below);
    };
    // Its MAC is that of the device below, which may have its own again by now; the index of that
    // is another one if its driver was bound anew.
    let below = lower_now(host, lower)?.netdev();
    let is_above = below.is_some_and(|below| netdev.lower == Some(below.index));
    Ok(is_above && [link.mac, whole.mac].contains(&netdev.mac))
}

/// The device below, as it is now.
#[derive(Debug)]
pub(crate) enum LowerNow {
    /// The device of the host is gone.
    Gone,
    /// The PCI function is there, and has no network device.
    Bare,
    /// Here it is.
    Here(Netdev),
}

impl LowerNow {
    pub(crate) fn netdev(self) -> Option<Netdev> {
        match self {
            Self::Here(netdev) => Some(netdev),
            Self::Gone | Self::Bare => None,
        }
    }
}

/// Looks for the device below: a PCI function's by the function, since it gets another index, and
/// perhaps another name, when its driver is bound anew; others by their index.
pub(crate) fn lower_now(host: &dyn Host, lower: &LowerWork) -> Result<LowerNow, HostError> {
    let name = match lower.device {
        DeviceId::Netdev(name) => name,
        // Nothing of ours is above one.
        DeviceId::Usb(_) => return Ok(LowerNow::Gone),
        DeviceId::Pci(address) => {
            let names = match host.pci_device(address) {
                Ok(pci) => pci.netdevs,
                Err(HostError::NoPciDevice(_)) => return Ok(LowerNow::Gone),
                Err(error) => return Err(error),
            };
            let known = names.iter().find(|name| **name == lower.name.as_str());
            let Some(name) = known.or(names.first()) else {
                return Ok(LowerNow::Bare);
            };
            return match host.netdev(name) {
                Ok(netdev) => Ok(LowerNow::Here(netdev)),
                // It has just got another name.
                Err(HostError::NoNetdev(_)) => {
                    let mut all = host.netdevs()?.into_iter();
                    let renamed = all.find(|netdev| netdev.pci == Some(address));
                    Ok(renamed.map_or(LowerNow::Bare, LowerNow::Here))
                }
                Err(error) => Err(error),
            };
        }
    };
    match host.netdev(name.as_str()) {
        Ok(netdev) if netdev.index == lower.index => return Ok(LowerNow::Here(netdev)),
        Ok(_) | Err(HostError::NoNetdev(_)) => {}
        Err(error) => return Err(error),
    }
    let mut all = host.netdevs()?.into_iter();
    let renamed = all.find(|netdev| netdev.index == lower.index);
    Ok(renamed.map_or(LowerNow::Gone, LowerNow::Here))
}
