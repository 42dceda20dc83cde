//! Random networks, loans, shares and changes of the hardware, against a model that recomputes
//! everything from what is so.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;
mod model;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use conf::{DeviceId, MacAddress, NumaPolicy, Spread};
use model::{Model, Outcome};
use pool::{Health, Holder, Members, NetworkSpec, NicInfo, Pool, Request, Sharing, Verdict};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const PFS: u8 = 3;
const VFS: u8 = 4;
const NETWORKS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Choose(Ask),
    Claim(DeviceId, Who),
    Release(DeviceId),
    Share(DeviceId, Who),
    EndShare(Index),
    Withhold(DeviceId),
    Readmit(DeviceId),
    SetPf(u8, Health, Vec<(u8, bool)>),
    RemovePf(u8),
    SetNic(NicInfo),
    RemoveNic(DeviceId),
    Link(DeviceId, Health),
    Define(&'static str, NetworkSpec),
    Undefine(&'static str),
}

#[derive(Debug, Clone)]
struct Ask {
    network: &'static str,
    who: Who,
    nodes: Vec<u16>,
    exclude: Vec<DeviceId>,
    /// Whether what is chosen is taken then.
    takes: bool,
}

#[derive(Debug, Clone)]
struct Who {
    guest: &'static str,
    mac: Option<MacAddress>,
}

impl Who {
    fn holder(&self) -> Holder {
        Holder {
            guest: self.guest.into(),
            network: None,
            mac: self.mac,
        }
    }
}

/// VFs of all PFs, three NICs known by name, and the first PF's own network device.
fn devices() -> Vec<DeviceId> {
    let vfs = (1..=PFS).flat_map(|n| (0..VFS).map(move |number| vf(n, number).into()));
    vfs.chain(nic_ids()).collect()
}

fn nic_ids() -> Vec<DeviceId> {
    vec![id("nic0"), id("nic1"), id("nic2"), pf(1).into()]
}

fn who() -> impl Strategy<Value = Who> {
    let mac = prop::option::of((1u8..=2).prop_map(|n| MacAddress::new([2, 0, 0, 0, 0, n])));
    (select(vec!["web", "db"]), mac).prop_map(|(guest, mac)| Who { guest, mac })
}

fn health() -> impl Strategy<Value = Health> {
    select(vec![UP, UP, UP, DARK, DOWN])
}

fn spec() -> impl Strategy<Value = NetworkSpec> {
    let members = prop_oneof![
        prop::collection::vec((1..=PFS).prop_map(pf), 0..4).prop_map(Members::PhysicalFunctions),
        prop::collection::vec(select(devices()), 0..12).prop_map(Members::Devices),
        Just(Members::Devices(devices())),
    ];
    let sharing = select(vec![Sharing::Exclusive, Sharing::Shared]);
    let spread = select(vec![Spread::Balance, Spread::Pack]);
    let policies = vec![NumaPolicy::Ignore, NumaPolicy::Prefer, NumaPolicy::Require];
    let flags = (any::<bool>(), any::<bool>());
    (members, sharing, spread, select(policies), flags).prop_map(
        |(members, sharing, spread, numa, (needs_netdev, needs_carrier))| NetworkSpec {
            members,
            sharing,
            needs_netdev,
            spread,
            numa,
            needs_carrier,
        },
    )
}

/// VFs in any order, so that they change their numbers; some have network devices.
fn some_vfs() -> impl Strategy<Value = Vec<(u8, bool)>> {
    let all = (0..VFS).collect::<Vec<_>>();
    let order = (Just(all).prop_shuffle(), 0..=usize::from(VFS));
    (order, any::<[bool; VFS as usize]>()).prop_map(|((mut order, count), named)| {
        order.truncate(count);
        order.into_iter().zip(named).collect()
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let nodes = select(vec![vec![], vec![0], vec![1], vec![0, 1]]);
    let exclude = prop::collection::vec(select(devices()), 0..3);
    (select(&NETWORKS[..]), who(), nodes, exclude, any::<bool>()).prop_map(
        |(network, who, nodes, exclude, takes)| Ask {
            network,
            who,
            nodes,
            exclude,
            takes,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let device = || select(devices());
    let nic = (select(nic_ids()), prop::option::of(0u16..2), health()).prop_map(
        |(device, numa_node, health)| NicInfo {
            device,
            netdev: name("any0"),
            numa_node,
            health,
        },
    );
    prop_oneof![
        12 => ask().prop_map(Step::Choose),
        2 => (device(), who()).prop_map(|(device, who)| Step::Claim(device, who)),
        4 => device().prop_map(Step::Release),
        2 => (device(), who()).prop_map(|(device, who)| Step::Share(device, who)),
        4 => any::<Index>().prop_map(Step::EndShare),
        1 => device().prop_map(Step::Withhold),
        2 => device().prop_map(Step::Readmit),
        4 => (1..=PFS, health(), some_vfs()).prop_map(|(n, h, vfs)| Step::SetPf(n, h, vfs)),
        1 => (1..=PFS).prop_map(Step::RemovePf),
        4 => nic.prop_map(Step::SetNic),
        1 => select(nic_ids()).prop_map(Step::RemoveNic),
        2 => (device(), health()).prop_map(|(device, health)| Step::Link(device, health)),
        1 => ((1..=PFS).prop_map(pf), health()).prop_map(|(pf, h)| Step::Link(pf.into(), h)),
        3 => (select(&NETWORKS[..]), spec()).prop_map(|(name, spec)| Step::Define(name, spec)),
        1 => select(&NETWORKS[..]).prop_map(Step::Undefine),
    ]
}

fn choose(pool: &mut Pool, model: &mut Model, ask: &Ask) -> Result<(), TestCaseError> {
    let exclude: BTreeMap<_, _> = (ask.exclude.iter())
        .map(|device| (*device, "busy".to_owned()))
        .collect();
    let request = Request {
        network: ask.network,
        guest: ask.who.guest,
        mac: ask.who.mac,
        numa_nodes: &ask.nodes,
        exclude: &exclude,
        from: pool::Source::Anywhere,
        is_promised: false,
    };
    let choice = pool.choose(&request);
    let chosen = choice.as_ref().ok().map(|choice| choice.device);
    prop_assert_eq!(chosen, model.choice(&request));
    if let Some(explanation) = pool.explain(&request) {
        let rows = &explanation.rows;
        let is_open = rows.iter().any(|row| *row.verdict() == Verdict::Open);
        prop_assert_eq!(chosen.is_some(), is_open, "{:?}", explanation);
    }
    if let (Some(device), true) = (chosen, ask.takes) {
        match model.networks[ask.network].sharing {
            Sharing::Exclusive => claim(pool, model, device, &ask.who)?,
            Sharing::Shared => share(pool, model, device, &ask.who)?,
        }
        prop_assert!(model.took, "what was chosen is taken");
    }
    Ok(())
}

fn claim(
    pool: &mut Pool,
    model: &mut Model,
    device: DeviceId,
    who: &Who,
) -> Result<(), TestCaseError> {
    let claimed = pool.claim(device, who.holder()).is_ok();
    model.claim(device, who.holder());
    prop_assert_eq!(claimed, model.took);
    Ok(())
}

fn share(
    pool: &mut Pool,
    model: &mut Model,
    device: DeviceId,
    who: &Who,
) -> Result<(), TestCaseError> {
    let shared = pool.share(device, who.holder()).ok();
    model.share(device, who.holder(), shared);
    prop_assert_eq!(shared.is_some(), model.took);
    Ok(())
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut pool = Pool::new();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Choose(ask) => choose(&mut pool, &mut model, ask)?,
            Step::Claim(device, who) => claim(&mut pool, &mut model, *device, who)?,
            Step::Share(device, who) => share(&mut pool, &mut model, *device, who)?,
            Step::Release(device) => {
                prop_assert_eq!(pool.release(*device), model.whole.remove(device));
            }
            Step::EndShare(index) => {
                if !model.shares.is_empty() {
                    let (id, device, holder) = model.shares.remove(index.index(model.shares.len()));
                    prop_assert_eq!(pool.release_share(id), Some((device, holder)));
                    prop_assert_eq!(pool.release_share(id), None);
                }
            }
            Step::Withhold(device) => {
                pool.withhold(*device, "dirty");
                model.withheld.insert(*device);
            }
            Step::Readmit(device) => {
                pool.readmit(*device);
                model.withheld.remove(device);
            }
            Step::SetPf(n, health, vfs) => {
                let pf_info = pool::PfInfo {
                    health: *health,
                    ..info(*n)
                };
                let before = model.present();
                let infos =
                    model.set_pf(&pf_info, vfs.iter().map(|(k, named)| (vf(*n, *k), *named)));
                let update = pool.set_pf(&pf_info, &infos);
                check_update(&update, &model, &before)?;
            }
            Step::RemovePf(n) => {
                let before = model.present();
                let update = pool.remove_pf(pf(*n));
                model.pfs.remove(&pf(*n));
                check_update(&update, &model, &before)?;
            }
            Step::SetNic(info) => {
                let before = model.present();
                let update = pool.set_nic(*info);
                model.nics.insert(info.device, *info);
                check_update(&update, &model, &before)?;
            }
            Step::RemoveNic(device) => {
                let before = model.present();
                let update = pool.remove_nic(*device);
                model.nics.remove(device);
                check_update(&update, &model, &before)?;
            }
            Step::Link(device, health) => {
                pool.set_health(*device, *health);
                model.set_health(*device, *health);
            }
            Step::Define(name, spec) => {
                pool.set_network(name, spec.clone());
                model.networks.insert(name, spec.clone());
            }
            Step::Undefine(name) => {
                prop_assert_eq!(
                    pool.remove_network(name),
                    model.networks.remove(name).is_some()
                );
            }
        }
        for name in NETWORKS {
            prop_assert_eq!(pool.free(name), model.free(name));
        }
        for device in devices() {
            prop_assert_eq!(pool.connections(device), model.connections(device));
            let held: Vec<_> = pool.holders(device).cloned().collect();
            prop_assert_eq!(held, model.holders(device));
        }
    }
    Ok(())
}

/// What an update says is the difference of before and now.
fn check_update(
    update: &pool::Update,
    model: &Model,
    before: &BTreeSet<DeviceId>,
) -> Result<(), TestCaseError> {
    let now = model.present();
    let appeared: BTreeSet<_> = update.appeared.iter().copied().collect();
    let vanished: BTreeSet<_> = update.vanished.iter().copied().collect();
    prop_assert_eq!(appeared, now.difference(before).copied().collect());
    prop_assert_eq!(vanished, before.difference(&now).copied().collect());
    let told: Outcome = update.vanished_while_lent.clone();
    let lost = update.vanished.iter();
    let lost = lost.flat_map(|device| model.holders(*device).into_iter().map(|h| (*device, h)));
    prop_assert_eq!(told, lost.collect::<Outcome>());
    Ok(())
}

proptest! {
    #[test]
    fn the_indexes_say_what_a_recount_says(steps in prop::collection::vec(step(), 0..100)) {
        run(&steps)?;
    }

    /// While every PF has a free VF, no PF has lent two more than another.
    #[test]
    fn balance_keeps_the_pfs_level(count in 1u8..8, loans in 0usize..60) {
        let mut pool = pool_of(count, |_| {});
        let mut lent = vec![0usize; usize::from(count) + 1];
        for _ in 0..loans.min(usize::from(count) * 7) {
            let device = lend(&mut pool, "web");
            lent[usize::from(device.pci().unwrap().bus())] += 1;
            let (most, least) = (lent[1..].iter().max().unwrap(), lent[1..].iter().min().unwrap());
            prop_assert!(most - least <= 1, "{lent:?}");
        }
    }

    /// Parents of any kind, joined only through the network, are level to one connection.
    #[test]
    fn connections_stay_level(parents in 1usize..30, guests in 0usize..100) {
        let names: Vec<_> = (0..parents).map(|n| format!("nic{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut pool = lan(&names, |_| {});
        for _ in 0..guests {
            join(&mut pool, "web");
        }
        let counts: Vec<_> = names.iter().map(|name| pool.connections(id(name))).collect();
        let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
    }
}
