//! The whole picture behind a choice: every PF of a network, with what stands in the way.

use std::fmt;

use conf::{MacAddress, NumaPolicy, PciAddress};
use serde::{Deserialize, Serialize};

use crate::choose::{Obstacle, Request, obstacle};
use crate::inventory::{Holder, Pf, Pool};
use crate::network::{Network, Source};

/// What each PF of a network has to offer one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The network.
    pub network: String,
    /// By PF, in the network's order.
    pub pfs: Vec<PfRow>,
    /// Devices that the network lists and that are not there.
    pub missing: Vec<PciAddress>,
}

/// A PF's share in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfRow {
    /// The PF's network device, or its address while it is gone.
    pub pf: String,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
    /// VFs that the network lends from it.
    pub total: usize,
    /// Those that could be had, were the PF itself in order.
    pub free: usize,
    /// Those that are lent, to whom; by VF number.
    pub lent: Vec<Note<Holder>>,
    /// Those in use by something else, by what; by VF number.
    pub busy: Vec<Note<String>>,
    /// Those kept back, and why; by VF number.
    pub withheld: Vec<Note<String>>,
    /// How many VFs it has, and how many it could make.
    pub vfs: (usize, u16),
    /// Whether it can give one at all.
    pub verdict: Verdict,
}

/// A VF, and something about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note<T> {
    /// Which VF.
    pub device: PciAddress,
    /// Its number.
    pub number: u16,
    /// What there is to say.
    pub note: T,
}

/// Whether a PF can give a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It can.
    Open,
    /// It is in order, and has none left.
    NoneFree,
    /// It has no VFs that the network lends.
    NoVfs,
    /// It is not there.
    Gone,
    /// It is administratively down.
    Down,
    /// Its wire is dead, and the network needs it alive.
    NoCarrier,
    /// It is on another NUMA node, and the network requires the borrower's.
    Far,
    /// The MAC is in use behind it already.
    MacInUse {
        /// The MAC.
        mac: MacAddress,
        /// By whom.
        guest: String,
    },
}

impl Pool {
    /// What [`Pool::choose`] would weigh; `None` where there is no such network.
    ///
    /// Costs a look at every VF of the network.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Option<Explanation> {
        let network = self.networks.get(request.network)?;
        Some(self.explanation(network, request))
    }

    pub(crate) fn explanation(&self, network: &Network, request: &Request<'_>) -> Explanation {
        let mut missing = Vec::new();
        let shares: Vec<(usize, Vec<(u16, PciAddress)>)> = match &network.source {
            Source::Whole(places) => places
                .iter()
                .map(|&place| {
                    let vfs = self.pfs[place].vfs.iter();
                    (place, vfs.map(|(&n, &address)| (n, address)).collect())
                })
                .collect(),
            Source::Listed { positions, .. } => {
                let mut listed: Vec<_> = positions.iter().map(|(a, p)| (*p, *a)).collect();
                listed.sort_unstable();
                let mut shares: Vec<(usize, Vec<(u16, PciAddress)>)> = Vec::new();
                for (_, address) in listed {
                    let Some(vf) = self.vfs.get(&address) else {
                        missing.push(address);
                        continue;
                    };
                    match shares.iter_mut().find(|(place, _)| *place == vf.pf) {
                        Some((_, vfs)) => vfs.push((vf.number, address)),
                        None => shares.push((vf.pf, vec![(vf.number, address)])),
                    }
                }
                for (_, vfs) in &mut shares {
                    vfs.sort_unstable();
                }
                shares
            }
        };
        let pfs = shares
            .into_iter()
            .map(|(place, vfs)| self.row(&self.pfs[place], &vfs, network, request))
            .collect();
        Explanation {
            network: request.network.to_owned(),
            pfs,
            missing,
        }
    }

    fn row(
        &self,
        pf: &Pf,
        vfs: &[(u16, PciAddress)],
        network: &Network,
        request: &Request<'_>,
    ) -> PfRow {
        let mut row = PfRow {
            pf: pf.netdev.clone(),
            numa_node: pf.numa_node,
            total: vfs.len(),
            free: 0,
            lent: Vec::new(),
            busy: Vec::new(),
            withheld: Vec::new(),
            vfs: (pf.vfs.len(), pf.max_vfs),
            verdict: Verdict::Open,
        };
        for &(number, device) in vfs {
            if let Some(holder) = self.loans.get(&device) {
                row.lent.push(Note {
                    device,
                    number,
                    note: holder.clone(),
                });
            } else if let Some(reason) = self.withheld.get(&device) {
                row.withheld.push(Note {
                    device,
                    number,
                    note: reason.clone(),
                });
            } else if let Some(what) = request.exclude.get(&device) {
                row.busy.push(Note {
                    device,
                    number,
                    note: what.clone(),
                });
            } else {
                row.free += 1;
            }
        }
        row.verdict = match obstacle(pf, network, request) {
            Some(Obstacle::Gone) => Verdict::Gone,
            Some(Obstacle::Down) => Verdict::Down,
            _ if row.total == 0 => Verdict::NoVfs,
            Some(Obstacle::NoCarrier) => Verdict::NoCarrier,
            Some(Obstacle::Far) => Verdict::Far,
            _ if row.free == 0 => Verdict::NoneFree,
            Some(Obstacle::MacInUse(device)) => Verdict::MacInUse {
                mac: request.mac.unwrap_or(MacAddress::ZERO),
                guest: (self.loans.get(&device)).map_or_else(String::new, |h| h.guest.clone()),
            },
            None => Verdict::Open,
        };
        debug_assert!(
            row.verdict != Verdict::Far || network.spec.numa == NumaPolicy::Require,
            "only a required node can rule a PF out"
        );
        row
    }
}

/// How many names a text lists before it counts the rest.
const NAMED: usize = 6;

/// Lists a few, counts the others: `web1, web2 and 30 more`.
pub(crate) fn some<T>(notes: &[T], text: impl Fn(&T) -> String) -> String {
    let named: Vec<_> = notes.iter().take(NAMED).map(text).collect();
    match notes.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

impl fmt::Display for PfRow {
    /// `7 VFs of enp1s0: 6 lent (web1, web2 …), 1 busy (…)`, however many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match &self.verdict {
            Verdict::Gone => parts.push("the PF is not there".to_owned()),
            Verdict::Down => parts.push("the PF is down".to_owned()),
            Verdict::NoCarrier => parts.push("the PF has no carrier".to_owned()),
            Verdict::Far => parts.push(match self.numa_node {
                Some(node) => format!("the PF is on NUMA node {node}, not on the guest's"),
                None => "the PF is not on the guest's NUMA node".to_owned(),
            }),
            Verdict::MacInUse { mac, guest } => {
                parts.push(format!("MAC {mac} is in use behind it by guest '{guest}'"));
            }
            Verdict::Open | Verdict::NoneFree | Verdict::NoVfs => {}
        }
        if !self.lent.is_empty() {
            let who = some(&self.lent, |note| note.note.guest.clone());
            parts.push(format!("{} lent ({who})", self.lent.len()));
        }
        let count = |word: &str, notes: &[Note<String>]| {
            let what = some(notes, |note| format!("VF {}: {}", note.number, note.note));
            format!("{} {word} ({what})", notes.len())
        };
        if !self.busy.is_empty() {
            parts.push(count("busy", &self.busy));
        }
        if !self.withheld.is_empty() {
            parts.push(count("kept back", &self.withheld));
        }
        if self.free > 0 {
            parts.push(format!("{} free", self.free));
        }
        let plural = if self.total == 1 { "VF" } else { "VFs" };
        write!(f, "{} {plural} of {}", self.total, self.pf)?;
        if !parts.is_empty() {
            write!(f, ": {}", parts.join(", "))?;
        }
        Ok(())
    }
}
