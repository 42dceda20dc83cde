//! What is so, with nothing derived from it; and the rules of the choice, spelled out over all
//! devices.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]
#![allow(unreachable_pub, missing_docs, reason = "for the tests beside it only")]

use std::collections::{BTreeMap, BTreeSet};

use conf::{DeviceId, NumaPolicy, PciAddress, Spread};
use pool::{
    Health, Holder, Members, NetworkSpec, NicInfo, PfInfo, Request, ShareId, Sharing, VfInfo,
};

pub type Outcome = Vec<(DeviceId, Holder)>;

#[derive(Default)]
pub struct Model {
    pub pfs: BTreeMap<PciAddress, (PfInfo, Vec<VfInfo>)>,
    pub nics: BTreeMap<DeviceId, NicInfo>,
    pub whole: BTreeMap<DeviceId, Holder>,
    pub shares: Vec<(ShareId, DeviceId, Holder)>,
    pub withheld: BTreeSet<DeviceId>,
    pub networks: BTreeMap<&'static str, NetworkSpec>,
    /// Whether the last claim or share was given.
    pub took: bool,
}

impl Model {
    /// VFs get their numbers by their place in the list.
    pub fn set_pf(
        &mut self,
        info: &PfInfo,
        vfs: impl Iterator<Item = (PciAddress, bool)>,
    ) -> Vec<VfInfo> {
        let vfs = vfs.enumerate().map(|(number, (address, named))| VfInfo {
            address,
            number: number.try_into().unwrap(),
            netdev: named.then(|| "any1".parse().unwrap()),
        });
        let vfs: Vec<_> = vfs.collect();
        self.pfs.insert(info.address, (info.clone(), vfs.clone()));
        vfs
    }

    pub fn set_health(&mut self, device: DeviceId, health: Health) {
        if let Some((info, _)) = device.pci().and_then(|pf| self.pfs.get_mut(&pf)) {
            info.health = health;
        }
        if let Some(nic) = self.nics.get_mut(&device) {
            nic.health = health;
        }
    }

    pub fn claim(&mut self, device: DeviceId, holder: Holder) {
        self.took = self.connections(device) == 0;
        if self.took {
            self.whole.insert(device, holder);
        }
    }

    pub fn share(&mut self, device: DeviceId, holder: Holder, id: Option<ShareId>) {
        self.took = !self.whole.contains_key(&device);
        if let (true, Some(id)) = (self.took, id) {
            self.shares.push((id, device, holder));
        }
    }

    pub fn holders(&self, device: DeviceId) -> Vec<Holder> {
        let mut shares: Vec<_> = (self.shares.iter())
            .filter(|(_, of, _)| *of == device)
            .collect();
        shares.sort_by_key(|(id, ..)| *id);
        let shares = shares.into_iter().map(|(_, _, holder)| holder);
        self.whole
            .get(&device)
            .into_iter()
            .chain(shares)
            .cloned()
            .collect()
    }

    pub fn connections(&self, device: DeviceId) -> usize {
        self.holders(device).len()
    }

    pub fn present(&self) -> BTreeSet<DeviceId> {
        let vfs = self.pfs.values().flat_map(|(_, vfs)| vfs);
        let vfs = vfs.map(|vf| DeviceId::from(vf.address));
        vfs.chain(self.nics.keys().copied()).collect()
    }

    fn vf(&self, device: DeviceId) -> Option<(&PfInfo, &VfInfo)> {
        self.pfs.values().find_map(|(info, vfs)| {
            let vf = vfs.iter().find(|vf| Some(vf.address) == device.pci())?;
            Some((info, vf))
        })
    }

    /// What a network names, present or not: the order of the card, of the device, and which.
    fn members(&self, spec: &NetworkSpec) -> Vec<(usize, usize, DeviceId)> {
        let mut all: Vec<(usize, usize, DeviceId)> = Vec::new();
        let mut add = |card, order, device| {
            if !all.iter().any(|(_, _, other)| *other == device) {
                all.push((card, order, device));
            }
        };
        match &spec.members {
            Members::PhysicalFunctions(pfs) => {
                for (card, pf) in pfs.iter().enumerate() {
                    for vf in self.pfs.get(pf).iter().flat_map(|(_, vfs)| vfs) {
                        add(card, card, vf.address.into());
                    }
                }
            }
            Members::Devices(devices) => {
                for (order, device) in devices.iter().enumerate() {
                    add(order, order, *device);
                }
                // A card's place is that of the first of its devices that could be had.
                let pf_of = |device| self.vf(device).map(|(info, _)| info.address);
                let open: Vec<_> = all
                    .iter()
                    .copied()
                    .filter(|m| self.is_free(spec, m.2))
                    .collect();
                for (card, _, device) in &mut all {
                    if let Some(pf) = pf_of(*device)
                        && let Some((first, ..)) = open.iter().find(|m| pf_of(m.2) == Some(pf))
                    {
                        *card = *first;
                    }
                }
            }
        }
        all
    }

    fn is_free(&self, spec: &NetworkSpec, device: DeviceId) -> bool {
        let named = match self.vf(device) {
            Some((_, vf)) => vf.netdev.is_some(),
            None if self.nics.contains_key(&device) => true,
            None => return false,
        };
        let in_use = match spec.sharing {
            Sharing::Exclusive => self.connections(device) > 0,
            Sharing::Shared => self.whole.contains_key(&device),
        };
        !in_use && !self.withheld.contains(&device) && (named || !spec.needs_netdev)
    }

    pub fn free(&self, network: &str) -> Vec<DeviceId> {
        let Some(spec) = self.networks.get(network) else {
            return Vec::new();
        };
        let members = self.members(spec).into_iter().map(|(_, _, device)| device);
        members
            .filter(|device| self.is_free(spec, *device))
            .collect()
    }

    fn is_healthy(&self, spec: &NetworkSpec, device: DeviceId) -> bool {
        let (health, is_vf) = match self.vf(device) {
            Some((info, _)) => (info.health, true),
            None => (self.nics[&device].health, false),
        };
        (health.up || !is_vf) && (health.carrier || !spec.needs_carrier)
    }

    fn is_far(&self, spec: &NetworkSpec, device: DeviceId, request: &Request<'_>) -> bool {
        let node = match self.vf(device) {
            Some((info, _)) => info.numa_node,
            None => self.nics[&device].numa_node,
        };
        spec.numa != NumaPolicy::Ignore
            && !request.numa_nodes.is_empty()
            && node.is_some_and(|node| !request.numa_nodes.contains(&node))
    }

    /// The PF behind which a device is, or else the device.
    fn space(&self, device: DeviceId) -> DeviceId {
        self.vf(device)
            .map_or(device, |(info, _)| info.address.into())
    }

    fn has_mac_clash(&self, device: DeviceId, request: &Request<'_>) -> bool {
        let space = self.space(device);
        let present = self.present();
        let neighbours = present.iter().filter(|other| self.space(**other) == space);
        let mut holders = neighbours.flat_map(|other| {
            let is_pair = (*other == space) != (device == space);
            self.holders(*other)
                .into_iter()
                .map(move |holder| (is_pair, holder))
        });
        request.mac.is_some()
            && holders.any(|(is_pair, holder)| {
                holder.mac == request.mac && !(is_pair && holder.guest == request.guest)
            })
    }

    /// How much is lent of the card that a device is on.
    fn load(&self, device: DeviceId) -> usize {
        match self.vf(device) {
            None => self.connections(device),
            Some((info, _)) => {
                let (_, vfs) = &self.pfs[&info.address];
                vfs.iter()
                    .map(|vf| self.connections(vf.address.into()))
                    .sum()
            }
        }
    }

    pub fn choice(&self, request: &Request<'_>) -> Option<DeviceId> {
        let spec = self.networks.get(request.network)?;
        let fit = self.members(spec).into_iter().filter(|&(_, _, device)| {
            self.is_free(spec, device)
                && self.is_healthy(spec, device)
                && !request.exclude.contains_key(&device)
                && !(spec.numa == NumaPolicy::Require && self.is_far(spec, device, request))
                && !self.has_mac_clash(device, request)
        });
        let best = fit.min_by_key(|&(card, order, device)| {
            let far = self.is_far(spec, device, request);
            let number = self.vf(device).map(|(_, vf)| vf.number);
            let connections = self.connections(device);
            match (spec.sharing, spec.spread) {
                (Sharing::Exclusive, Spread::Balance) => {
                    (far, self.load(device), order, 0, order, number)
                }
                (Sharing::Exclusive, Spread::Pack) => (far, order, 0, 0, order, number),
                (Sharing::Shared, Spread::Balance) => {
                    (far, connections, self.load(device), order, order, number)
                }
                (Sharing::Shared, Spread::Pack) => (far, card, connections, 0, order, number),
            }
        });
        best.map(|(_, _, device)| device)
    }
}
