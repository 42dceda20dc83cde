//! Who has which device.

use std::collections::BTreeMap;
use std::collections::btree_map::Values;
use std::fmt;

use conf::{DeviceId, MacAddress};
use serde::{Deserialize, Serialize};

use crate::Pool;

/// Who has a device, or a share in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The borrower's name, for texts.
    pub guest: String,
    /// The network that lent it; `None`: the borrower named the device itself.
    pub network: Option<String>,
    /// The MAC that it has been given.
    pub mac: Option<MacAddress>,
}

/// One guest's share in a device. A pool never gives the same one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId(u64);

/// What a device is lent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uses {
    /// All of it, to one guest.
    Whole(Holder),
    /// As the parent of these guests' devices; at least one.
    Shared(BTreeMap<ShareId, Holder>),
}

/// A device that can't be had, since others have it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device} is {uses}")]
pub struct Taken {
    /// Which one.
    pub device: DeviceId,
    /// By whom.
    pub uses: Uses,
}

/// Where a MAC is in use: by a whole loan (`None`), or by a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MacUse {
    pub(crate) device: DeviceId,
    pub(crate) share: Option<ShareId>,
}

impl Pool {
    /// Lends a device whole. It need not be one that a network lends, or that is there at all.
    ///
    /// # Errors
    /// Someone has it, or a share in it.
    pub fn claim(&mut self, device: impl Into<DeviceId>, holder: Holder) -> Result<(), Taken> {
        let device = device.into();
        if let Some(uses) = self.uses.get(&device) {
            let uses = uses.clone();
            return Err(Taken { device, uses });
        }
        self.change_loans(device, |pool| {
            pool.enter_mac(device, None, holder.mac);
            pool.uses.insert(device, Uses::Whole(holder));
        });
        Ok(())
    }

    /// Takes a device back that was lent whole; whose it was.
    pub fn release(&mut self, device: impl Into<DeviceId>) -> Option<Holder> {
        let device = device.into();
        self.holder(device)?;
        self.change_loans(device, |pool| {
            let Some(Uses::Whole(holder)) = pool.uses.remove(&device) else {
                return None;
            };
            pool.leave_mac(device, None, holder.mac);
            Some(holder)
        })
    }

    /// Gives a share in a device. It need not be one that a network lends, or that is there.
    ///
    /// # Errors
    /// Someone has the whole of it.
    pub fn share(&mut self, device: impl Into<DeviceId>, holder: Holder) -> Result<ShareId, Taken> {
        let device = device.into();
        if let Some(uses @ Uses::Whole(_)) = self.uses.get(&device) {
            let uses = uses.clone();
            return Err(Taken { device, uses });
        }
        self.last_share += 1;
        let id = ShareId(self.last_share);
        self.change_loans(device, |pool| {
            pool.enter_mac(device, Some(id), holder.mac);
            let uses = (pool.uses.entry(device)).or_insert_with(|| Uses::Shared(BTreeMap::new()));
            if let Uses::Shared(shares) = uses {
                shares.insert(id, holder);
            }
        });
        self.shares.insert(id, device);
        Ok(id)
    }

    /// Ends a share; in what, and whose it was.
    pub fn release_share(&mut self, id: ShareId) -> Option<(DeviceId, Holder)> {
        let device = self.shares.remove(&id)?;
        let holder = self.change_loans(device, |pool| {
            let Some(Uses::Shared(shares)) = pool.uses.get_mut(&device) else {
                return None;
            };
            let holder = shares.remove(&id)?;
            if shares.is_empty() {
                pool.uses.remove(&device);
            }
            pool.leave_mac(device, Some(id), holder.mac);
            Some(holder)
        });
        Some((device, holder?))
    }

    /// Keeps a device from being chosen, for that reason: it could not be cleaned, say.
    pub fn withhold(&mut self, device: impl Into<DeviceId>, reason: impl Into<String>) {
        let device = device.into();
        self.change_loans(device, |pool| {
            pool.withheld.insert(device, reason.into());
        });
    }

    /// Ends [`Pool::withhold`].
    pub fn readmit(&mut self, device: impl Into<DeviceId>) {
        let device = device.into();
        self.change_loans(device, |pool| {
            pool.withheld.remove(&device);
        });
    }

    /// Who has the whole of a device.
    #[must_use]
    pub fn holder(&self, device: impl Into<DeviceId>) -> Option<&Holder> {
        match self.uses.get(&device.into())? {
            Uses::Whole(holder) => Some(holder),
            Uses::Shared(_) => None,
        }
    }

    /// Who has a device or a share in it, the oldest share first.
    pub fn holders(&self, device: impl Into<DeviceId>) -> impl Iterator<Item = &Holder> {
        let uses = self.uses.get(&device.into());
        uses.into_iter().flat_map(Uses::holders)
    }

    /// How many have a device or a share in it, whichever networks lent these.
    #[must_use]
    pub fn connections(&self, device: impl Into<DeviceId>) -> usize {
        self.uses.get(&device.into()).map_or(0, Uses::count)
    }

    /// All devices that are lent or shared, in no order.
    pub fn loans(&self) -> impl Iterator<Item = (DeviceId, &Uses)> {
        self.uses.iter().map(|(device, uses)| (*device, uses))
    }
}

impl Uses {
    /// All who have it.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        let (whole, shares): (_, Option<Values<'_, ShareId, Holder>>) = match self {
            Self::Whole(holder) => (Some(holder), None),
            Self::Shared(shares) => (None, Some(shares.values())),
        };
        whole.into_iter().chain(shares.into_iter().flatten())
    }

    /// How many have it.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Shared(shares) => shares.len(),
        }
    }

    /// The MACs that are in use, and whose they are.
    pub(crate) fn macs(&self) -> impl Iterator<Item = (Option<ShareId>, MacAddress)> {
        let (whole, shares) = match self {
            Self::Whole(holder) => (Some((None, holder)), None),
            Self::Shared(shares) => (None, Some(shares.iter())),
        };
        let shares = shares.into_iter().flatten();
        (whole.into_iter())
            .chain(shares.map(|(id, holder)| (Some(*id), holder)))
            .filter_map(|(share, holder)| Some((share, holder.mac?)))
    }

    pub(crate) fn holder_of(&self, share: Option<ShareId>) -> Option<&Holder> {
        match (self, share) {
            (Self::Whole(holder), None) => Some(holder),
            (Self::Shared(shares), Some(id)) => shares.get(&id),
            _ => None,
        }
    }
}

impl fmt::Display for Uses {
    /// `lent to guest 'web' by network 'fast'`, or `shared by guest 'web' of network 'lan' and 2 more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, by) = match self {
            Self::Whole(_) => ("lent to", "by"),
            Self::Shared(_) => ("shared by", "of"),
        };
        let Some(first) = self.holders().next() else {
            return f.write_str("shared by none");
        };
        write!(f, "{how} guest '{}'", first.guest)?;
        if let Some(network) = &first.network {
            write!(f, " {by} network '{network}'")?;
        }
        match self.count() {
            1 => Ok(()),
            count => write!(f, " and {} more", count - 1),
        }
    }
}
