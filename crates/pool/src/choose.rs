//! The choice itself.

use std::collections::BTreeMap;
use std::fmt;

use conf::{DeviceId, MacAddress, NetdevName, NumaPolicy, PciAddress, Spread};
use serde::{Deserialize, Serialize};

use crate::index::Home;
use crate::inventory::{NicInfo, Pf, Pool};
use crate::network::{self, Listed, Network, Sharing};
use crate::refusal::{Refusal, RefusalCause};
use crate::table::connections;

/// Who wants a device, and from where.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The network's name.
    pub network: &'a str,
    /// The borrower's name.
    pub guest: &'a str,
    /// The MAC that the device is to get: two alike behind one PF, or on one parent, can't both
    /// receive. But a guest's VF and its share in that VF's PF may have one MAC: such a pair takes
    /// turns.
    pub mac: Option<MacAddress>,
    /// The host's NUMA nodes that the borrower runs on; empty: anywhere.
    pub numa_nodes: &'a [u16],
    /// Devices not to choose, with what was found on them ("enp1s0v3 is up with 10.0.0.5/24").
    pub exclude: &'a BTreeMap<DeviceId, String>,
    /// Where from, if not from wherever there is one.
    pub from: Source,
    /// It was promised one: what is kept for promises is for it, too.
    pub is_promised: bool,
}

/// Where a device is to come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// From all that the network lends.
    #[default]
    Anywhere,
    /// VFs of that PF alone.
    Pf(PciAddress),
    /// That device alone.
    Device(DeviceId),
}

/// A device, and why this one. [`fmt::Display`] says it in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Which one.
    pub device: DeviceId,
    /// Its network device, where the network needs one.
    pub netdev: Option<NetdevName>,
    /// What it is.
    pub place: Place,
    /// Whether it goes to this borrower alone.
    pub sharing: Sharing,
    /// How the PF was picked.
    pub spread: Spread,
    /// Shares in it before this one.
    pub connections: usize,
    /// PFs in order that had one.
    pub pfs: usize,
    /// Other devices in order that could be had.
    pub nics: usize,
    /// How near it is.
    pub closeness: Closeness,
}

/// What a chosen device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A VF.
    Vf {
        /// Its PF.
        pf: PciAddress,
        /// Its PF's network device.
        pf_netdev: String,
        /// Its number among its PF's VFs.
        number: u16,
        /// VFs of that PF.
        total: usize,
        /// How many of these were lent whole before this one.
        lent: usize,
    },
    /// Any other network device.
    Nic,
}

/// Where a device is, seen from the borrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closeness {
    /// Nobody asked, or the host doesn't tell.
    Unasked,
    /// On the borrower's own NUMA node.
    Near,
    /// On another node.
    Far,
}

impl Pool {
    /// Picks a device. Nothing is claimed by it: who holds the lock goes on to [`Pool::claim`] or
    /// [`Pool::share`].
    ///
    /// Passed over are: what is lent whole, or shared though the network lends whole; what is
    /// withheld or excluded, or has no network device though one is needed; PFs that are gone or
    /// down; PFs and others without carrier where the network needs it; those on which the MAC is
    /// in use already; with `numa='require'`, far ones.
    ///
    /// Of the rest near ones count first (unless NUMA is ignored). Then, to balance: of devices
    /// to share the one with the fewest connections; the PF of which the least is lent; the
    /// network's own order. To pack: the first in the network's order, though of a PF's devices to
    /// share the one with the fewest connections. A device that is no VF counts as a PF with one.
    ///
    /// # Errors
    /// There is no such network, or nothing is left; the refusal says of everything why.
    pub fn choose(&self, request: &Request<'_>) -> Result<Choice, Box<Refusal>> {
        let Some(network) = self.networks.get(request.network) else {
            return Err(Box::new(Refusal {
                network: request.network.to_owned(),
                guest: request.guest.to_owned(),
                cause: RefusalCause::NoNetwork,
                explanation: None,
            }));
        };
        let mut search = Search {
            pool: self,
            network,
            request,
            best: None,
            pfs: 0,
            nics: 0,
        };
        match &network.source {
            network::Source::Whole(places) => {
                for (order, &place) in places.iter().enumerate() {
                    let pf = &self.pfs[place];
                    let mut open = (network.spec.open_vfs(pf))
                        .filter_map(|(load, number)| Some((load, pf.vf(number)?)));
                    let first = open.find(|(_, device)| search.is_usable(*device));
                    if let Some((load, device)) = first {
                        search.consider_vf(place, load, order, device);
                    }
                }
            }
            network::Source::Listed(listed) => search.consider_listed(listed),
        }
        let best = search.best.and_then(|(_, device)| search.choice(device));
        match best {
            Some(choice) => Ok(choice),
            None => Err(Box::new(Refusal {
                network: request.network.to_owned(),
                guest: request.guest.to_owned(),
                cause: RefusalCause::NoneFree,
                explanation: Some(self.explanation(network, request)),
            })),
        }
    }
}

/// A walk over a network's PFs, and over its other devices of each NUMA node.
struct Search<'a> {
    pool: &'a Pool,
    network: &'a Network,
    request: &'a Request<'a>,
    best: Option<(Rank, DeviceId)>,
    /// How many had a VF and were in order.
    pfs: usize,
    nics: usize,
}

/// Lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    far: bool,
    /// Shares in the device, where that counts more than its PF.
    connections: usize,
    /// What is lent of its PF, to balance.
    load: usize,
    /// In the network.
    order: usize,
}

impl Search<'_> {
    fn is_usable(&self, device: DeviceId) -> bool {
        is_wanted(self.request, device)
    }

    fn rank(&self, closeness: Closeness, connections: usize, load: usize, order: usize) -> Rank {
        let balanced = self.network.spec.spread == Spread::Balance;
        Rank {
            far: closeness == Closeness::Far,
            connections: if balanced { connections } else { 0 },
            load: if balanced { load } else { 0 },
            order,
        }
    }

    /// Looks at the first VF of a PF. The cheap questions come first: with hundreds of PFs nearly
    /// all are settled by them.
    fn consider_vf(&mut self, place: usize, connections: usize, order: usize, device: DeviceId) {
        let pf = &self.pool.pfs[place];
        if !is_from(self.request, pf) || self.pool.unfit(pf, self.network, self.request).is_some() {
            return;
        }
        self.pfs += 1;
        let near = closeness(pf.numa_node, self.network, self.request);
        let rank = self.rank(near, connections, pf.lent + pf.connections, order);
        let is_better = self.best.is_none_or(|(lowest, _)| rank < lowest);
        if is_better && (self.pool.obstacle(pf, self.network, self.request)).is_none() {
            self.best = Some((rank, device));
        }
    }

    fn consider_listed(&mut self, listed: &Listed) {
        let (pool, request, spec) = (self.pool, self.request, &self.network.spec);
        let is_usable = |device: DeviceId| is_wanted(request, device);
        let device = |position: usize| listed.devices[position];
        for (&place, queue) in &listed.by_pf {
            let mut loads = queue.by_load.iter().copied();
            let Some((load, position)) = loads.find(|(_, p)| is_usable(device(*p))) else {
                continue;
            };
            // A PF to be filled first stays the first, whichever of its devices is next.
            let first = queue.by_position.first().copied();
            let order = match (spec.sharing, spec.spread) {
                (Sharing::Shared, Spread::Pack) => first.unwrap_or(position),
                _ => position,
            };
            self.consider_vf(place, load, order, device(position));
        }
        for (&node, queue) in &listed.by_node {
            let near = closeness(node, self.network, self.request);
            if near == Closeness::Far && spec.numa == NumaPolicy::Require {
                continue;
            }
            let excluded = request.exclude.keys();
            let excluded = excluded.filter(|device| listed.is_in(queue, **device));
            self.nics += queue.by_load.len() - excluded.count();
            let is_good = |position: usize| {
                let device = device(position);
                is_usable(device)
                    && !matches!(request.from, Source::Pf(_))
                    && !pool.is_drained(device)
                    && pool.mac_clash(device, device, request).is_none()
            };
            let found = match spec.spread {
                Spread::Balance => {
                    let mut loads = queue.by_load.iter().copied();
                    loads.find(|(_, position)| is_good(*position))
                }
                Spread::Pack => {
                    let mut positions = queue.by_position.iter().copied();
                    (positions.find(|position| is_good(*position))).map(|position| (0, position))
                }
            };
            if let Some((load, position)) = found {
                let rank = self.rank(near, load, load, position);
                if self.best.is_none_or(|(lowest, _)| rank < lowest) {
                    self.best = Some((rank, device(position)));
                }
            }
        }
    }

    fn choice(&self, device: DeviceId) -> Option<Choice> {
        let spec = &self.network.spec;
        let standing = self.pool.standing(device)?;
        let (place, node) = match standing.home {
            Home::Vf { pf, number } => {
                let pf = &self.pool.pfs[pf];
                let place = Place::Vf {
                    pf: pf.address,
                    pf_netdev: pf.netdev.clone(),
                    number,
                    total: pf.vfs.len(),
                    lent: pf.lent,
                };
                (place, pf.numa_node)
            }
            Home::Nic { numa_node, .. } => (Place::Nic, numa_node),
        };
        Some(Choice {
            device,
            netdev: standing.netdev.filter(|_| spec.needs_netdev),
            place,
            sharing: spec.sharing,
            spread: spec.spread,
            connections: standing.connections,
            pfs: self.pfs,
            nics: self.nics,
            closeness: closeness(node, self.network, self.request),
        })
    }
}

/// Why nothing of a PF can be had, whatever is free there; or not another device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Gone,
    Down,
    Drained,
    /// As many as are free are promised.
    Promised(usize),
    NoCarrier,
    Far,
    /// The guest that uses it.
    MacInUse(MacAddress, String),
}

/// Whether it may be chosen, whatever state it is in.
fn is_wanted(request: &Request<'_>, device: DeviceId) -> bool {
    let is_from = match request.from {
        Source::Device(only) => device == only,
        Source::Anywhere | Source::Pf(_) => true,
    };
    is_from && !request.exclude.contains_key(&device)
}

fn is_from(request: &Request<'_>, pf: &Pf) -> bool {
    match request.from {
        Source::Pf(only) => pf.address == only,
        Source::Anywhere | Source::Device(_) => true,
    }
}

fn unhealthy(pf: &Pf, network: &Network) -> Option<Obstacle> {
    match pf.health {
        None => Some(Obstacle::Gone),
        Some(health) if !health.up => Some(Obstacle::Down),
        Some(health) if network.spec.needs_carrier && !health.carrier => Some(Obstacle::NoCarrier),
        Some(_) => None,
    }
}

impl Pool {
    /// What is wrong with a PF, or that nothing of it is to be had.
    fn unfit(&self, pf: &Pf, network: &Network, request: &Request<'_>) -> Option<Obstacle> {
        if let Some(obstacle) = unhealthy(pf, network) {
            return Some(obstacle);
        }
        if self.drained.contains(&pf.address) {
            return Some(Obstacle::Drained);
        }
        let promised = self.promised.get(&pf.address).copied().unwrap_or(0);
        let is_kept = promised > 0
            && !request.is_promised
            && network.spec.sharing == Sharing::Exclusive
            && pf.free_vfs().take(promised + 1).count() <= promised;
        is_kept.then_some(Obstacle::Promised(promised))
    }

    pub(crate) fn obstacle(
        &self,
        pf: &Pf,
        network: &Network,
        request: &Request<'_>,
    ) -> Option<Obstacle> {
        if let Some(obstacle) = self.unfit(pf, network, request) {
            return Some(obstacle);
        }
        if is_too_far(pf.numa_node, network, request) {
            return Some(Obstacle::Far);
        }
        // All VFs of a PF are alike in this.
        let vf = pf.vfs.values().next()?;
        self.mac_clash((*vf).into(), pf.address.into(), request)
    }

    pub(crate) fn nic_obstacle(
        &self,
        nic: &NicInfo,
        network: &Network,
        request: &Request<'_>,
    ) -> Option<Obstacle> {
        if self.is_drained(nic.device) {
            return Some(Obstacle::Drained);
        }
        if network.spec.needs_carrier && !nic.health.carrier {
            return Some(Obstacle::NoCarrier);
        }
        if is_too_far(nic.numa_node, network, request) {
            return Some(Obstacle::Far);
        }
        self.mac_clash(nic.device, nic.device, request)
    }

    /// Who is in the way of the MAC on that device, `space` being where it may be used once.
    fn mac_clash(
        &self,
        device: DeviceId,
        space: DeviceId,
        request: &Request<'_>,
    ) -> Option<Obstacle> {
        let mac = request.mac?;
        let uses = self.macs.get(&(space, mac))?;
        let is_pf = |device: DeviceId| device == space;
        uses.iter().find_map(|used| {
            let holder = self.uses.get(&used.device)?.holder_of(used.share)?;
            let is_pair = holder.guest == request.guest && is_pf(used.device) != is_pf(device);
            (!is_pair).then(|| Obstacle::MacInUse(mac, holder.guest.clone()))
        })
    }
}

fn is_too_far(node: Option<u16>, network: &Network, request: &Request<'_>) -> bool {
    network.spec.numa == NumaPolicy::Require && closeness(node, network, request) == Closeness::Far
}

fn closeness(node: Option<u16>, network: &Network, request: &Request<'_>) -> Closeness {
    match (network.spec.numa, node) {
        (NumaPolicy::Ignore, _) | (_, None) => Closeness::Unasked,
        _ if request.numa_nodes.is_empty() => Closeness::Unasked,
        (_, Some(node)) if request.numa_nodes.contains(&node) => Closeness::Near,
        _ => Closeness::Far,
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Vf {
                pf_netdev,
                number,
                total,
                lent,
                ..
            } => {
                write!(f, "VF {number} of {pf_netdev} ({}", self.device)?;
                if let Some(netdev) = self.netdev {
                    write!(f, ", {netdev}")?;
                }
                f.write_str("): ")?;
                match self.sharing {
                    Sharing::Exclusive => self.say_why_that_pf(f, pf_netdev, *lent, *total)?,
                    Sharing::Shared => self.say_why_that_parent(f)?,
                }
            }
            Place::Nic => {
                match self.netdev {
                    Some(netdev) => write!(f, "{netdev}: ")?,
                    None => write!(f, "{}: ", self.device)?,
                }
                match self.sharing {
                    Sharing::Exclusive if self.pfs + self.nics == 1 => {
                        f.write_str("the only free one")?;
                    }
                    Sharing::Exclusive => {
                        write!(f, "the first of {} that are free", self.nics)?;
                    }
                    Sharing::Shared => self.say_why_that_parent(f)?,
                }
            }
        }
        f.write_str(match self.closeness {
            Closeness::Unasked => "",
            Closeness::Near => "; on the guest's NUMA node",
            Closeness::Far => "; not on the guest's NUMA node",
        })
    }
}

impl Choice {
    fn say_why_that_pf(
        &self,
        f: &mut fmt::Formatter<'_>,
        pf: &str,
        lent: usize,
        total: usize,
    ) -> fmt::Result {
        match (self.pfs, self.spread) {
            (1, _) => write!(f, "the first free one; {lent} of {total} VFs lent"),
            (pfs, Spread::Balance) => write!(
                f,
                "of {pfs} PFs that have one, {pf} has the fewest lent ({lent} of {total})"
            ),
            (pfs, Spread::Pack) => write!(
                f,
                "the first of {pfs} PFs that have one; {lent} of {total} VFs lent"
            ),
        }
    }

    fn say_why_that_parent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (load, so_far) = (self.connections, connections(self.connections));
        let among = match (&self.place, self.pfs, self.nics) {
            (Place::Nic, 0, 1) => return write!(f, "the only parent; {so_far}"),
            (Place::Nic, 0, nics) => format!("{nics} parents"),
            (Place::Vf { pf_netdev, .. }, 1, 0) => format!("the VFs of {pf_netdev}"),
            (_, pfs, 0) => format!("the VFs of {pfs} PFs"),
            (_, 1, nics) => format!("the VFs of one PF and {nics} other parents"),
            (_, pfs, nics) => format!("the VFs of {pfs} PFs and {nics} other parents"),
        };
        match (self.spread, &self.place) {
            (Spread::Balance, _) => {
                write!(f, "of {among} the one with the fewest connections ({load})")
            }
            (Spread::Pack, Place::Nic) => write!(f, "the first of {among}; {so_far}"),
            (Spread::Pack, Place::Vf { pf_netdev, .. }) => {
                write!(f, "of {among}, {pf_netdev} comes first; {so_far}")
            }
        }
    }
}
