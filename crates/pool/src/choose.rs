//! The choice itself.

use std::collections::BTreeMap;
use std::fmt;

use conf::{MacAddress, NumaPolicy, PciAddress, Spread};
use serde::{Deserialize, Serialize};

use crate::inventory::{Pf, Pool};
use crate::network::{Network, Source};
use crate::refusal::{Refusal, RefusalCause};

/// Who wants a device, and from where.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The network's name.
    pub network: &'a str,
    /// The borrower's name, for texts.
    pub guest: &'a str,
    /// The MAC that the device is to get: two alike behind one PF can't both receive.
    pub mac: Option<MacAddress>,
    /// The host's NUMA nodes that the borrower runs on; empty: anywhere.
    pub numa_nodes: &'a [u16],
    /// Devices not to choose, with what was found on them ("enp1s0v3 is up with 10.0.0.5/24").
    pub exclude: &'a BTreeMap<PciAddress, String>,
}

/// A device, and why this one. [`fmt::Display`] says it in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The VF.
    pub device: PciAddress,
    /// Its PF.
    pub pf: PciAddress,
    /// Its PF's network device.
    pub pf_netdev: String,
    /// Its number among its PF's VFs.
    pub number: u16,
    /// How the PF was picked.
    pub spread: Spread,
    /// VFs of that PF, and how many of them were lent before this one.
    pub pf_lent: (usize, usize),
    /// PFs in order that had a free one.
    pub pfs: usize,
    /// How near it is.
    pub closeness: Closeness,
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
    /// Picks a device. Nothing is claimed by it: who holds the lock goes on to [`Pool::claim`].
    ///
    /// Passed over are: what is lent, withheld or excluded; PFs that are gone or down, or without
    /// carrier where the network needs it; PFs behind which the MAC is in use already; with
    /// `numa='require'`, far ones. Of the rest the nearest PF counts first (unless NUMA is
    /// ignored), then the spread, then the network's own order.
    pub fn choose(&self, request: &Request<'_>) -> Result<Choice, Box<Refusal>> {
        let Some(network) = self.networks.get(request.network) else {
            return Err(Box::new(Refusal {
                network: request.network.to_owned(),
                cause: RefusalCause::NoNetwork,
                explanation: None,
            }));
        };
        let usable = |device: &&PciAddress| !request.exclude.contains_key(*device);
        let mut search = Search {
            pool: self,
            network,
            request,
            best: None,
            pfs: 0,
        };
        match &network.source {
            Source::Whole(places) => {
                for (order, &place) in places.iter().enumerate() {
                    let free = &self.pfs[place].free;
                    if !free.is_empty() {
                        let first = || free.values().find(usable).copied();
                        search.consider(place, order, first);
                    }
                }
            }
            Source::Listed { free, .. } => {
                for (&place, of_pf) in free {
                    let first = of_pf.iter().find(|(_, device)| usable(device));
                    if let Some((&order, &device)) = first {
                        search.consider(place, order, || Some(device));
                    }
                }
            }
        }
        let Search { best, pfs, .. } = search;
        let Some((_, place, device)) = best else {
            return Err(Box::new(Refusal {
                network: request.network.to_owned(),
                cause: RefusalCause::NoneFree,
                explanation: Some(self.explanation(network, request)),
            }));
        };
        let pf = &self.pfs[place];
        Ok(Choice {
            device,
            pf: pf.address,
            pf_netdev: pf.netdev.clone(),
            number: self.vfs.get(&device).map_or(0, |vf| vf.number),
            spread: network.spec.spread,
            pf_lent: (pf.vfs.len(), pf.lent),
            pfs,
            closeness: closeness(pf, network, request),
        })
    }
}

/// A walk over a network's PFs.
struct Search<'a> {
    pool: &'a Pool,
    network: &'a Network,
    request: &'a Request<'a>,
    best: Option<(Rank, usize, PciAddress)>,
    /// How many had a free VF and were in order.
    pfs: usize,
}

impl Search<'_> {
    /// Looks at a PF that has free VFs. The cheap questions come first: with hundreds of PFs
    /// nearly all are settled by them.
    fn consider(&mut self, place: usize, order: usize, first: impl Fn() -> Option<PciAddress>) {
        let pf = &self.pool.pfs[place];
        if unhealthy(pf, self.network).is_some() {
            return;
        }
        self.pfs += 1;
        let rank = rank(pf, self.network, self.request, order);
        let is_better = (self.best).is_none_or(|(lowest, ..)| rank < lowest);
        if is_better
            && obstacle(pf, self.network, self.request).is_none()
            && let Some(device) = first()
        {
            self.best = Some((rank, place, device));
        }
    }
}

/// Lower is better: near before far, then by spread, then in the network's order.
type Rank = (bool, usize, usize);

fn rank(pf: &Pf, network: &Network, request: &Request<'_>, order: usize) -> Rank {
    let far = closeness(pf, network, request) == Closeness::Far;
    let load = match network.spec.spread {
        Spread::Balance => pf.lent,
        Spread::Pack => 0,
    };
    (far, load, order)
}

/// Why nothing of a PF can be had, whatever is free there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Gone,
    Down,
    NoCarrier,
    Far,
    MacInUse(PciAddress),
}

fn unhealthy(pf: &Pf, network: &Network) -> Option<Obstacle> {
    match pf.health {
        None => Some(Obstacle::Gone),
        Some(health) if !health.up => Some(Obstacle::Down),
        Some(health) if network.spec.needs_carrier && !health.carrier => Some(Obstacle::NoCarrier),
        Some(_) => None,
    }
}

pub(crate) fn obstacle(pf: &Pf, network: &Network, request: &Request<'_>) -> Option<Obstacle> {
    if let Some(obstacle) = unhealthy(pf, network) {
        return Some(obstacle);
    }
    if network.spec.numa == NumaPolicy::Require && closeness(pf, network, request) == Closeness::Far
    {
        return Some(Obstacle::Far);
    }
    let mac = request.mac?;
    let lowest = PciAddress::new(0, 0, 0, 0)?;
    let (found, device) = pf.macs.range((mac, lowest)..).next()?;
    (*found == mac).then_some(Obstacle::MacInUse(*device))
}

pub(crate) fn closeness(pf: &Pf, network: &Network, request: &Request<'_>) -> Closeness {
    match (network.spec.numa, pf.numa_node) {
        (NumaPolicy::Ignore, _) | (_, None) => Closeness::Unasked,
        _ if request.numa_nodes.is_empty() => Closeness::Unasked,
        (_, Some(node)) if request.numa_nodes.contains(&node) => Closeness::Near,
        _ => Closeness::Far,
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, lent) = self.pf_lent;
        write!(
            f,
            "VF {} of {} ({})",
            self.number, self.pf_netdev, self.device
        )?;
        match (self.pfs, self.spread) {
            (1, _) => write!(f, ": the first free one; {lent} of {total} VFs lent")?,
            (pfs, Spread::Balance) => write!(
                f,
                ": of {pfs} PFs that have one, {} has the fewest lent ({lent} of {total})",
                self.pf_netdev
            )?,
            (pfs, Spread::Pack) => write!(
                f,
                ": the first of {pfs} PFs that have one; {lent} of {total} VFs lent"
            )?,
        }
        f.write_str(match self.closeness {
            Closeness::Unasked => "",
            Closeness::Near => "; on the guest's NUMA node",
            Closeness::Far => "; not on the guest's NUMA node",
        })
    }
}
