//! The ports of all networks. A port outlives the time that its network runs, if a guest is on it: the
//! network finds it again when it is started again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use conf::{Network, Uuid};

use super::PortEntry;
use crate::sync::lock;

/// Every port, by its identity and by its network. Its lock is held for a look or a change in memory,
/// and nothing else is asked under it.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The networks that run, as their ports see them.
    running: HashMap<Uuid, Arc<Network>>,
    slots: HashMap<Uuid, Slot>,
    of_network: HashMap<Uuid, BTreeSet<Uuid>>,
}

#[derive(Debug)]
struct Slot {
    network: Uuid,
    entry: PortEntry,
    /// False: its record is on its way, and nobody else sees it yet.
    is_made: bool,
}

/// Why a port has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The network does not run.
    NotActive,
    /// It is another one since the port's device was chosen.
    Changed,
    /// There is such a port.
    Exists,
}

impl Ports {
    /// The network runs, with that document, from now on.
    pub(super) fn open(&self, network: &Arc<Network>) {
        let mut table = lock(&self.0);
        table.running.insert(network.uuid, Arc::clone(network));
    }

    /// It runs no more: no port is made on it, and those that are there are out of sight.
    pub(super) fn close(&self, network: Uuid) {
        lock(&self.0).running.remove(&network);
    }

    /// A network as ports are made on it: what was changed is there at once, before its owner shows it.
    pub(super) fn running(&self, network: Uuid) -> Option<Arc<Network>> {
        lock(&self.0).running.get(&network).cloned()
    }

    /// Takes those ports of a network out for which `is_idle` says so.
    pub(super) fn take_idle(
        &self,
        network: Uuid,
        is_idle: impl Fn(&PortEntry) -> bool,
    ) -> Vec<PortEntry> {
        // Asked without the lock: others are asked for it.
        let made = self.all(network);
        let idle = made.into_iter().filter(is_idle);
        idle.filter_map(|entry| self.remove(network, entry.port.uuid))
            .collect()
    }

    /// Keeps a place for a port on the network that it was made for, until it is recorded.
    pub(super) fn reserve(&self, network: &Arc<Network>, entry: &PortEntry) -> Result<(), NoPlace> {
        let mut table = lock(&self.0);
        match table.running.get(&network.uuid) {
            None => return Err(NoPlace::NotActive),
            Some(running) if !Arc::ptr_eq(running, network) => return Err(NoPlace::Changed),
            Some(_) => {}
        }
        table.insert(network.uuid, entry.clone(), false)
    }

    /// It is recorded: everybody sees it. False: its network was stopped meanwhile, and took it along.
    pub(super) fn made(&self, port: Uuid) -> bool {
        match lock(&self.0).slots.get_mut(&port) {
            Some(slot) => {
                slot.is_made = true;
                true
            }
            None => false,
        }
    }

    /// Takes a port out of everybody's sight until it is removed, or [`Ports::made`] again. False: there
    /// is none to be seen.
    pub(super) fn hide(&self, network: Uuid, port: Uuid) -> bool {
        let mut table = lock(&self.0);
        let slot = table.slots.get_mut(&port);
        let slot = slot.filter(|slot| slot.network == network);
        slot.is_some_and(|slot| std::mem::take(&mut slot.is_made))
    }

    /// Puts a port of an earlier daemon in, whether its network runs or not.
    pub(super) fn put(&self, network: Uuid, entry: PortEntry) {
        // Records are named by their ports, so there is none twice.
        let _ = lock(&self.0).insert(network, entry, true);
    }

    /// A port, as it is now.
    pub(super) fn get(&self, network: Uuid, port: Uuid) -> Option<PortEntry> {
        let table = lock(&self.0);
        let slot = table.slots.get(&port)?;
        (slot.network == network && slot.is_made).then(|| slot.entry.clone())
    }

    /// The network of a port.
    pub(super) fn network_of(&self, port: Uuid) -> Option<Uuid> {
        Some(lock(&self.0).slots.get(&port)?.network)
    }

    /// Changes a port that is there.
    pub(super) fn change(&self, port: Uuid, change: impl FnOnce(&mut PortEntry)) {
        if let Some(slot) = lock(&self.0).slots.get_mut(&port) {
            change(&mut slot.entry);
        }
    }

    /// Takes a port out.
    pub(super) fn remove(&self, network: Uuid, port: Uuid) -> Option<PortEntry> {
        let mut table = lock(&self.0);
        table
            .slots
            .get(&port)
            .filter(|slot| slot.network == network)?;
        table.remove(port)
    }

    /// The ports of a network, by identity.
    pub(super) fn all(&self, network: Uuid) -> Vec<PortEntry> {
        let table = lock(&self.0);
        let ports = table.of_network.get(&network).into_iter().flatten();
        let slots = ports.filter_map(|port| table.slots.get(port));
        slots
            .filter(|slot| slot.is_made)
            .map(|slot| slot.entry.clone())
            .collect()
    }
}

impl Table {
    fn insert(&mut self, network: Uuid, entry: PortEntry, is_made: bool) -> Result<(), NoPlace> {
        let port = entry.port.uuid;
        if self.slots.contains_key(&port) {
            return Err(NoPlace::Exists);
        }
        self.slots.insert(
            port,
            Slot {
                network,
                entry,
                is_made,
            },
        );
        self.of_network.entry(network).or_default().insert(port);
        Ok(())
    }

    fn remove(&mut self, port: Uuid) -> Option<PortEntry> {
        let slot = self.slots.remove(&port)?;
        if let Some(ports) = self.of_network.get_mut(&slot.network) {
            ports.remove(&port);
            if ports.is_empty() {
                self.of_network.remove(&slot.network);
            }
        }
        Some(slot.entry)
    }
}
