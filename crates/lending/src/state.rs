//! What the ledger holds under its lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use assign::{Assignment, Claim, Generation, Holder, Item, Phase};
use conf::{DeviceId, DirectMode, ForwardMode, Network, PciAddress, Uuid};
use host::{PhysicalFunction, VirtualFunction};
use pool::{Pool, ShareId, Uses};

use crate::members::NetworkMembers;
use crate::promises::Promises;

/// How much of what a guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of a device.
    Whole(DeviceId),
    /// A macvtap on it, beside others.
    Part(DeviceId),
    /// A tap of its own; no device is below it.
    Tap,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) pool: Pool,
    /// What each running network lends.
    pub(crate) networks: HashMap<String, NetworkMembers>,
    /// The PFs of all networks that ran so far, as they were last seen.
    pub(crate) pfs: HashMap<PciAddress, PhysicalFunction>,
    /// The VFs of those PFs, as they were last seen.
    pub(crate) vfs: HashMap<PciAddress, VirtualFunction>,
    /// Claims that nothing was done with yet.
    pub(crate) claims: HashMap<Generation, Claim>,
    /// The pool's side of each link on a shared device.
    pub(crate) shares: HashMap<Generation, ShareId>,
    /// What each port has, for the time after a restart until its network is back.
    pub(crate) by_port: HashMap<Uuid, Generation>,
    /// Devices that the pool must not lend.
    pub(crate) withheld: BTreeSet<DeviceId>,
    /// Lent devices that the host does not have any more.
    pub(crate) vanished: BTreeSet<DeviceId>,
    /// VFs that guests wait for.
    pub(crate) promises: Promises,
}

/// Locks what outlives a panic: every critical section leaves its data whole, so the poison says
/// nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a network's guests get a device whole, in that macvtap mode. A macvtap in private mode
/// is a part of its device also where that is one guest's at a time. Of a network that nobody knows the
/// mode alone says it.
#[must_use]
pub fn whole_or_part(
    network: Option<&Network>,
    mode: Option<DirectMode>,
    device: DeviceId,
) -> Share {
    let lends_whole = match network.and_then(Network::forward_mode) {
        Some(ForwardMode::Hostdev | ForwardMode::Passthrough) => true,
        // The standby of a pair is a macvtap beside others.
        Some(ForwardMode::HostdevHybrid) => mode.is_none(),
        _ => false,
    };
    if lends_whole || mode == Some(DirectMode::Passthrough) {
        Share::Whole(device)
    } else {
        Share::Part(device)
    }
}

/// The pool's words for who has a device.
pub(crate) fn pool_holder(holder: &Holder) -> pool::Holder {
    pool::Holder {
        guest: holder.name.clone(),
        network: holder.network.clone(),
        mac: holder.mac,
    }
}

impl Share {
    /// The device of the host that it is, or is a part of.
    #[must_use]
    pub fn device(self) -> Option<DeviceId> {
        match self {
            Self::Whole(device) | Self::Part(device) => Some(device),
            Self::Tap => None,
        }
    }
}

impl State {
    pub(crate) fn withhold(&mut self, device: DeviceId, reason: String) {
        self.withheld.insert(device);
        self.pool.withhold(device, reason);
    }

    pub(crate) fn readmit(&mut self, device: DeviceId) {
        self.withheld.remove(&device);
        self.pool.readmit(device);
    }

    /// Enters a line of the list into the pool.
    pub(crate) fn enter(&mut self, line: &Assignment) {
        let holder = pool_holder(&line.holder);
        match (line.item, &line.phase) {
            (Item::Device(device), Phase::Dirty(reasons)) => {
                self.withhold(device, reasons.join("; "));
            }
            (Item::Device(device), _) => {
                let _ = self.pool.claim(device, holder);
            }
            (Item::Link(generation), _) => {
                if let Some(parent) = line.parent
                    && let Ok(share) = self.pool.share(parent, holder)
                {
                    self.shares.insert(generation, share);
                }
            }
            // Whoever may have a device may have a detached one.
            (Item::Detached(_), _) => {}
        }
    }

    /// Makes the pool agree with the list about one item, after it changed under that generation.
    /// `line`: what the list says of it now.
    pub(crate) fn settle(&mut self, item: Item, generation: Generation, line: Option<&Assignment>) {
        match item {
            Item::Device(device) => {
                self.pool.release(device);
                self.readmit(device);
                self.vanished.remove(&device);
                if let Some(line) = line {
                    self.enter(line);
                }
            }
            Item::Detached(_) => {}
            // One that could not be removed is still on its parent.
            Item::Link(_) if line.is_some() => {}
            Item::Link(_) => {
                if let Some(share) = self.shares.remove(&generation) {
                    self.pool.release_share(share);
                }
            }
        }
    }

    /// Makes the pool agree with the whole list: what is lent, and what is barred.
    pub(crate) fn agree(&mut self, lent: &BTreeSet<Item>, barred: &BTreeSet<DeviceId>) {
        let loans = self.pool.loans();
        let whole: Vec<_> = (loans.filter(|(_, uses)| matches!(uses, Uses::Whole(_))))
            .map(|(device, _)| device)
            .collect();
        for device in whole {
            if !lent.contains(&Item::Device(device)) {
                self.pool.release(device);
                self.vanished.remove(&device);
            }
        }
        let gone: Vec<_> = (self.shares.keys().copied())
            .filter(|generation| !lent.contains(&Item::Link(*generation)))
            .collect();
        for generation in gone {
            if let Some(share) = self.shares.remove(&generation) {
                self.pool.release_share(share);
            }
        }
        let free_again: Vec<_> = self.withheld.difference(barred).copied().collect();
        for device in free_again {
            self.readmit(device);
        }
    }
}
