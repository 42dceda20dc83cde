//! Networks: which devices each lends, and how it picks.

use std::collections::{BTreeMap, HashMap};

use conf::{NumaPolicy, PciAddress, Spread};

use crate::Pool;

/// A network that lends devices to one guest at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// What it lends.
    pub members: Members,
    /// Which of several PFs is taken.
    pub spread: Spread,
    /// How much the borrower's NUMA nodes count.
    pub numa: NumaPolicy,
    /// Whether a PF without carrier is passed over; one that is down always is.
    pub needs_carrier: bool,
}

/// What a network lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All VFs of these PFs, in this order.
    PhysicalFunctions(Vec<PciAddress>),
    /// These VFs, in this order.
    Addresses(Vec<PciAddress>),
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) spec: NetworkSpec,
    pub(crate) source: Source,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// PFs by place: their own free sets are used, so that networks over one PF share them.
    Whole(Vec<usize>),
    /// VFs by address, and the free ones of these by PF's place and then by position.
    Listed {
        positions: HashMap<PciAddress, usize>,
        free: BTreeMap<usize, BTreeMap<usize, PciAddress>>,
    },
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
            Members::Addresses(addresses) => self.listed(name, addresses),
        };
        self.networks
            .insert(name.to_owned(), Network { spec, source });
    }

    /// Takes a network out; whether there was one. Its loans stay until they are given back.
    pub fn remove_network(&mut self, name: &str) -> bool {
        let Some(network) = self.networks.remove(name) else {
            return false;
        };
        if let Source::Listed { positions, .. } = network.source {
            for address in positions.into_keys() {
                if let Some(names) = self.listed_by.get_mut(&address) {
                    names.retain(|other| other != name);
                    if names.is_empty() {
                        self.listed_by.remove(&address);
                    }
                }
            }
        }
        true
    }

    /// The devices that a network could lend now: there, not lent, not withheld. In its order.
    #[must_use]
    pub fn free(&self, network: &str) -> Vec<PciAddress> {
        let Some(network) = self.networks.get(network) else {
            return Vec::new();
        };
        match &network.source {
            Source::Whole(places) => places
                .iter()
                .flat_map(|&place| self.pfs[place].free.values().copied())
                .collect(),
            Source::Listed { free, .. } => {
                let mut all: Vec<_> = free.values().flatten().collect();
                all.sort_unstable();
                all.into_iter().map(|(_, &address)| address).collect()
            }
        }
    }

    fn listed(&mut self, name: &str, addresses: &[PciAddress]) -> Source {
        let mut positions = HashMap::new();
        let mut free: BTreeMap<usize, BTreeMap<usize, PciAddress>> = BTreeMap::new();
        for (position, &address) in addresses.iter().enumerate() {
            if positions.contains_key(&address) {
                continue;
            }
            positions.insert(address, position);
            (self.listed_by.entry(address).or_default()).push(name.to_owned());
            if let Some(vf) = self.vfs.get(&address)
                && self.pfs[vf.pf].free.contains_key(&vf.number)
            {
                free.entry(vf.pf).or_default().insert(position, address);
            }
        }
        Source::Listed { positions, free }
    }
}

impl Network {
    pub(crate) fn add_free(&mut self, device: PciAddress, pf: usize) {
        if let Source::Listed { positions, free } = &mut self.source
            && let Some(&position) = positions.get(&device)
        {
            free.entry(pf).or_default().insert(position, device);
        }
    }

    pub(crate) fn remove_free(&mut self, device: PciAddress, pf: usize) {
        if let Source::Listed { positions, free } = &mut self.source
            && let Some(position) = positions.get(&device)
            && let Some(of_pf) = free.get_mut(&pf)
        {
            of_pf.remove(position);
            if of_pf.is_empty() {
                free.remove(&pf);
            }
        }
    }
}
