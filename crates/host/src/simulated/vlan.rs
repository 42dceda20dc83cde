//! VLAN devices as a simulated kernel has them.

use super::SimulatedHost;
use super::links::finish;
use super::net::Made;
use super::state::{State, Stop, Target};
use crate::{HostError, LinkType, Netdev, Operation, VlanId, VlanSpec};

const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
const ENETDOWN: i32 = rustix::io::Errno::NETDOWN.raw_os_error();

impl SimulatedHost {
    /// Gives the host a VLAN device on that one, up if that is up. `None`: the name is taken, or
    /// can't be one, or the VLAN has a device, or there is nothing to sit on.
    pub fn add_vlan(&self, name: &str, lower: &str, id: VlanId) -> Option<Netdev> {
        let name = name.parse().ok()?;
        let mut state = self.lock();
        let lower = state.index_of(lower)?;
        let is_taken = state.vlans_on(lower).any(|(_, other)| other == id);
        if is_taken || !state.is_free(&String::from(name)) {
            return None;
        }
        let index = state.add_vlan(name, lower, id, true);
        let up = state.link_of(lower).is_some_and(|link| link.up);
        state.change(index, |common| common.up = up);
        state.netdev_at(index)
    }

    pub(super) fn vlan(&self, spec: &VlanSpec) -> Result<Netdev, HostError> {
        let operation = Operation::MakeVlan;
        self.on(operation, spec.lower, |state, _, partial| {
            let refused = |state: &State, errno| {
                let target = Target::Named(spec.name);
                Err(Stop::from(state.kernel(operation, target, errno)))
            };
            let below = state.netdev_at(spec.lower);
            if below.is_none_or(|below| below.link_type != LinkType::Ethernet) {
                return refused(state, EOPNOTSUPP);
            }
            let is_taken = state.vlans_on(spec.lower).any(|(_, id)| id == spec.id);
            if is_taken || !state.is_free(spec.name.as_str()) {
                return refused(state, EEXIST);
            }
            let index = state.add_vlan(spec.name, spec.lower, spec.id, false);
            finish(state, index, spec.name, &spec.tag, partial)
        })
    }
}

impl State {
    fn add_vlan(&mut self, name: conf::NetdevName, lower: u32, id: VlanId, lasting: bool) -> u32 {
        let mac = self.mac_of(lower).unwrap_or(conf::MacAddress::ZERO);
        let mtu = self.link_of(lower).map(|link| link.mtu);
        let index = self.add_made(Made {
            name,
            kind: Some(String::from("vlan")),
            mac,
            lower: Some(lower),
            mode: None,
            vlan: Some(id),
            alias: None,
            pci: None,
            users: None,
            lasting,
        });
        if let Some(mtu) = mtu {
            self.put_mtu(index, mtu);
        }
        index
    }

    /// Why a device can't be switched on: a VLAN is up only while the device below is.
    pub(super) fn up_refusal(&self, index: u32, up: bool) -> Option<i32> {
        let lower = self.made(index).filter(|made| made.vlan.is_some())?.lower?;
        let is_up = self.link_of(lower).is_some_and(|link| link.up);
        (up && !is_up).then_some(ENETDOWN)
    }

    /// VLANs go up and down with the device below.
    pub(super) fn vlans_follow(&mut self, lower: u32, up: bool) {
        let vlans: Vec<_> = self.vlans_on(lower).map(|(index, _)| index).collect();
        for index in vlans {
            self.change(index, |common| common.up = up);
            self.netdev_changed(index);
            self.vlans_follow(index, up);
        }
    }
}
