//! What the host has: PFs with their VFs, and other network devices.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use conf::{DeviceId, MacAddress, NetdevName, PciAddress};
use serde::{Deserialize, Serialize};

use crate::loans::{Holder, MacUse, ShareId, Uses};
use crate::network::Network;

/// The host's devices, the networks that lend them, and who has which.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// A PF keeps its place for good, even while it is gone, so that networks can hold on to it.
    pub(crate) pfs: Vec<Pf>,
    pub(crate) pf_places: HashMap<PciAddress, usize>,
    pub(crate) vfs: HashMap<PciAddress, Vf>,
    pub(crate) nics: HashMap<DeviceId, NicInfo>,
    pub(crate) uses: HashMap<DeviceId, Uses>,
    pub(crate) shares: HashMap<ShareId, DeviceId>,
    pub(crate) last_share: u64,
    /// Who uses a MAC, by where it may be used once ([`Pool::mac_space`]).
    pub(crate) macs: HashMap<(DeviceId, MacAddress), Vec<MacUse>>,
    pub(crate) withheld: HashMap<DeviceId, String>,
    /// PFs of which nothing is lent any more.
    pub(crate) drained: BTreeSet<PciAddress>,
    /// How many VFs of a PF are promised; never 0.
    pub(crate) promised: HashMap<PciAddress, usize>,
    pub(crate) networks: BTreeMap<String, Network>,
    /// The networks that list a device by itself.
    pub(crate) listed_by: HashMap<DeviceId, Vec<String>>,
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

/// A network device that is lent or shared by itself: a NIC, a bond, a VLAN, a PF's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicInfo {
    /// What it is known by.
    pub device: DeviceId,
    /// Its name now.
    pub netdev: NetdevName,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
    /// Its link. One that is down can be lent: it is brought up for the guest.
    pub health: Health,
}

/// A network device's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Administratively up: without it, no VF of a PF works.
    pub up: bool,
    /// Something answers at the other end of the wire. Not told while it is down.
    pub carrier: bool,
}

/// A VF of a PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfInfo {
    /// Where it sits; this is what it is known by.
    pub address: PciAddress,
    /// Its number among the PF's VFs.
    pub number: u16,
    /// Its network device; `None`: its driver makes none, or it has no driver.
    pub netdev: Option<NetdevName>,
}

/// What an update of the host's devices changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Those that are new; VFs by number.
    pub appeared: Vec<DeviceId>,
    /// Those that are gone; VFs by number.
    pub vanished: Vec<DeviceId>,
    /// Those of them that someone has, once for each who has it; their loans stay.
    pub vanished_while_lent: Vec<(DeviceId, Holder)>,
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
    /// Those of `vfs` that are neither lent whole nor withheld: shares in it, and its number.
    pub(crate) open: BTreeSet<(usize, usize)>,
    /// The part of `open` that has network devices.
    pub(crate) named: BTreeSet<(usize, usize)>,
    /// How many of `vfs` are lent whole.
    pub(crate) lent: usize,
    /// Shares in all of `vfs`.
    pub(crate) connections: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Vf {
    pub(crate) pf: usize,
    pub(crate) number: u16,
    pub(crate) netdev: Option<NetdevName>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells what a PF is and which VFs it has now, all of them; tells back what changed.
    pub fn set_pf(&mut self, info: &PfInfo, vfs: &[VfInfo]) -> Update {
        let place = self.place_of(info.address);
        let pf = &mut self.pfs[place];
        pf.netdev.clone_from(&info.netdev);
        pf.numa_node = info.numa_node;
        pf.max_vfs = info.max_vfs;
        pf.health = Some(info.health);
        self.replace_vfs(place, vfs)
    }

    /// A PF is gone, and with it its VFs. Networks that name it wait for its return.
    pub fn remove_pf(&mut self, address: PciAddress) -> Update {
        let Some(&place) = self.pf_places.get(&address) else {
            return Update::default();
        };
        self.pfs[place].health = None;
        self.replace_vfs(place, &[])
    }

    /// Tells what a device is that is lent or shared by itself. One whose function is a VF of a
    /// known PF is that VF, and nothing else. A device known by its name that was renamed is
    /// another one.
    pub fn set_nic(&mut self, info: NicInfo) -> Update {
        let mut update = Update::default();
        if self.standing(info.device).is_none() {
            update.appeared.push(info.device);
        }
        if self.nics.get(&info.device) != Some(&info) {
            self.change_device(info.device, |pool| {
                pool.nics.insert(info.device, info);
            });
        }
        update
    }

    /// Such a device is gone. Networks that list it wait for its return.
    pub fn remove_nic(&mut self, device: impl Into<DeviceId>) -> Update {
        let device = device.into();
        let mut update = Update::default();
        if self.nics.contains_key(&device) {
            self.change_device(device, |pool| {
                pool.nics.remove(&device);
            });
            if self.standing(device).is_none() {
                self.tell_vanished(&mut update, device);
            }
        }
        update
    }

    /// The link of a PF or other device changed. An unknown one is none of ours.
    pub fn set_health(&mut self, device: impl Into<DeviceId>, health: Health) {
        let device = device.into();
        if let Some(&place) = device.pci().and_then(|pf| self.pf_places.get(&pf)) {
            let pf = &mut self.pfs[place];
            if pf.health.is_some() {
                pf.health = Some(health);
            }
        }
        if self.nics.contains_key(&device) {
            // Who uses it and its MACs stays as it is.
            self.change_loans(device, |pool| {
                if let Some(nic) = pool.nics.get_mut(&device) {
                    nic.health = health;
                }
            });
        }
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
        (vfs.into_iter().flatten()).map(|(&number, &address)| VfInfo {
            address,
            number,
            netdev: self.vfs.get(&address).and_then(|vf| vf.netdev),
        })
    }

    /// A device that is lent or shared by itself, as it was last told.
    #[must_use]
    pub fn nic(&self, device: impl Into<DeviceId>) -> Option<&NicInfo> {
        self.nics.get(&device.into())
    }

    /// The place of a PF, which need not be there yet.
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
                open: BTreeSet::new(),
                named: BTreeSet::new(),
                lent: 0,
                connections: 0,
            });
        }
        place
    }

    fn replace_vfs(&mut self, place: usize, vfs: &[VfInfo]) -> Update {
        let mut wanted: BTreeMap<u16, VfInfo> = vfs.iter().map(|vf| (vf.number, *vf)).collect();
        let mut seen = HashSet::new();
        wanted.retain(|_, vf| seen.insert(vf.address));
        let before: Vec<_> = self.pfs[place].vfs.clone().into_iter().collect();
        let known: HashSet<_> = before.iter().map(|(_, address)| *address).collect();

        for &(number, address) in &before {
            if wanted.get(&number).map(|vf| vf.address) != Some(address) {
                self.change_device(address.into(), |pool| pool.take_vf(address));
            }
        }
        let mut update = Update::default();
        for vf in wanted.into_values() {
            let device = DeviceId::from(vf.address);
            let is_new = !known.contains(&vf.address) && self.standing(device).is_none();
            let now = Vf {
                pf: place,
                number: vf.number,
                netdev: vf.netdev,
            };
            let was = self.vfs.get(&vf.address);
            if was.is_some_and(|was| {
                (was.pf, was.number, was.netdev) == (place, vf.number, vf.netdev)
            }) {
                continue;
            }
            self.change_device(device, |pool| {
                // Another PF may list it still: the latest word holds.
                pool.take_vf(vf.address);
                pool.vfs.insert(vf.address, now);
                pool.pfs[place].vfs.insert(vf.number, vf.address);
            });
            if is_new {
                update.appeared.push(device);
            }
        }
        for (_, address) in before {
            if self.standing(address.into()).is_none() {
                self.tell_vanished(&mut update, address.into());
            }
        }
        update
    }

    fn take_vf(&mut self, address: PciAddress) {
        if let Some(vf) = self.vfs.remove(&address) {
            self.pfs[vf.pf].vfs.remove(&vf.number);
        }
    }

    fn tell_vanished(&self, update: &mut Update, device: DeviceId) {
        update.vanished.push(device);
        let holders = self.holders(device).cloned();
        (update.vanished_while_lent).extend(holders.map(|holder| (device, holder)));
    }
}
