//! What happens on the host: VFs and NICs that come, go, or change.

use std::collections::BTreeSet;
use std::sync::mpsc;

use assign::{Generation, Holder, Item, Phase};
use conf::{DeviceId, MacAddress, NetdevName, PciAddress, UsbAddress, Uuid};
use host::{HostError, HostEvent, HostEvents, PhysicalFunction, PortAction};
use pool::Update;

use crate::error::chain;
use crate::ledger::Ledger;
use crate::state::{State, lock};

/// A lent device that is not there any more.
#[derive(Debug)]
pub struct Vanished {
    /// Who has it, or a part of it.
    pub holder: Holder,
    /// The claim on it.
    pub claim: Generation,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub(crate) struct HostChanges {
    everything: bool,
    pfs: BTreeSet<PciAddress>,
    names: BTreeSet<NetdevName>,
    /// USB devices that went.
    usb: BTreeSet<UsbAddress>,
    /// Port profiles that the switch ended: the guest's MAC, and the instance where it was told.
    profiles: Vec<(MacAddress, Option<Uuid>)>,
}

impl Ledger {
    /// Keeps the pool up to date with the host until the host says no more, and tells of each lent
    /// device that vanished. Blocks.
    ///
    /// HostChanges are read as they come and worked off in one go: making 254 VFs sends a thousand.
    pub fn follow(&self, events: Box<dyn HostEvents>, tell: impl Fn(Vanished)) {
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut events = events;
                while let Some(event) = events.next() {
                    if sender.send(event).is_err() {
                        break;
                    }
                }
            });
            while let Ok(event) = receiver.recv() {
                let mut changes = HostChanges::default();
                self.sort(event, &mut changes);
                while let Ok(event) = receiver.try_recv() {
                    self.sort(event, &mut changes);
                }
                self.work_off(changes, &tell);
            }
        });
    }

    /// What an event is about, as far as it matters to a running network.
    pub(crate) fn sort(&self, event: HostEvent, changes: &mut HostChanges) {
        use HostEvent as E;
        if changes.everything {
            return;
        }
        let of_vf = |state: &State, address| state.vfs.get(&address).map(|vf| vf.pf_address);
        match event {
            E::Lost => changes.everything = true,
            E::LinkChanged { ifindex, netdev } | E::LinkRemoved { ifindex, netdev } => {
                let state = lock(&self.state);
                let pfs = state.pfs.values();
                let its = pfs.filter(|pf| pf.ifindex == ifindex || pf.netdev == netdev);
                changes.pfs.extend(its.map(|pf| pf.address));
                if let Ok(name) = netdev.parse() {
                    changes.names.insert(name);
                }
            }
            E::PciAdded(address) => {
                // Which PF's it is, sysfs tells; the network device may still be on its way.
                let vf = self.host.virtual_function(address).ok();
                changes.pfs.extend(vf.map(|vf| vf.pf_address));
            }
            E::PciRemoved(address) => {
                let state = lock(&self.state);
                changes.pfs.extend(of_vf(&state, address));
                if state.pfs.contains_key(&address) {
                    changes.pfs.insert(address);
                }
            }
            E::UsbRemoved(address) => {
                changes.usb.insert(address);
            }
            E::PciDriverChanged(address) => {
                let state = lock(&self.state);
                let pf = of_vf(&state, address);
                changes.pfs.extend(pf.filter(|pf| state.needs_netdevs(*pf)));
            }
            E::UsbChanged(_) => {}
            E::PortDisassociated { mac, instance } => changes.profiles.push((mac, instance)),
        }
    }

    pub(crate) fn work_off(&self, changes: HostChanges, tell: &impl Fn(Vanished)) {
        let (pfs, names) = {
            let state = lock(&self.state);
            let concerned =
                |pf: &&PhysicalFunction| changes.everything || changes.pfs.contains(&pf.address);
            let pfs: Vec<_> = state.pfs.values().filter(concerned).cloned().collect();
            let listed = state.listed_names();
            let names: Vec<_> = (listed.into_iter())
                .filter(|name| changes.everything || changes.names.contains(name))
                .collect();
            (pfs, names)
        };
        for pf in pfs {
            let pf = self.present(pf, &changes.names);
            match self.look_at(&pf) {
                Ok(update) => {
                    self.tell_changes(&pf.netdev, update, tell);
                    self.look_again(pf.address);
                }
                Err(error) => {
                    tracing::debug!(pf = pf.netdev, error = chain(&error), "not looked at")
                }
            }
        }
        for name in names {
            self.follow_name(name, tell);
        }
        let lost = match changes.everything {
            true => self.lost_usb(),
            false => Vec::new(),
        };
        for address in changes.usb.into_iter().chain(lost) {
            self.usb_gone(address, tell);
        }
        for (mac, instance) in changes.profiles {
            self.associate_again(mac, instance);
        }
    }

    /// The switch forgot a guest's port profile: it is told again, whatever the macvtap's mode. Two
    /// guests may have one MAC in different VLANs, so the instance decides where it was told.
    fn associate_again(&self, mac: MacAddress, instance: Option<Uuid>) {
        let lines = self.assigner.list().into_iter();
        let its = lines.filter(|line| {
            let is_it = instance.is_none_or(|instance| line.instance == Some(instance));
            line.holder.mac == Some(mac) && line.phase == Phase::Lent && is_it
        });
        for line in its {
            match self
                .assigner
                .associate(line.generation, PortAction::AssociateAgain)
            {
                Ok(()) => tracing::info!(guest = line.holder.name, %mac, "its port profile again"),
                Err(error) => tracing::error!(
                    guest = line.holder.name,
                    %mac,
                    error = chain(&error),
                    "its port profile is not associated again"
                ),
            }
        }
    }

    /// The PF as it is now: its network device may have another name, or be another one since its
    /// driver was loaded anew.
    fn present(&self, pf: PhysicalFunction, names: &BTreeSet<NetdevName>) -> PhysicalFunction {
        let known = std::iter::once(pf.netdev.as_str());
        for name in known.chain(names.iter().map(NetdevName::as_str)) {
            if let Ok(now) = self.host.physical_function(name)
                && now.address == pf.address
            {
                let mut state = lock(&self.state);
                state.pfs.insert(now.address, now.clone());
                return now;
            }
        }
        pf
    }

    /// A device that networks list by name came, went, or changed.
    fn follow_name(&self, name: NetdevName, tell: &impl Fn(Vanished)) {
        let now = match self.look_at_name(name) {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%name, error = chain(&error), "not looked at");
                return;
            }
        };
        let mut gone = BTreeSet::new();
        {
            let mut state = lock(&self.state);
            let State { networks, pool, .. } = &mut *state;
            for (network, members) in networks {
                let mut changed = false;
                for (_, device) in
                    (members.listed.iter_mut()).filter(|(listed, _)| *listed == Some(name))
                {
                    match now {
                        Some(now) if *device != now => {
                            *device = now;
                            changed = true;
                        }
                        Some(_) => {}
                        None => {
                            gone.insert(*device);
                        }
                    }
                }
                if changed && let Some(spec) = members.spec_now() {
                    pool.set_network(network, spec);
                }
            }
        }
        for device in gone {
            // A VF's network device goes when it is bound to vfio: that VF is still there.
            let is_vf =
                (device.pci()).is_some_and(|address| lock(&self.state).pool.vf(address).is_some());
            if !is_vf {
                let update = lock(&self.state).pool.remove_nic(device);
                self.tell_changes(name.as_str(), update, tell);
            }
        }
    }

    /// Lent USB devices that are not there: where events were lost.
    fn lost_usb(&self) -> Vec<UsbAddress> {
        let lines = self.assigner.list().into_iter();
        let lent = lines.filter_map(|line| line.item.device()?.usb());
        let is_gone = |address: &UsbAddress| {
            matches!(
                self.host.usb_device(*address),
                Err(HostError::NoUsbDevice(_))
            )
        };
        lent.filter(is_gone).collect()
    }

    /// A USB device was pulled out. It never comes back under that number.
    fn usb_gone(&self, address: UsbAddress, tell: &impl Fn(Vanished)) {
        let device = DeviceId::Usb(address);
        let Some(line) = self.assigner.find(Item::Device(device)) else {
            return;
        };
        if !lock(&self.state).vanished.insert(device) {
            return;
        }
        tracing::error!(%device, guest = line.holder.name, "a lent device vanished");
        tell(Vanished {
            holder: line.holder,
            claim: line.generation,
        });
    }

    fn tell_changes(&self, of: &str, update: Update, tell: &impl Fn(Vanished)) {
        for device in update.appeared {
            lock(&self.state).vanished.remove(&device);
        }
        for (device, holder) in update.vanished_while_lent {
            tracing::error!(%device, of, guest = holder.guest, "a lent device vanished");
            lock(&self.state).vanished.insert(device);
            let lines = self.assigner.list();
            let its = lines
                .into_iter()
                .filter(|line| line.item == Item::Device(device) || line.parent == Some(device));
            for line in its {
                tell(Vanished {
                    holder: line.holder,
                    claim: line.generation,
                });
            }
        }
    }
}
