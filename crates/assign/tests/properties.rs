//! Random lives: guests come and go with what they were lent, drivers fail, the daemon is killed,
//! and starts again.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use assign::{
    Assigner, Assignment, Claim, ClaimError, Generation, Item, Lent, MacvtapPreparation, Origin,
    Phase, Preparation, ReturnError,
};
use common::scenes::{Scene, macvtap, qbg, vlan};
use common::{Machine, everything, guest, mac, mac_and_vlan, ordinary, until_crash};
use conf::{DeviceId, DirectMode, MacAddress};
use host::{Fault, Links, Snapshot};
use proptest::prelude::*;

const VFS: usize = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Vfio {
        vf: usize,
        all: bool,
    },
    PassthroughVf(usize),
    PassthroughNic(&'static str),
    Shared(&'static str, DirectMode),
    SharedVf(usize),
    /// On a VLAN device; the host has one of its own for VLAN 43 of eth0.
    Vlan(&'static str, u16),
    Bridge,
    Ethernet,
}

#[derive(Debug, Clone)]
enum Step {
    Lend(Wish, u32),
    Switch(usize, bool),
    Return(usize),
    /// Give back what was given back long ago.
    Late(usize),
    /// An operation fails, so many calls from now.
    Fail {
        nth: u64,
        partial: bool,
    },
    /// A guest dies; the daemon hears of it only by restarting.
    Die(u32),
    /// The daemon is killed after so many changes, doing the next thing.
    Kill(u64),
}

fn wish() -> impl Strategy<Value = Wish> {
    let nic = || prop_oneof![Just("eth0"), Just("eth1")];
    let lower = prop_oneof![Just("eth0"), Just("eth1"), Just("sim0")];
    let on = prop_oneof![Just("eth0"), Just("eth1"), Just("sim0")];
    let mode = prop_oneof![
        Just(DirectMode::Vepa),
        Just(DirectMode::Private),
        Just(DirectMode::Bridge)
    ];
    prop_oneof![
        4 => (0..VFS, any::<bool>()).prop_map(|(vf, all)| Wish::Vfio { vf, all }),
        4 => (0..VFS).prop_map(Wish::PassthroughVf),
        2 => nic().prop_map(Wish::PassthroughNic),
        4 => (lower, mode).prop_map(|(lower, mode)| Wish::Shared(lower, mode)),
        1 => (0..VFS).prop_map(Wish::SharedVf),
        4 => (on, 42..44u16).prop_map(|(lower, id)| Wish::Vlan(lower, id)),
        2 => Just(Wish::Bridge),
        1 => Just(Wish::Ethernet),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (wish(), 1..5u32).prop_map(|(wish, guest)| Step::Lend(wish, guest)),
        4 => (0..8usize, any::<bool>()).prop_map(|(nth, up)| Step::Switch(nth, up)),
        4 => (0..8usize).prop_map(Step::Return),
        1 => (0..8usize).prop_map(Step::Late),
        2 => (1..40u64, any::<bool>()).prop_map(|(nth, partial)| Step::Fail { nth, partial }),
        1 => (1..5u32).prop_map(Step::Die),
        2 => (0..14u64).prop_map(Step::Kill),
    ]
}

/// Something that a guest has.
#[derive(Debug)]
struct Loan {
    guest: u32,
    mac: MacAddress,
    wish: Wish,
    /// With the descriptors that its QEMU holds.
    lent: Lent,
}

struct Life {
    machine: Machine,
    assigner: Assigner,
    vfs: Vec<DeviceId>,
    nics: BTreeMap<&'static str, DeviceId>,
    /// What network devices have, which no fault keeps from us.
    indexes: BTreeMap<&'static str, u32>,
    found: Snapshot,
    /// What the guests have, as they see it.
    loans: BTreeMap<Item, Loan>,
    past: Vec<Generation>,
    count: u32,
}

impl Life {
    fn new() -> Self {
        let machine = Machine::with_links(&format!("vfs={VFS}"));
        // Down, unlike eth0.
        machine.host.add_nic("eth1").unwrap();
        machine.host.add_vlan("eth0.43", "eth0", vlan(43)).unwrap();
        let index = |nic| machine.host.netdev(nic).unwrap().index;
        let indexes = ["eth0", "eth1", "sim0"].map(|nic| (nic, index(nic)));
        let nics = ["eth0", "eth1", "sim0"].map(|nic| (nic, machine.device(nic)));
        Self {
            found: machine.host.snapshot(),
            assigner: machine.start(),
            vfs: (0..VFS).map(|number| machine.vf(number).into()).collect(),
            nics: nics.into(),
            indexes: indexes.into(),
            machine,
            loans: BTreeMap::new(),
            past: Vec::new(),
            count: 0,
        }
    }

    fn claim(&self, wish: Wish, n: u32) -> Result<Claim, ClaimError> {
        let whole = |device| self.assigner.claim(device, guest(n), Origin::PoolPort);
        let link = |parent| self.assigner.claim_link(parent, guest(n), Origin::PoolPort);
        match wish {
            Wish::Vfio { vf, .. } | Wish::PassthroughVf(vf) => whole(self.vfs[vf]),
            Wish::PassthroughNic(nic) => whole(self.nics[nic]),
            Wish::Shared(lower, _) | Wish::Vlan(lower, _) => link(Some(self.nics[lower])),
            Wish::SharedVf(vf) => link(Some(self.vfs[vf])),
            Wish::Bridge | Wish::Ethernet => link(None),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Lend(wish, n) => self.lend(wish, n),
            Step::Switch(nth, up) => {
                let Some(loan) = self.loans.values().nth(nth) else {
                    return;
                };
                let generation = loan.lent.generation;
                if until_crash(|| self.assigner.set_link_state(generation, up).is_ok()).is_none() {
                    self.restart();
                }
            }
            Step::Return(nth) => {
                // What is dirty is nobody's, and is tried again.
                let listed = self.assigner.list();
                let Some(line) = listed.get(nth) else { return };
                let returned = until_crash(|| self.assigner.give_back(line.generation));
                match returned {
                    Some(Err(ReturnError::Untouched { .. } | ReturnError::StillHeld { .. })) => {}
                    Some(_) => self.forget(line.item),
                    None => {
                        self.forget(line.item);
                        self.restart();
                    }
                }
            }
            Step::Late(n) => {
                if let Some(generation) = self.past.get(n) {
                    assert!(self.assigner.give_back(*generation).is_err());
                    assert!(self.assigner.set_link_state(*generation, true).is_err());
                }
            }
            Step::Fail { nth, partial } => {
                let fault = Fault::any(5).nth(nth);
                let fault = if partial { fault.partial() } else { fault };
                self.machine.host.fail(fault);
            }
            Step::Die(n) => {
                let loans = self.loans.iter().filter(|(_, loan)| loan.guest == n);
                let dead: Vec<_> = loans.map(|(item, _)| *item).collect();
                for item in dead {
                    self.forget(item);
                }
                self.restart();
            }
            Step::Kill(effects) => self.machine.host.crash_after(effects.max(1)),
        }
    }

    fn lend(&mut self, wish: Wish, n: u32) {
        let Ok(claim) = self.claim(wish, n) else {
            return;
        };
        let item = claim.item();
        assert!(!self.loans.contains_key(&item), "{item} is lent twice");
        self.count += 1;
        let mac = mac(self.count);
        let preparation = preparation(wish, self.count);
        match until_crash(|| self.assigner.prepare(claim, &preparation)) {
            Some(Ok(lent)) => {
                let loan = Loan {
                    guest: n,
                    mac,
                    wish,
                    lent,
                };
                self.loans.insert(item, loan);
            }
            Some(Err(_)) => {}
            None => self.restart(),
        }
    }

    /// The guest has let go.
    fn forget(&mut self, item: Item) {
        if let Some(loan) = self.loans.remove(&item) {
            // Dirty items are tried again under the same generation.
            if self.assigner.find(item).is_none() {
                self.past.push(loan.lent.generation);
            }
        }
    }

    /// A machine does not fail at every start.
    fn restart(&mut self) {
        self.machine.host.heal();
        let loans = self.loans.values();
        let running: Vec<_> = loans.map(|loan| guest(loan.guest).guest).collect();
        let (assigner, _) = self.machine.restart(|id| running.contains(&id));
        std::mem::forget(std::mem::replace(&mut self.assigner, assigner));
        // A guest that runs has lost what was on its way back to the host.
        let gone: Vec<_> = (self.loans.keys())
            .filter(|item| self.assigner.find(**item).is_none())
            .copied()
            .collect();
        assert!(gone.is_empty(), "{gone:?} were taken from running guests");
    }

    /// The list, the kernel and the guests agree.
    fn check(&self) {
        let now = self.machine.host.snapshot();
        let list = self.assigner.list();
        let mut records: Vec<_> = list
            .iter()
            .map(|line| format!("{}.json", line.item))
            .collect();
        records.sort_unstable();
        assert_eq!(self.machine.records(), records);
        for line in &list {
            let loan = self.loans.get(&line.item);
            match (&line.phase, loan) {
                (Phase::Lent, Some(loan)) => {
                    assert_eq!(line.generation, loan.lent.generation);
                    assert_eq!(line.holder, guest(loan.guest));
                }
                (Phase::Dirty(_), None) => {}
                (phase, loan) => panic!("{} is {phase:?}, and lent {loan:?}", line.item),
            }
        }
        assert!(
            self.loans
                .keys()
                .all(|item| list.iter().any(|line| line.item == *item))
        );
        self.check_agreement(&list);
        self.check_devices(&list, &now);
        self.check_links(&list, &now);
    }

    /// The list by guest, and by device.
    fn check_agreement(&self, list: &[Assignment]) {
        let by_guest: BTreeSet<_> = (1..5)
            .flat_map(|n| self.assigner.of_guest(guest(n).guest))
            .map(|line| line.item)
            .collect();
        assert_eq!(by_guest, list.iter().map(|line| line.item).collect());
        for device in self.vfs.iter().chain(self.nics.values()) {
            let lines = || list.iter().filter(|line| line.device() == Some(*device));
            assert_eq!(self.assigner.connections(*device), lines().count());
            let whole = lines().filter(|line| line.parent.is_none()).count();
            assert!(
                whole == 0 || lines().count() == 1,
                "{device} is whole, and shared"
            );
        }
    }

    /// What nobody has is as it was found; what is lent is as it was asked for.
    fn check_devices(&self, list: &[Assignment], now: &Snapshot) {
        let used: BTreeSet<_> = list.iter().filter_map(Assignment::device).collect();
        for (number, device) in self.vfs.iter().enumerate() {
            let address = device.pci().unwrap();
            let netdev = format!("sim0v{number}");
            if !used.contains(device) {
                assert_eq!(
                    now.devices[&address], self.found.devices[&address],
                    "{device}"
                );
                assert_eq!(now.netdevs.get(&netdev), self.found.netdevs.get(&netdev));
            }
            let Some(loan) = self.loans.get(&Item::Device(*device)) else {
                continue;
            };
            let state = now.devices[&address].vf.as_ref().unwrap();
            match loan.wish {
                Wish::Vfio { .. } => {
                    assert_eq!(state.mac, loan.mac);
                    assert_eq!(state.driver.as_deref(), Some("vfio-pci"));
                }
                _ => assert_eq!(state.netdev, Some((netdev, loan.mac))),
            }
        }
        for (name, device) in &self.nics {
            if !used.contains(device) {
                assert_eq!(now.netdevs[*name], self.found.netdevs[*name]);
            }
        }
        for name in ["br0", "tap0", "eth0.43"] {
            assert_eq!(now.netdevs[name], self.found.netdevs[name]);
        }
    }

    /// There are the links of the list, and no others; what is dirty may have left one.
    fn check_links(&self, list: &[Assignment], now: &Snapshot) {
        let is_dirty = |line: &&Assignment| matches!(line.phase, Phase::Dirty(_));
        let dirty: BTreeSet<_> = (list.iter().filter(is_dirty))
            .filter_map(|line| Some(line.netdev?.to_string()))
            .collect();
        let lent: BTreeSet<_> = (list.iter().filter(|line| !is_dirty(line)))
            .filter_map(|line| Some(line.netdev?.to_string()))
            .collect();
        let (vlans, ours): (Vec<_>, Vec<_>) = (now.netdevs.values())
            .filter(|link| link.netdev.is_ours())
            .partition(|link| link.netdev.vlan.is_some());
        let vlans = vlans.iter().map(|link| link.netdev.name.to_string());
        self.check_vlans(&vlans.collect(), dirty.is_empty());
        let ours = ours.into_iter();
        let there: BTreeSet<_> = ours.map(|link| link.netdev.name.to_string()).collect();
        assert!(
            there.is_superset(&lent),
            "{there:?} without some of {lent:?}"
        );
        assert!(there.is_subset(&lent.union(&dirty).cloned().collect()));
        if dirty.is_empty() {
            let vepa = |loan: &&Loan| matches!(loan.wish, Wish::Shared(_, DirectMode::Vepa));
            let asked: BTreeSet<_> = (self.loans.values().filter(vepa))
                .map(|loan| loan.mac)
                .collect();
            assert_eq!(
                now.port_profiles.keys().copied().collect::<BTreeSet<_>>(),
                asked
            );
        }
    }

    /// Each VLAN that a guest has is there, and none that no guest has.
    fn check_vlans(&self, there: &BTreeSet<String>, is_all: bool) {
        let asked: BTreeSet<_> = (self.loans.values())
            .filter_map(|loan| match loan.wish {
                Wish::Vlan("eth0", 43) => None,
                Wish::Vlan(lower, id) => Some(format!("vn{}.{id}", self.indexes[lower])),
                _ => None,
            })
            .collect();
        assert!(
            there.is_superset(&asked),
            "{there:?} without some of {asked:?}"
        );
        assert!(!is_all || *there == asked, "{there:?} beyond {asked:?}");
    }
}

fn preparation(wish: Wish, n: u32) -> Preparation {
    match wish {
        Wish::Vfio { all: true, .. } => everything(n),
        Wish::Vfio { all: false, .. } => ordinary(n),
        Wish::PassthroughVf(vf) => Preparation::Macvtap(MacvtapPreparation {
            vf: Some(mac_and_vlan(n)),
            ..macvtap(&format!("sim0v{vf}"), DirectMode::Passthrough, n)
        }),
        Wish::PassthroughNic(nic) => Preparation::Macvtap(MacvtapPreparation {
            mtu: Some(9000),
            ..macvtap(nic, DirectMode::Passthrough, n)
        }),
        Wish::Shared(lower, mode) => Preparation::Macvtap(MacvtapPreparation {
            profile: (mode == DirectMode::Vepa).then(qbg),
            ..macvtap(lower, mode, n)
        }),
        Wish::SharedVf(vf) => {
            let lower = format!("sim0v{vf}");
            Preparation::Macvtap(macvtap(&lower, DirectMode::Bridge, n))
        }
        Wish::Vlan(lower, id) => Preparation::Macvtap(MacvtapPreparation {
            vlan: Some(vlan(id)),
            ..macvtap(lower, DirectMode::Bridge, n)
        }),
        Wish::Bridge => Scene::Bridge.preparation(n),
        Wish::Ethernet => Scene::Ethernet.preparation(n),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lent_twice_or_forgotten_and_all_else_is_as_found(
        steps in prop::collection::vec(step(), 1..48)
    ) {
        let mut life = Life::new();
        for step in &steps {
            life.take(step);
            life.check();
        }
        // In the end everything can be had back.
        life.machine.host.heal();
        life.loans.clear();
        life.restart();
        life.check();
        prop_assert!(life.assigner.list().is_empty());
        prop_assert_eq!(
            life.found.differences(&life.machine.host.snapshot()),
            Vec::<String>::new()
        );
    }
}
