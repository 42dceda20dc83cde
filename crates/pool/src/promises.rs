//! PFs that lend nothing, and VFs that are kept for guests which wait for one.

use std::collections::BTreeSet;

use conf::{DeviceId, PciAddress};

use crate::Pool;
use crate::network::Source;

impl Pool {
    /// Has a PF lend nothing from now on, whatever is free; or lend again. Loans are not touched. A PF
    /// need not be there for it.
    pub fn set_drained(&mut self, pf: PciAddress, drained: bool) {
        if drained {
            self.drained.insert(pf);
        } else {
            self.drained.remove(&pf);
        }
    }

    /// The PFs that lend nothing.
    #[must_use]
    pub fn drained(&self) -> &BTreeSet<PciAddress> {
        &self.drained
    }

    pub(crate) fn is_drained(&self, device: DeviceId) -> bool {
        let address = device.pci();
        address.is_some_and(|address| self.drained.contains(&address))
    }

    /// Keeps the next VF of a PF that gets free for a guest that was promised one. Others get only
    /// what is free beyond all promises.
    pub fn promise(&mut self, pf: PciAddress) {
        *self.promised.entry(pf).or_insert(0) += 1;
    }

    /// How many VFs of a PF nobody has, counted up to `most`. What the host itself uses of them is not
    /// known here.
    #[must_use]
    pub fn free_vfs_of(&self, pf: PciAddress, most: usize) -> usize {
        let pf = self
            .pf_places
            .get(&pf)
            .and_then(|place| self.pfs.get(*place));
        pf.map_or(0, |pf| pf.free_vfs().take(most).count())
    }

    /// A promise is kept, or over.
    pub fn end_promise(&mut self, pf: PciAddress) {
        if let Some(count) = self.promised.get_mut(&pf) {
            *count -= 1;
            if *count == 0 {
                self.promised.remove(&pf);
            }
        }
    }

    /// The PF of a network that is the most likely to have a VF for one more guest that waits: in order,
    /// with the most VFs for each that was promised one; of equals the first in the network's order.
    #[must_use]
    pub fn likeliest_pf(&self, network: &str) -> Option<(PciAddress, String)> {
        let network = self.networks.get(network)?;
        let places: Vec<usize> = match &network.source {
            Source::Whole(places) => places.clone(),
            Source::Listed(listed) => listed.by_pf.keys().copied().collect(),
        };
        let pfs = places.into_iter().map(|place| &self.pfs[place]);
        let fit = pfs.filter(|pf| {
            let is_up = pf.health.is_some_and(|health| health.up);
            is_up && !pf.vfs.is_empty() && !self.drained.contains(&pf.address)
        });
        let waiting = |address| self.promised.get(address).copied().unwrap_or(0) + 1;
        // a/b < c/d as a·d < c·b; the first of equals stays.
        let best = fit.reduce(|best, pf| {
            let (one, other) = (waiting(&best.address), waiting(&pf.address));
            if other * best.vfs.len() < one * pf.vfs.len() {
                pf
            } else {
                best
            }
        });
        best.map(|pf| (pf.address, pf.netdev.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conf::{NumaPolicy, Spread};

    use super::*;
    use crate::{Health, Holder, Members, NetworkSpec, PfInfo, Request, Sharing, VfInfo, choose};

    fn pf(number: u8) -> PciAddress {
        PciAddress::new(0, number, 0, 0).unwrap()
    }

    fn vf(of: u8, number: u8) -> PciAddress {
        PciAddress::new(0, of, 16, number).unwrap()
    }

    fn pool(vfs: &[u8]) -> Pool {
        let mut pool = Pool::new();
        for (of, &count) in (1..).zip(vfs) {
            let info = PfInfo {
                address: pf(of),
                netdev: format!("pf{of}"),
                numa_node: None,
                max_vfs: 7,
                health: Health {
                    up: true,
                    carrier: true,
                },
            };
            let vfs: Vec<_> = (0..count)
                .map(|number| VfInfo {
                    address: vf(of, number),
                    number: number.into(),
                    netdev: None,
                })
                .collect();
            pool.set_pf(&info, &vfs);
        }
        let spec = NetworkSpec {
            members: Members::PhysicalFunctions((1..).zip(vfs).map(|(of, _)| pf(of)).collect()),
            sharing: Sharing::Exclusive,
            needs_netdev: false,
            spread: Spread::Pack,
            numa: NumaPolicy::Ignore,
            needs_carrier: false,
        };
        pool.set_network("n", spec);
        pool
    }

    fn choose(pool: &Pool, from: choose::Source, is_promised: bool) -> Result<DeviceId, String> {
        let exclude = BTreeMap::new();
        let request = Request {
            network: "n",
            guest: "g",
            mac: None,
            numa_nodes: &[],
            exclude: &exclude,
            from,
            is_promised,
        };
        let chosen = pool.choose(&request);
        chosen
            .map(|choice| choice.device)
            .map_err(|refusal| format!("{refusal}\n{}", refusal.advice()))
    }

    fn lend(pool: &mut Pool, device: PciAddress) {
        let holder = Holder {
            guest: "other".to_owned(),
            network: None,
            mac: None,
        };
        pool.claim(DeviceId::from(device), holder).unwrap();
    }

    #[test]
    fn a_vf_of_a_certain_pf_is_of_that_one() {
        let pool = pool(&[2, 2]);
        let from = choose::Source::Pf(pf(2));
        assert_eq!(choose(&pool, from, false), Ok(vf(2, 0).into()));
    }

    #[test]
    fn what_is_promised_is_kept_for_those_who_wait() {
        let mut pool = pool(&[2]);
        let anywhere = choose::Source::Anywhere;
        pool.promise(pf(1));
        assert_eq!(choose(&pool, anywhere, false), Ok(vf(1, 0).into()));
        lend(&mut pool, vf(1, 0));
        let refusal = choose(&pool, anywhere, false).unwrap_err();
        assert!(refusal.contains("promised"), "{refusal}");
        assert_eq!(choose(&pool, anywhere, true), Ok(vf(1, 1).into()));
        pool.end_promise(pf(1));
        assert_eq!(choose(&pool, anywhere, false), Ok(vf(1, 1).into()));
    }

    #[test]
    fn a_drained_pf_lends_nothing_until_it_is_undrained() {
        let mut pool = pool(&[2, 1]);
        let anywhere = choose::Source::Anywhere;
        pool.set_drained(pf(1), true);
        assert_eq!(choose(&pool, anywhere, false), Ok(vf(2, 0).into()));
        lend(&mut pool, vf(2, 0));
        let refusal = choose(&pool, anywhere, true).unwrap_err();
        assert!(refusal.contains("virtnic undrain pf1"), "{refusal}");
        pool.set_drained(pf(1), false);
        assert_eq!(choose(&pool, anywhere, false), Ok(vf(1, 0).into()));
    }

    #[test]
    fn who_waits_waits_where_most_are_to_be_had() {
        let mut pool = pool(&[2, 5]);
        let name = |pool: &Pool| pool.likeliest_pf("n").unwrap().1;
        assert_eq!(name(&pool), "pf2");
        pool.promise(pf(2));
        assert_eq!(name(&pool), "pf2");
        pool.promise(pf(2));
        assert_eq!(name(&pool), "pf1");
        pool.set_drained(pf(1), true);
        assert_eq!(name(&pool), "pf2");
    }
}
