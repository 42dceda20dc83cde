//! Lent items that are changed while they are lent.

use std::sync::{MutexGuard, PoisonError};

use conf::DirectMode;
use host::{HostError, Netdev};

use super::find::{LowerNow, find_link, lower_now};
use super::lower::hush;
use super::vlan::raise_vlan;
use crate::assigner::Assigner;
use crate::device::{Generation, Item, Phase};
use crate::error::LinkError;
use crate::record::{LinkWork, Record};

impl Assigner {
    /// Switches a guest's link on, before its vCPUs run, or off, when they are stopped. What is
    /// lent by vfio has no link of ours: nothing is done.
    ///
    /// A macvtap: on, the device below first, if that is down (which is remembered and undone when
    /// the last link on it is given back); off, the macvtap alone. A tap is up all the time, so
    /// that its bridge does not begin to listen anew; if the bridge's table is ours to fill, the
    /// guest's MAC is put in or taken out. A tap that somebody else made is left alone.
    ///
    /// # Errors
    /// Nothing is lent under it, the link is gone, or the kernel refused.
    pub fn set_link_state(&self, generation: Generation, up: bool) -> Result<(), LinkError> {
        let mut lent = self.borrow_lent(generation)?;
        let Some(link) = lent.record.link().filter(|link| !link.existing).cloned() else {
            return Ok(());
        };
        let host = &*self.host.0;
        let netdev = lent.netdev_of(&link)?;
        if link.lower.is_none() {
            if !link.static_mac {
                return Ok(());
            }
            let set = host.set_bridge_mac(netdev.index, link.guest_mac, up);
            return set.map_err(|source| lent.refused(source));
        }
        if up {
            self.raise_lower(&mut lent, &link)?;
            let vlan = lent.record.vlan().map(|vlan| raise_vlan(host, vlan));
            vlan.transpose().map_err(|source| lent.refused(source))?;
        }
        if netdev.state.up == up {
            return Ok(());
        }
        let set = host.set_up(netdev.index, up);
        set.map_err(|source| lent.refused(source))
    }

    /// Whether the other macvtaps on the device below find that of a guest there, or out on its wire.
    ///
    /// The standby of a pair shares its MAC with a VF. Macvtaps in bridge mode hand each other's frames over
    /// without the card, and take a frame from the card that has the MAC of one of them for one that they had
    /// already. While the guest listens on its VF, the first ends at a standby that nobody reads, and the
    /// second keeps the VF's broadcasts from the others. A macvtap in VEPA mode is passed by on both ways: the
    /// card's own switch knows the VF. What is no macvtap in bridge mode by its record stays as it is. It ends
    /// with the macvtap, so there is nothing to record.
    ///
    /// # Errors
    /// Nothing is lent under it, the link is gone, or the kernel refused.
    pub fn bypass(&self, generation: Generation, bypassed: bool) -> Result<(), LinkError> {
        let lent = self.borrow_lent(generation)?;
        let is_bridge = |link: &&LinkWork| link.mode == Some(DirectMode::Bridge);
        let Some(link) = lent.record.link().filter(is_bridge).cloned() else {
            return Ok(());
        };
        let host = &*self.host.0;
        let netdev = lent.netdev_of(&link)?;
        let mode = match bypassed {
            true => DirectMode::Vepa,
            false => DirectMode::Bridge,
        };
        let set = host.set_macvlan_mode(&netdev, mode);
        set.map_err(|source| lent.refused(source))
    }

    /// Brings the device below up, and remembers that it was down: the record comes first. Where
    /// it is up for another of our links only, this one holds it up, too. It is up for guests, so
    /// the host takes no addresses there.
    fn raise_lower(&self, lent: &mut Changing<'_>, link: &LinkWork) -> Result<(), LinkError> {
        let Some(lower) = &link.lower else {
            return Ok(());
        };
        let host = &*self.host.0;
        let _one_at_a_time = self.hold_parents();
        let now = lower_now(host, lower).map_err(|source| lent.refused(source))?;
        let LowerNow::Here(netdev) = now else {
            let gone = HostError::NoNetdev(lower.name.to_string());
            return Err(lent.refused(gone));
        };
        let is_shared = lower.whole.is_none();
        let other = self.other_raiser(lent.item, lower.device);
        let raised = !netdev.state.up || other.is_some();
        if is_shared && raised && !lower.raised {
            let ipv6 = match other {
                // The other one has changed it.
                Some(other) => other.ipv6,
                None => host
                    .ipv6_autoconf(netdev.index)
                    .map_err(|source| lent.refused(source))?,
            };
            let link = lent.record.link_mut();
            if let Some(lower) = link.and_then(|link| link.lower.as_mut()) {
                lower.raised = true;
                lower.ipv6 = ipv6;
            }
            lent.keep()?;
        }
        if netdev.state.up {
            return Ok(());
        }
        // Only what is recorded can be undone.
        let is_known = (lent.record.link().and_then(|link| link.lower.as_ref()))
            .is_some_and(|lower| lower.ipv6.is_some());
        let hushed = if is_known {
            hush(host, netdev.index)
        } else {
            Ok(())
        };
        let set = hushed.and_then(|()| host.set_up(netdev.index, true));
        set.map_err(|source| lent.refused(source))
    }

    /// Takes a lent item for a change that leaves it lent: nobody gives it back meanwhile.
    pub(crate) fn borrow_lent(&self, generation: Generation) -> Result<Changing<'_>, LinkError> {
        let mut list = self.lock();
        let not_lent = LinkError::NotLent(generation);
        let Some(&item) = list.by_generation.get(&generation) else {
            return Err(not_lent);
        };
        let entry = list.entries.get_mut(&item);
        let Some(entry) = entry.filter(|entry| entry.phase == Phase::Lent && !entry.busy) else {
            return Err(not_lent);
        };
        let Some(record) = entry.record.clone() else {
            return Err(not_lent);
        };
        entry.busy = true;
        Ok(Changing {
            assigner: self,
            item,
            record,
        })
    }

    /// One thread at a time brings shared devices up or down.
    pub(crate) fn hold_parents(&self) -> MutexGuard<'_, ()> {
        // It guards no data that a panic could leave half changed.
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lent item that one thread changes.
pub(crate) struct Changing<'a> {
    assigner: &'a Assigner,
    pub(crate) item: Item,
    pub(crate) record: Record,
}

impl Changing<'_> {
    /// Writes what is known by now.
    pub(crate) fn keep(&mut self) -> Result<(), LinkError> {
        let record = self.record.clone();
        self.assigner.lock().set_record(self.item, record);
        Ok(self.assigner.journal.write(&self.record)?)
    }

    /// Its link as it is on the host, which has to be there.
    pub(crate) fn netdev_of(&self, link: &LinkWork) -> Result<Netdev, LinkError> {
        let tag = self.assigner.tag_of(&self.record);
        let found = find_link(&*self.assigner.host.0, link, &tag);
        let found = found.map_err(|source| self.refused(source))?;
        found.ok_or_else(|| self.refused(HostError::NoNetdev(link.name.to_string())))
    }

    pub(crate) fn refused(&self, source: HostError) -> LinkError {
        LinkError::Refused {
            item: self.item,
            guest: self.record.holder.name.clone(),
            source,
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.assigner.lock().entries.get_mut(&self.item) {
            entry.busy = false;
        }
    }
}
