//! What a test does to the simulated host behind the daemon's back.

use std::borrow::Cow;

use conf::PciAddress;

use super::state::{Binding, Place, Plain, Vf, is_vfio, pf_ifindex, pf_netdev};
use super::{Effect, Fault, Quirks, SimulatedHost};
use crate::{HostEvent, LinkState, NodeAccess, Usage};

impl SimulatedHost {
    /// Lets a failure happen.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.add(fault);
    }

    /// No fault waits any more.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Faults that have not hit yet, lasting ones apart: 0 tells a test that its fault did happen.
    #[must_use]
    pub fn waiting_faults(&self) -> usize {
        self.lock().faults.waiting()
    }

    /// Stops the caller after that many more effects: the last of them does happen, but the call
    /// that made it does not return, nor does any later one: they unwind with a
    /// [`super::SimulatedCrash`] (during an unwinding they fail with ESHUTDOWN). 0: at the next call.
    pub fn crash_after(&self, effects: u64) {
        let mut state = self.lock();
        state.crashed = effects == 0;
        state.effects_until_crash = (effects > 0).then_some(effects);
    }

    /// The caller was started again after a crash; the host is as the crash left it.
    pub fn restart_caller(&self) {
        let mut state = self.lock();
        state.crashed = false;
        state.effects_until_crash = None;
    }

    /// Another boot: another boot id; VFs made anew in the same number, on their ordinary driver.
    pub fn reboot(&self) {
        self.restart_caller();
        let mut state = self.lock();
        state.boot += 1;
        state.held_groups.clear();
        state.vfio_nodes.clear();
        state.usages.clear();
        state.usb_usages.clear();
        state.qos.reboot();
        state.forget_links();
        for pf in 0..state.shape.pfs {
            let count = state.vf_count(pf);
            state.make_vfs(pf, count);
        }
    }

    /// How many changes were made to the host so far.
    #[must_use]
    pub fn effect_count(&self) -> u64 {
        self.lock().effect_count
    }

    /// The changes made to the host so far, the last 1,024 of them.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        self.lock().effects.iter().cloned().collect()
    }

    /// Forgets the changes made so far.
    pub fn clear_effects(&self) {
        self.lock().effects.clear();
    }

    /// Makes the PFs' driver another one.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.lock().quirks = quirks;
    }

    /// Changes a PF's link. No PF at that address: nothing.
    pub fn set_pf_link(&self, pf: PciAddress, link: LinkState) {
        let mut state = self.lock();
        if let Some(Place::Pf(index)) = state.places.get(&pf).copied() {
            let pf = &mut state.pfs[usize::from(index)];
            pf.link = link;
            pf.cable = link.carrier || !link.up;
            state.vlans_follow(pf_ifindex(index), link.up);
            state.watchers.send(&HostEvent::LinkChanged {
                ifindex: pf_ifindex(index),
                netdev: pf_netdev(index),
            });
        }
    }

    /// Brings a PF up, with carrier, or down.
    pub fn set_pf_up(&self, pf: PciAddress, up: bool) {
        self.set_pf_link(
            pf,
            LinkState {
                up,
                carrier: up,
                mtu: 1500,
            },
        );
    }

    /// Lets the host use a VF in those ways; none: it leaves it alone.
    pub fn set_usage(&self, vf: PciAddress, usages: Vec<Usage>) {
        let mut state = self.lock();
        if usages.is_empty() {
            state.usages.remove(&vf);
        } else {
            state.usages.insert(vf, usages);
        }
        if let Some(Place::Vf(pf, number)) = state.places.get(&vf).copied() {
            state.link_changed(pf, number);
        }
    }

    /// A process opens the vfio group of that device, or closes it. While it is open the device
    /// can't be unbound from vfio (EBUSY).
    pub fn hold_vfio(&self, device: PciAddress, open: bool) {
        let mut state = self.lock();
        if let Ok(group) = state.group(device) {
            if open {
                state.held_groups.insert(group);
            } else {
                state.held_groups.remove(&group);
            }
        }
    }

    /// Who may open the node of that device's IOMMU group; `None`: there is none.
    #[must_use]
    pub fn vfio_access_of(&self, device: PciAddress) -> Option<NodeAccess> {
        let mut state = self.lock();
        let group = state.group(device).ok()?;
        state.vfio_access(group)
    }

    /// Somebody else changes who may open the node of that device's IOMMU group.
    pub fn set_vfio_access_of(&self, device: PciAddress, access: NodeAccess) {
        let mut state = self.lock();
        if let Ok(group) = state.group(device) {
            state.vfio_nodes.insert(group, access);
        }
    }

    /// Puts one more device, with that driver, into the IOMMU group of a VF; tells where it sits.
    pub fn add_group_member(&self, vf: PciAddress, driver: Option<&str>) -> Option<PciAddress> {
        let mut state = self.lock();
        let group = state.group(vf).ok()?;
        let count = u16::try_from(state.plain.len()).ok()?;
        let slot = u8::try_from(count / 8).ok()?;
        let function = u8::try_from(count % 8).ok()?;
        let address = PciAddress::new(0, 0, slot, function)?;
        let binding = Binding {
            driver: driver.map(|name| name.to_owned().into()),
            driver_override: None,
        };
        let plain = Plain {
            ordinary: (binding.driver.clone()).unwrap_or(Cow::Borrowed(super::NIC_DRIVER)),
            binding,
            group,
            nic: None,
        };
        state.plain.insert(address, plain);
        state.places.insert(address, Place::Plain);
        let members = state.shared_groups.entry(group).or_insert_with(|| vec![vf]);
        members.push(address);
        state.watchers.send(&HostEvent::PciAdded(address));
        Some(address)
    }

    /// Puts two devices into one IOMMU group, the first one's.
    pub fn share_group(&self, first: PciAddress, second: PciAddress) {
        let mut state = self.lock();
        if let Ok(group) = state.group(first) {
            let members = state
                .shared_groups
                .entry(group)
                .or_insert_with(|| vec![first]);
            if !members.contains(&second) {
                members.push(second);
            }
        }
    }

    /// Switches the IOMMU off or on.
    pub fn set_iommu(&self, on: bool) {
        self.lock().iommu = on;
    }

    /// The vfio variant driver that fits this host's VFs better than vfio-pci.
    pub fn set_variant_driver(&self, driver: Option<&str>) {
        self.lock().variant = driver.map(str::to_owned);
    }

    /// That driver will not take that device.
    pub fn refuse_driver(&self, device: PciAddress, driver: &str) {
        self.lock().refusals.insert((device, driver.to_owned()));
    }

    /// Binds a device as an administrator does by hand, with `driver_override` left behind.
    pub fn bind_by_hand(&self, device: PciAddress, driver: Option<&str>) {
        let mut state = self.lock();
        let mac = state.random_mac();
        if let Ok((pf, number)) = state.vf_place(device) {
            state.vf_netdev_gone(pf, number);
        }
        let ordinary = driver == Some(super::VF_DRIVER);
        if let Ok(Some(binding)) = state.binding(device) {
            *binding = Binding {
                driver: driver.map(|name| name.to_owned().into()),
                driver_override: (driver.filter(|name| is_vfio(name)))
                    .map(|name| name.to_owned().into()),
            };
        }
        if let Ok(vf) = state.vf(device) {
            vf.netdev_mac = ordinary.then_some(mac);
        }
        state.watchers.send(&HostEvent::PciDriverChanged(device));
    }

    /// A VF vanishes.
    pub fn remove_vf(&self, vf: PciAddress) {
        let mut state = self.lock();
        if let Ok((pf, number)) = state.vf_place(vf) {
            state.vf_netdev_gone(pf, number);
            state.pfs[usize::from(pf)].vfs[usize::from(number)] = None;
            state.places.remove(&vf);
            state.usages.remove(&vf);
            state.watchers.send(&HostEvent::PciRemoved(vf));
        }
    }

    /// A VF that vanished is back, fresh.
    pub fn restore_vf(&self, pf: PciAddress, number: u16) {
        let mut state = self.lock();
        let Some(Place::Pf(index)) = state.places.get(&pf).copied() else {
            return;
        };
        let mac = state.random_mac();
        let slot = state.pfs[usize::from(index)]
            .vfs
            .get_mut(usize::from(number));
        if let Some(slot @ None) = slot {
            *slot = Some(Vf::fresh(mac));
            let address = state.shape.vf_address(index, number);
            state.places.insert(address, Place::Vf(index, number));
            state.watchers.send(&HostEvent::PciAdded(address));
        }
    }
}
