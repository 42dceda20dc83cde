//! Networks: which devices each lends, and how it picks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use conf::{DeviceId, NumaPolicy, PciAddress, Spread};
use serde::{Deserialize, Serialize};

use crate::Pool;
use crate::index::{Home, Standing};
use crate::inventory::Pf;

/// A network that lends devices, or shares in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// What it lends.
    pub members: Members,
    /// Whether a device goes to one guest or to many.
    pub sharing: Sharing,
    /// Whether a device without a network device is passed over: a macvtap needs one.
    pub needs_netdev: bool,
    /// Which of several PFs is taken.
    pub spread: Spread,
    /// How much the borrower's NUMA nodes count.
    pub numa: NumaPolicy,
    /// Whether a PF or other device without carrier is passed over. A PF that is down always is;
    /// another device only here, since the carrier of one that is down can't be told.
    pub needs_carrier: bool,
}

/// Whether a device goes to one guest or to many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Lent whole, once: modes `hostdev` and `passthrough`.
    Exclusive,
    /// The parent of many guests' devices: modes `bridge`, `private` and `vepa`.
    Shared,
}

/// What a network lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All VFs of these PFs, in this order.
    PhysicalFunctions(Vec<PciAddress>),
    /// These devices, in this order: VFs, and others.
    Devices(Vec<DeviceId>),
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) spec: NetworkSpec,
    pub(crate) source: Source,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// PFs by place: their own sets are used, so that networks over one PF have them in common.
    Whole(Vec<usize>),
    Listed(Listed),
}

/// Devices by themselves. What is not there, lent whole, withheld, shared though the network
/// lends whole, or without the network device that it needs, is in none of the sets.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Each once.
    pub(crate) devices: Vec<DeviceId>,
    positions: HashMap<DeviceId, usize>,
    /// VFs by their PF's place.
    pub(crate) by_pf: BTreeMap<usize, Queue>,
    /// Others that are in order, by NUMA node.
    pub(crate) by_node: BTreeMap<Option<u16>, Queue>,
    /// Others without the carrier that the network needs.
    dark: Queue,
}

/// Devices by their position in the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    /// With the shares in each, so that the one with the fewest comes first.
    pub(crate) by_load: BTreeSet<(usize, usize)>,
    pub(crate) by_position: BTreeSet<usize>,
}

/// The name of the pool of a PF's VFs where no network lends them by it; no network can have it.
#[must_use]
pub fn synthetic(pf: &str) -> String {
    format!("{SYNTHETIC}{pf}/")
}

const SYNTHETIC: &str = "VFs of ";

/// Whether that is such a name.
#[must_use]
pub fn is_synthetic(network: &str) -> bool {
    pf_of_synthetic(network).is_some()
}

pub(crate) fn pf_of_synthetic(network: &str) -> Option<&str> {
    network.strip_prefix(SYNTHETIC)?.strip_suffix('/')
}

/// A network in words, or the PF that stands for one.
#[must_use]
pub fn called(network: &str) -> String {
    match pf_of_synthetic(network) {
        Some(pf) => format!("PF '{pf}'"),
        None => format!("network '{network}'"),
    }
}

impl Pool {
    /// Adds a network, or replaces the one of that name. Loans are not touched.
    pub fn set_network(&mut self, name: &str, spec: NetworkSpec) {
        self.remove_network(name);
        let source = match &spec.members {
            Members::PhysicalFunctions(addresses) => {
                let mut places = Vec::new();
                for &address in addresses {
                    let place = self.place_of(address);
                    if !places.contains(&place) {
                        places.push(place);
                    }
                }
                Source::Whole(places)
            }
            Members::Devices(devices) => Source::Listed(Listed::new(devices)),
        };
        let mut network = Network { spec, source };
        if let Source::Listed(listed) = &network.source {
            for device in listed.devices.clone() {
                (self.listed_by.entry(device).or_default()).push(name.to_owned());
                if let Some(standing) = self.standing(device) {
                    network.enter(device, &standing);
                }
            }
        }
        self.networks.insert(name.to_owned(), network);
    }

    /// Takes a network out; whether there was one. Its loans stay until they are given back.
    pub fn remove_network(&mut self, name: &str) -> bool {
        let Some(network) = self.networks.remove(name) else {
            return false;
        };
        if let Source::Listed(listed) = network.source {
            for device in listed.devices {
                if let Some(names) = self.listed_by.get_mut(&device) {
                    names.retain(|other| other != name);
                    if names.is_empty() {
                        self.listed_by.remove(&device);
                    }
                }
            }
        }
        true
    }

    /// The devices that a network could lend now, or shares in them, as far as that is up to the
    /// devices themselves: PFs and wires are not looked at. In the network's order.
    #[must_use]
    pub fn free(&self, network: &str) -> Vec<DeviceId> {
        let Some(Network { spec, source }) = self.networks.get(network) else {
            return Vec::new();
        };
        match source {
            Source::Whole(places) => {
                let pfs = places.iter().map(|&place| &self.pfs[place]);
                pfs.flat_map(|pf| {
                    let open = spec.open_vfs(pf);
                    let numbers: BTreeSet<_> = open.map(|(_, number)| number).collect();
                    numbers.into_iter().filter_map(|number| pf.vf(number))
                })
                .collect()
            }
            Source::Listed(listed) => {
                let queues = (listed.by_pf.values())
                    .chain(listed.by_node.values())
                    .chain([&listed.dark]);
                let positions: BTreeSet<_> = queues.flat_map(|q| q.by_position.iter()).collect();
                positions.into_iter().map(|&p| listed.devices[p]).collect()
            }
        }
    }
}

impl NetworkSpec {
    /// The VFs of a PF that it could lend, were it to lend all: shares in it, and its number. The
    /// one with the fewest shares comes first.
    pub(crate) fn open_vfs(&self, pf: &Pf) -> impl Iterator<Item = (usize, usize)> {
        let set = if self.needs_netdev {
            &pf.named
        } else {
            &pf.open
        };
        let is_good = move |load| self.sharing == Sharing::Shared || load == 0;
        set.iter()
            .copied()
            .take_while(move |(load, _)| is_good(*load))
    }
}

impl Pf {
    /// Its VFs that nobody has.
    pub(crate) fn free_vfs(&self) -> impl Iterator<Item = usize> {
        let free = self.open.iter().take_while(|(load, _)| *load == 0);
        free.map(|(_, number)| *number)
    }

    pub(crate) fn vf(&self, number: usize) -> Option<DeviceId> {
        let address = self.vfs.get(&u16::try_from(number).ok()?)?;
        Some((*address).into())
    }
}

impl Listed {
    fn new(devices: &[DeviceId]) -> Self {
        let mut listed = Self {
            devices: Vec::new(),
            positions: HashMap::new(),
            by_pf: BTreeMap::new(),
            by_node: BTreeMap::new(),
            dark: Queue::default(),
        };
        for &device in devices {
            let position = listed.devices.len();
            if *listed.positions.entry(device).or_insert(position) == position {
                listed.devices.push(device);
            }
        }
        listed
    }

    pub(crate) fn is_in(&self, queue: &Queue, device: DeviceId) -> bool {
        let position = self.positions.get(&device);
        position.is_some_and(|position| queue.by_position.contains(position))
    }
}

impl Network {
    /// A device that it lists is as told now.
    pub(crate) fn enter(&mut self, device: DeviceId, standing: &Standing) {
        let is_fit = standing.is_open()
            && (self.spec.sharing == Sharing::Shared || standing.connections == 0)
            && (!self.spec.needs_netdev || standing.netdev.is_some());
        let Source::Listed(listed) = &mut self.source else {
            return;
        };
        let Some(&position) = listed.positions.get(&device).filter(|_| is_fit) else {
            return;
        };
        let queue = match standing.home {
            Home::Vf { pf, .. } => listed.by_pf.entry(pf).or_default(),
            Home::Nic { carrier, .. } if self.spec.needs_carrier && !carrier => &mut listed.dark,
            Home::Nic { numa_node, .. } => listed.by_node.entry(numa_node).or_default(),
        };
        queue.by_load.insert((standing.connections, position));
        queue.by_position.insert(position);
    }

    /// A device that it lists is not as told any more.
    pub(crate) fn leave(&mut self, device: DeviceId, standing: &Standing) {
        let Source::Listed(listed) = &mut self.source else {
            return;
        };
        let Some(&position) = listed.positions.get(&device) else {
            return;
        };
        let key = (standing.connections, position);
        match standing.home {
            Home::Vf { pf, .. } => {
                if let Some(queue) = listed.by_pf.get_mut(&pf)
                    && queue.remove(key)
                {
                    listed.by_pf.remove(&pf);
                }
            }
            Home::Nic { numa_node, .. } => {
                listed.dark.remove(key);
                if let Some(queue) = listed.by_node.get_mut(&numa_node)
                    && queue.remove(key)
                {
                    listed.by_node.remove(&numa_node);
                }
            }
        }
    }
}

impl Queue {
    /// Whether it is empty then.
    fn remove(&mut self, (load, position): (usize, usize)) -> bool {
        self.by_load.remove(&(load, position));
        self.by_position.remove(&position);
        self.by_load.is_empty()
    }
}
