//! Random claims, returns and changes of the hardware, against a model that recomputes everything.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::{BTreeMap, BTreeSet};

use conf::{NumaPolicy, PciAddress, Spread};
use pool::{Health, Holder, Members, NetworkSpec, PfInfo, Pool, Request, VfInfo};
use proptest::prelude::*;

const PFS: u8 = 3;
const VFS: u8 = 6;

#[derive(Debug, Clone)]
enum Step {
    Choose { list: bool },
    Claim(u8, u8),
    Release(u8, u8),
    Withhold(u8, u8),
    Readmit(u8, u8),
    Vfs(u8, u8),
    Remove(u8),
    Link(u8, bool),
    Redefine,
}

fn step() -> impl Strategy<Value = Step> {
    let device = || (0..PFS, 0..VFS);
    prop_oneof![
        6 => any::<bool>().prop_map(|list| Step::Choose { list }),
        2 => device().prop_map(|(pf, vf)| Step::Claim(pf, vf)),
        6 => device().prop_map(|(pf, vf)| Step::Release(pf, vf)),
        1 => device().prop_map(|(pf, vf)| Step::Withhold(pf, vf)),
        2 => device().prop_map(|(pf, vf)| Step::Readmit(pf, vf)),
        2 => (0..PFS, 0..=VFS).prop_map(|(pf, count)| Step::Vfs(pf, count)),
        1 => (0..PFS).prop_map(Step::Remove),
        2 => (0..PFS, any::<bool>()).prop_map(|(pf, up)| Step::Link(pf, up)),
        1 => Just(Step::Redefine),
    ]
}

/// What is so, with nothing derived from it.
#[derive(Default)]
struct Model {
    present: BTreeMap<u8, (u8, bool)>,
    lent: BTreeSet<PciAddress>,
    withheld: BTreeSet<PciAddress>,
}

impl Model {
    fn there(&self, pf: u8, number: u8) -> bool {
        self.present
            .get(&pf)
            .is_some_and(|(count, _)| number < *count)
    }

    fn free(&self) -> Vec<(u8, PciAddress)> {
        (0..PFS)
            .flat_map(|pf| (0..VFS).map(move |number| (pf, number)))
            .filter(|&(pf, number)| self.there(pf, number))
            .map(|(pf, number)| (pf, vf(pf, number)))
            .filter(|(_, device)| !self.lent.contains(device) && !self.withheld.contains(device))
            .collect()
    }

    fn lent_on(&self, pf: u8) -> usize {
        (0..VFS)
            .filter(|&number| self.there(pf, number) && self.lent.contains(&vf(pf, number)))
            .count()
    }

    /// Balance: an open PF with the fewest lent, the first of these, its first free VF.
    fn choice(&self) -> Option<PciAddress> {
        let open = |pf: &u8| self.present.get(pf).is_some_and(|(_, up)| *up);
        (self.free().into_iter())
            .filter(|(pf, _)| open(pf))
            .min_by_key(|&(pf, device)| (self.lent_on(pf), pf, device))
            .map(|(_, device)| device)
    }
}

fn pf(n: u8) -> PciAddress {
    PciAddress::new(0, n, 0, 0).unwrap()
}

fn vf(n: u8, number: u8) -> PciAddress {
    PciAddress::new(0, n, 0x10, number).unwrap()
}

fn info(n: u8, up: bool) -> PfInfo {
    PfInfo {
        address: pf(n),
        netdev: format!("ens{n}"),
        numa_node: None,
        max_vfs: VFS.into(),
        health: Health { up, carrier: up },
    }
}

fn infos(n: u8, count: u8) -> Vec<VfInfo> {
    (0..count)
        .map(|number| VfInfo {
            address: vf(n, number),
            number: number.into(),
        })
        .collect()
}

fn spec(members: Members) -> NetworkSpec {
    NetworkSpec {
        members,
        spread: Spread::Balance,
        numa: NumaPolicy::Ignore,
        needs_carrier: false,
    }
}

/// Every second VF, the last PF's first: a list with gaps that crosses PFs.
fn list() -> Vec<PciAddress> {
    (0..PFS)
        .rev()
        .flat_map(|n| (0..VFS).step_by(2).map(move |number| vf(n, number)))
        .collect()
}

fn define(pool: &mut Pool) {
    pool.set_network(
        "all",
        spec(Members::PhysicalFunctions((0..PFS).map(pf).collect())),
    );
    pool.set_network("list", spec(Members::Addresses(list())));
}

fn holder() -> Holder {
    Holder {
        guest: "web".into(),
        network: None,
        mac: None,
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut pool = Pool::new();
    let mut model = Model::default();
    define(&mut pool);
    let exclude = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Choose { list } => {
                let network = if list { "list" } else { "all" };
                let request = Request {
                    network,
                    guest: "web",
                    mac: None,
                    numa_nodes: &[],
                    exclude: &exclude,
                };
                let chosen = pool.choose(&request).ok().map(|choice| choice.device);
                if !list {
                    prop_assert_eq!(chosen, model.choice());
                }
                if let Some(device) = chosen {
                    prop_assert!(pool.claim(device, holder()).is_ok());
                    prop_assert!(model.lent.insert(device), "{device} was lent twice");
                }
            }
            Step::Claim(n, number) => {
                let claimed = pool.claim(vf(n, number), holder()).is_ok();
                prop_assert_eq!(claimed, model.lent.insert(vf(n, number)));
            }
            Step::Release(n, number) => {
                let released = pool.release(vf(n, number)).is_some();
                prop_assert_eq!(released, model.lent.remove(&vf(n, number)));
            }
            Step::Withhold(n, number) => {
                pool.withhold(vf(n, number), "dirty");
                model.withheld.insert(vf(n, number));
            }
            Step::Readmit(n, number) => {
                pool.readmit(vf(n, number));
                model.withheld.remove(&vf(n, number));
            }
            Step::Vfs(n, count) => {
                let up = model.present.get(&n).is_none_or(|(_, up)| *up);
                pool.set_pf(&info(n, up), &infos(n, count));
                model.present.insert(n, (count, up));
            }
            Step::Remove(n) => {
                pool.remove_pf(pf(n));
                model.present.remove(&n);
            }
            Step::Link(n, up) => {
                pool.set_health(pf(n), Health { up, carrier: up });
                if let Some((_, link)) = model.present.get_mut(&n) {
                    *link = up;
                }
            }
            Step::Redefine => define(&mut pool),
        }
        let free: Vec<_> = model.free().into_iter().map(|(_, device)| device).collect();
        prop_assert_eq!(pool.free("all"), free.clone());
        let listed: Vec<_> = list()
            .into_iter()
            .filter(|device| free.contains(device))
            .collect();
        prop_assert_eq!(pool.free("list"), listed);
        let lent: BTreeSet<_> = pool.loans().map(|(device, _)| device).collect();
        prop_assert_eq!(&lent, &model.lent);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_indexes_say_what_a_recount_says(steps in prop::collection::vec(step(), 0..120)) {
        run(&steps)?;
    }

    /// While every PF has a free VF, no PF has lent two more than another.
    #[test]
    fn balance_keeps_the_pfs_level(
        pfs in 1u8..8,
        loans in 0usize..60,
    ) {
        let mut pool = Pool::new();
        for n in 0..pfs {
            pool.set_pf(&info(n, true), &(0..8)
                .map(|number| VfInfo { address: vf(n, number), number: number.into() })
                .collect::<Vec<_>>());
        }
        pool.set_network("all", spec(Members::PhysicalFunctions((0..pfs).map(pf).collect())));
        let exclude = BTreeMap::new();
        let mut lent = vec![0usize; pfs.into()];
        for _ in 0..loans.min(usize::from(pfs) * 8) {
            let request = Request {
                network: "all",
                guest: "web",
                mac: None,
                numa_nodes: &[],
                exclude: &exclude,
            };
            let choice = pool.choose(&request).unwrap();
            pool.claim(choice.device, holder()).unwrap();
            lent[usize::from(choice.pf.bus())] += 1;
            let (most, least) = (lent.iter().max().unwrap(), lent.iter().min().unwrap());
            prop_assert!(most - least <= 1, "{lent:?}");
        }
    }
}
