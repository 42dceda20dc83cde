//! The ordered sets that a choice is made from, kept up to date at every change.

use conf::{DeviceId, MacAddress, NetdevName};

use crate::Pool;
use crate::loans::{MacUse, ShareId, Uses};

/// All that the sets depend on, of one device that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) home: Home,
    /// Its network device, if it has one.
    pub(crate) netdev: Option<NetdevName>,
    /// Lent whole.
    pub(crate) lent: bool,
    pub(crate) withheld: bool,
    /// Shares in it.
    pub(crate) connections: usize,
}

/// What a device hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// A VF: its PF's place, and its number there.
    Vf { pf: usize, number: u16 },
    /// Any other device: on its own.
    Nic {
        numa_node: Option<u16>,
        carrier: bool,
    },
}

impl Standing {
    /// Whether a network could lend it, or a share in it.
    pub(crate) fn is_open(&self) -> bool {
        !self.lent && !self.withheld
    }
}

impl Pool {
    /// `None`: the device is not there. What is a VF is looked at as a VF only.
    pub(crate) fn standing(&self, device: DeviceId) -> Option<Standing> {
        let vf = device.pci().and_then(|address| self.vfs.get(&address));
        let (home, netdev) = match vf {
            Some(vf) => {
                let (pf, number) = (vf.pf, vf.number);
                (Home::Vf { pf, number }, vf.netdev)
            }
            None => {
                let nic = self.nics.get(&device)?;
                let home = Home::Nic {
                    numa_node: nic.numa_node,
                    carrier: nic.health.carrier,
                };
                (home, Some(nic.netdev))
            }
        };
        let uses = self.uses.get(&device);
        let (lent, connections) = match uses {
            None => (false, 0),
            Some(Uses::Whole(_)) => (true, 0),
            Some(Uses::Shared(shares)) => (false, shares.len()),
        };
        Some(Standing {
            home,
            netdev,
            lent,
            withheld: self.withheld.contains_key(&device),
            connections,
        })
    }

    /// Where MACs must differ: behind one PF, its own network device included; else on one device.
    pub(crate) fn mac_space(&self, device: DeviceId) -> Option<DeviceId> {
        match self.standing(device)?.home {
            Home::Vf { pf, .. } => Some(self.pfs[pf].address.into()),
            Home::Nic { .. } => Some(device),
        }
    }

    /// Changes something about a device's loans. Its MACs are for `change` to see to.
    pub(crate) fn change_loans<T>(
        &mut self,
        device: DeviceId,
        change: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.detach(device);
        let changed = change(self);
        self.attach(device);
        changed
    }

    /// Changes what a device is, or whether it is there.
    pub(crate) fn change_device(&mut self, device: DeviceId, change: impl FnOnce(&mut Self)) {
        let space = self.mac_space(device);
        self.detach(device);
        if let Some(space) = space {
            self.leave_space(space, device);
        }
        change(self);
        if let Some(space) = self.mac_space(device) {
            self.enter_space(space, device);
        }
        self.attach(device);
    }

    pub(crate) fn enter_mac(
        &mut self,
        device: DeviceId,
        share: Option<ShareId>,
        mac: Option<MacAddress>,
    ) {
        if let (Some(mac), Some(space)) = (mac, self.mac_space(device)) {
            let uses = self.macs.entry((space, mac)).or_default();
            uses.push(MacUse { device, share });
        }
    }

    pub(crate) fn leave_mac(
        &mut self,
        device: DeviceId,
        share: Option<ShareId>,
        mac: Option<MacAddress>,
    ) {
        if let (Some(mac), Some(space)) = (mac, self.mac_space(device)) {
            self.forget_mac(space, mac, MacUse { device, share });
        }
    }

    fn enter_space(&mut self, space: DeviceId, device: DeviceId) {
        for (share, mac) in self.uses.get(&device).into_iter().flat_map(Uses::macs) {
            let uses = self.macs.entry((space, mac)).or_default();
            uses.push(MacUse { device, share });
        }
    }

    fn leave_space(&mut self, space: DeviceId, device: DeviceId) {
        let macs: Vec<_> = (self.uses.get(&device).into_iter())
            .flat_map(Uses::macs)
            .collect();
        for (share, mac) in macs {
            self.forget_mac(space, mac, MacUse { device, share });
        }
    }

    fn forget_mac(&mut self, space: DeviceId, mac: MacAddress, gone: MacUse) {
        if let Some(uses) = self.macs.get_mut(&(space, mac)) {
            uses.retain(|other| *other != gone);
            if uses.is_empty() {
                self.macs.remove(&(space, mac));
            }
        }
    }

    /// Takes a device out of every set, before something changes that these depend on.
    fn detach(&mut self, device: DeviceId) {
        let Some(standing) = self.standing(device) else {
            return;
        };
        if let Home::Vf { pf, number } = standing.home {
            let pf = &mut self.pfs[pf];
            let key = (standing.connections, number.into());
            pf.open.remove(&key);
            pf.named.remove(&key);
            pf.lent -= usize::from(standing.lent);
            pf.connections -= standing.connections;
        }
        for name in self.listed_by.get(&device).into_iter().flatten() {
            if let Some(network) = self.networks.get_mut(name) {
                network.leave(device, &standing);
            }
        }
    }

    /// The reverse of [`Pool::detach`], after the change.
    fn attach(&mut self, device: DeviceId) {
        let Some(standing) = self.standing(device) else {
            return;
        };
        if let Home::Vf { pf, number } = standing.home {
            let pf = &mut self.pfs[pf];
            if standing.is_open() {
                let key = (standing.connections, number.into());
                pf.open.insert(key);
                if standing.netdev.is_some() {
                    pf.named.insert(key);
                }
            }
            pf.lent += usize::from(standing.lent);
            pf.connections += standing.connections;
        }
        for name in self.listed_by.get(&device).into_iter().flatten() {
            if let Some(network) = self.networks.get_mut(name) {
                network.enter(device, &standing);
            }
        }
    }
}
