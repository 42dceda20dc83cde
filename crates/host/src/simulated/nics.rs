//! What a test does to the simulated host's network devices behind the daemon's back.

use conf::{DirectMode, MacAddress, NetdevName, PciAddress};

use super::net::Made;
use super::state::{Binding, Place, Plain};
use super::{NIC_DRIVER, SimulatedHost};
use crate::{Counters, HostEvent, Netdev, Usage};

/// IOMMU groups of NICs without VFs: beyond all others.
const FIRST_NIC_GROUP: u32 = 1_000_000;

impl SimulatedHost {
    /// Gives the host a NIC without VFs: a PCI function with that network device, down. `None`: the
    /// name is taken, or can't be one.
    pub fn add_nic(&self, name: &str) -> Option<Netdev> {
        let name: NetdevName = name.parse().ok()?;
        let mut state = self.lock();
        let count = u16::try_from(state.plain.len()).ok()?;
        let slot = u8::try_from(count / 8).ok()?;
        let function = u8::try_from(count % 8).ok()?;
        let address = PciAddress::new(0, 0, slot, function)?;
        if !state.is_free(name.as_str()) {
            return None;
        }
        let plain = Plain {
            binding: Binding {
                driver: Some(NIC_DRIVER.into()),
                driver_override: None,
            },
            group: FIRST_NIC_GROUP + u32::from(count),
            ordinary: NIC_DRIVER.into(),
            nic: Some(name),
        };
        state.plain.insert(address, plain);
        state.places.insert(address, Place::Plain);
        state.watchers.send(&HostEvent::PciAdded(address));
        state.nic_appears(address);
        let index = state.index_of(name.as_str())?;
        state.netdev_at(index)
    }

    /// Gives the host a bridge, up. It filters VLANs.
    pub fn add_bridge(&self, name: &str) -> Option<Netdev> {
        self.add_netdev(name, "bridge", None)
    }

    /// Gives the host a bond, up, with those members; unknown ones are left out.
    pub fn add_bond(&self, name: &str, members: &[&str]) -> Option<Netdev> {
        let bond = self.add_netdev(name, "bond", None)?;
        let mut state = self.lock();
        for member in members {
            if let Some(member) = state.index_of(member) {
                state.put_into(member, Some(bond.index));
            }
        }
        Some(bond)
    }

    /// Gives the host a device of that kind (`vlan`, `veth`, `dummy`, `macvtap` …), up, on that
    /// other one. `None`: the name is taken, or can't be one, or there is nothing to sit on.
    pub fn add_netdev(&self, name: &str, kind: &str, lower: Option<&str>) -> Option<Netdev> {
        let name: NetdevName = name.parse().ok()?;
        let mut state = self.lock();
        if !state.is_free(name.as_str()) {
            return None;
        }
        let lower = match lower {
            Some(lower) => Some(state.index_of(lower)?),
            None => None,
        };
        let mac = state.random_mac();
        let is_macvlan = matches!(kind, "macvtap" | "macvlan");
        let index = state.add_made(Made {
            name,
            kind: Some(kind.to_owned()),
            mac,
            lower,
            mode: is_macvlan.then_some(DirectMode::Bridge),
            vlan: None,
            alias: None,
            pci: None,
            users: None,
            lasting: true,
        });
        if let Some(mtu) = lower.and_then(|lower| state.link_of(lower)).map(|l| l.mtu) {
            state.put_mtu(index, mtu);
        }
        state.change(index, |common| common.up = true);
        state.netdev_at(index)
    }

    /// Takes a network device that was added, or made for a guest, away; a NIC's with its PCI
    /// function. What sits on it goes as well.
    pub fn remove_netdev(&self, name: &str) {
        let mut state = self.lock();
        let Some(index) = state.index_of(name) else {
            return;
        };
        let pci = state.remove_made(index).and_then(|made| made.pci);
        if let Some(address) = pci {
            state.plain.remove(&address);
            state.places.remove(&address);
            state.watchers.send(&HostEvent::PciRemoved(address));
        }
    }

    /// Renames a network device, other than a PF's or VF's, to a name that is free.
    pub fn rename_netdev(&self, name: &str, to: &str) {
        let mut state = self.lock();
        let free = to.parse().ok().filter(|_| state.is_free(to));
        if let (Some(index), Some(to)) = (state.index_of(name), free) {
            state.rename_made(index, to);
        }
    }

    /// Gives a network device one more name.
    pub fn add_alternative_name(&self, netdev: &str, name: &str) {
        let mut state = self.lock();
        if let Some(index) = state.index_of(netdev)
            && state.is_free(name)
        {
            state.add_alternative_name(index, name);
        }
    }

    /// Puts a network device up or down, as an administrator does.
    pub fn put_up(&self, netdev: &str, up: bool) {
        let mut state = self.lock();
        let Some(index) = state.index_of(netdev) else {
            return;
        };
        match state.pci_of(super::state::Target::Netdev(index)) {
            Some(address) if state.places.get(&address).is_some_and(is_pf) => {
                drop(state);
                self.set_pf_up(address, up);
            }
            _ => {
                state.change(index, |common| common.up = up);
                state.vlans_follow(index, up);
                state.netdev_changed(index);
            }
        }
    }

    /// Puts a network device into a bridge or bond, or out of it, as an administrator does.
    pub fn put_into(&self, netdev: &str, master: Option<&str>) {
        let mut state = self.lock();
        let master = master.and_then(|master| state.index_of(master));
        if let Some(index) = state.index_of(netdev) {
            state.put_into(index, master);
        }
    }

    /// Removes a device's alias, or gives it another one.
    pub fn set_alias(&self, netdev: &str, alias: Option<&str>) {
        let mut state = self.lock();
        if let Some(index) = state.index_of(netdev)
            && let Some(made) = state.made_mut(index)
        {
            made.alias = alias.map(str::to_owned);
            state.netdev_changed(index);
        }
    }

    /// Lets the host use a network device, other than a VF's, in those ways; none: it leaves it
    /// alone.
    pub fn set_netdev_usage(&self, netdev: &str, usages: Vec<Usage>) {
        let mut state = self.lock();
        if let Some(index) = state.index_of(netdev) {
            state.net.usages.insert(index, usages);
            state.netdev_changed(index);
        }
    }

    /// What went through a network device.
    pub fn set_netdev_counters(&self, netdev: &str, counters: Counters) {
        let mut state = self.lock();
        if let Some(index) = state.index_of(netdev) {
            state.net.counters.insert(index, counters);
        }
    }

    /// Whether there is `/dev/vhost-net`; at first there is.
    pub fn set_vhost(&self, is_there: bool) {
        self.lock().net.without_vhost = !is_there;
    }

    /// How a macvtap's frames reach others.
    #[must_use]
    pub fn macvlan_mode(&self, netdev: &str) -> Option<DirectMode> {
        let state = self.lock();
        let index = state.index_of(netdev)?;
        state.made(index)?.mode
    }

    /// The MACs that a bridge's table has, statically, behind a port.
    #[must_use]
    pub fn bridge_macs(&self, port: &str) -> Vec<MacAddress> {
        let state = self.lock();
        let index = state.index_of(port);
        let behind = state.net.tables.iter().filter(|(at, _)| Some(*at) == index);
        behind.map(|(_, mac)| *mac).collect()
    }
}

fn is_pf(place: &Place) -> bool {
    matches!(place, Place::Pf(_))
}
