//! PFs, VFs and loans, with the sets of free VFs kept up to date at every change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use conf::{MacAddress, PciAddress};
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// The host's devices, the networks that lend them, and who has which.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// A PF keeps its place for good, even while it is gone, so that networks can hold on to it.
    pub(crate) pfs: Vec<Pf>,
    pub(crate) pf_places: HashMap<PciAddress, usize>,
    pub(crate) vfs: HashMap<PciAddress, Vf>,
    pub(crate) loans: HashMap<PciAddress, Holder>,
    pub(crate) withheld: HashMap<PciAddress, String>,
    pub(crate) networks: BTreeMap<String, Network>,
    /// The networks that list a VF by its own address.
    pub(crate) listed_by: HashMap<PciAddress, Vec<String>>,
}

/// A PF, as the host tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfInfo {
    /// Where it sits; this is what it is known by.
    pub address: PciAddress,
    /// Its network device's name now; for texts only.
    pub netdev: String,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
    /// Most VFs that it can make.
    pub max_vfs: u16,
    /// Its link.
    pub health: Health,
}

/// A PF's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Administratively up: without it no VF works.
    pub up: bool,
    /// Something answers at the other end of the wire.
    pub carrier: bool,
}

/// A VF of a PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfInfo {
    /// Where it sits; this is what it is known by.
    pub address: PciAddress,
    /// Its number among the PF's VFs.
    pub number: u16,
}

/// Who has a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The borrower's name, for texts.
    pub guest: String,
    /// The network that lent it; `None`: the borrower named the device itself.
    pub network: Option<String>,
    /// The MAC that it has been given.
    pub mac: Option<MacAddress>,
}

/// What an update of a PF's VFs changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PfUpdate {
    /// VFs that are new, by number.
    pub appeared: Vec<PciAddress>,
    /// VFs that are gone, by number.
    pub vanished: Vec<PciAddress>,
    /// Those of them that are lent; their loans stay.
    pub vanished_while_lent: Vec<(PciAddress, Holder)>,
}

/// A device that is lent already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device} is lent to guest '{}'{}", .holder.guest, match &.holder.network { Some(network) => format!(" by network '{network}'"), None => String::new() })]
pub struct Taken {
    /// Which one.
    pub device: PciAddress,
    /// To whom.
    pub holder: Holder,
}

#[derive(Debug, Clone)]
pub(crate) struct Pf {
    pub(crate) address: PciAddress,
    pub(crate) netdev: String,
    pub(crate) numa_node: Option<u16>,
    pub(crate) max_vfs: u16,
    /// `None`: the PF is gone.
    pub(crate) health: Option<Health>,
    pub(crate) vfs: BTreeMap<u16, PciAddress>,
    /// The part of `vfs` that is neither lent nor withheld.
    pub(crate) free: BTreeMap<u16, PciAddress>,
    /// How many of `vfs` are lent.
    pub(crate) lent: usize,
    /// MACs of the lent ones.
    pub(crate) macs: BTreeSet<(MacAddress, PciAddress)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Vf {
    pub(crate) pf: usize,
    pub(crate) number: u16,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells what a PF is and which VFs it has now, all of them; tells back what changed.
    pub fn set_pf(&mut self, info: &PfInfo, vfs: &[VfInfo]) -> PfUpdate {
        let place = self.place_of(info.address);
        let pf = &mut self.pfs[place];
        pf.netdev.clone_from(&info.netdev);
        pf.numa_node = info.numa_node;
        pf.max_vfs = info.max_vfs;
        pf.health = Some(info.health);
        self.replace_vfs(place, vfs)
    }

    /// A PF is gone, and with it its VFs. Networks that name it wait for its return.
    pub fn remove_pf(&mut self, address: PciAddress) -> PfUpdate {
        let Some(&place) = self.pf_places.get(&address) else {
            return PfUpdate::default();
        };
        self.pfs[place].health = None;
        self.replace_vfs(place, &[])
    }

    /// A PF's link changed. An unknown PF is none of ours.
    pub fn set_health(&mut self, pf: PciAddress, health: Health) {
        if let Some(&place) = self.pf_places.get(&pf) {
            let pf = &mut self.pfs[place];
            if pf.health.is_some() {
                pf.health = Some(health);
            }
        }
    }

    /// Lends a device, which need not be one that a network lends or that is there at all.
    pub fn claim(&mut self, device: PciAddress, holder: Holder) -> Result<(), Taken> {
        if let Some(other) = self.loans.get(&device) {
            return Err(Taken {
                device,
                holder: other.clone(),
            });
        }
        self.detach(device);
        self.loans.insert(device, holder);
        self.attach(device);
        Ok(())
    }

    /// Takes a device back; whose it was.
    pub fn release(&mut self, device: PciAddress) -> Option<Holder> {
        self.detach(device);
        let holder = self.loans.remove(&device);
        self.attach(device);
        holder
    }

    /// Keeps a device from being chosen, for that reason: it could not be cleaned, say.
    pub fn withhold(&mut self, device: PciAddress, reason: impl Into<String>) {
        self.detach(device);
        self.withheld.insert(device, reason.into());
        self.attach(device);
    }

    /// Ends [`Pool::withhold`].
    pub fn readmit(&mut self, device: PciAddress) {
        self.detach(device);
        self.withheld.remove(&device);
        self.attach(device);
    }

    /// Who has a device.
    #[must_use]
    pub fn holder(&self, device: PciAddress) -> Option<&Holder> {
        self.loans.get(&device)
    }

    /// All loans, in no order.
    pub fn loans(&self) -> impl Iterator<Item = (PciAddress, &Holder)> {
        self.loans.iter().map(|(device, holder)| (*device, holder))
    }

    /// The PF that a VF belongs to, and its number there.
    #[must_use]
    pub fn vf(&self, device: PciAddress) -> Option<(PciAddress, u16)> {
        let vf = self.vfs.get(&device)?;
        Some((self.pfs[vf.pf].address, vf.number))
    }

    /// The VFs of a PF, by number.
    pub fn vfs_of(&self, pf: PciAddress) -> impl Iterator<Item = VfInfo> {
        let place = self.pf_places.get(&pf);
        let vfs = place.map(|&place| &self.pfs[place].vfs);
        vfs.into_iter()
            .flatten()
            .map(|(&number, &address)| VfInfo { address, number })
    }

    /// The PF's place, made if it is new. Its other fields hold nothing until it is there.
    pub(crate) fn place_of(&mut self, address: PciAddress) -> usize {
        let next = self.pfs.len();
        let place = *self.pf_places.entry(address).or_insert(next);
        if place == next {
            self.pfs.push(Pf {
                address,
                netdev: address.to_string(),
                numa_node: None,
                max_vfs: 0,
                health: None,
                vfs: BTreeMap::new(),
                free: BTreeMap::new(),
                lent: 0,
                macs: BTreeSet::new(),
            });
        }
        place
    }

    fn replace_vfs(&mut self, place: usize, vfs: &[VfInfo]) -> PfUpdate {
        let wanted: BTreeMap<u16, PciAddress> =
            vfs.iter().map(|vf| (vf.number, vf.address)).collect();
        let mut update = PfUpdate::default();
        let gone: Vec<_> = (self.pfs[place].vfs.iter())
            .filter(|(number, address)| wanted.get(number) != Some(address))
            .map(|(&number, &address)| (number, address))
            .collect();
        for (number, address) in gone {
            self.detach(address);
            self.vfs.remove(&address);
            self.pfs[place].vfs.remove(&number);
            update.vanished.push(address);
            if let Some(holder) = self.loans.get(&address) {
                update.vanished_while_lent.push((address, holder.clone()));
            }
        }
        for (number, address) in wanted {
            if self.pfs[place].vfs.contains_key(&number) {
                continue;
            }
            // An address that another PF still lists was renumbered: the latest word holds.
            if let Some(old) = self.vfs.get(&address).copied() {
                self.detach(address);
                self.pfs[old.pf].vfs.remove(&old.number);
            }
            self.vfs.insert(address, Vf { pf: place, number });
            self.pfs[place].vfs.insert(number, address);
            self.attach(address);
            update.appeared.push(address);
        }
        update
    }

    /// Takes a VF out of every index that depends on loans, before these change.
    fn detach(&mut self, device: PciAddress) {
        let Some(&Vf { pf, number }) = self.vfs.get(&device) else {
            return;
        };
        let pf_entry = &mut self.pfs[pf];
        pf_entry.free.remove(&number);
        if let Some(holder) = self.loans.get(&device) {
            pf_entry.lent -= 1;
            if let Some(mac) = holder.mac {
                pf_entry.macs.remove(&(mac, device));
            }
        }
        for name in self.listed_by.get(&device).into_iter().flatten() {
            if let Some(network) = self.networks.get_mut(name) {
                network.remove_free(device, pf);
            }
        }
    }

    /// The reverse of [`Pool::detach`], after the change.
    pub(crate) fn attach(&mut self, device: PciAddress) {
        let Some(&Vf { pf, number }) = self.vfs.get(&device) else {
            return;
        };
        let pf_entry = &mut self.pfs[pf];
        if let Some(holder) = self.loans.get(&device) {
            pf_entry.lent += 1;
            if let Some(mac) = holder.mac {
                pf_entry.macs.insert((mac, device));
            }
            return;
        }
        if self.withheld.contains_key(&device) {
            return;
        }
        pf_entry.free.insert(number, device);
        for name in self.listed_by.get(&device).into_iter().flatten() {
            if let Some(network) = self.networks.get_mut(name) {
                network.add_free(device, pf);
            }
        }
    }
}
