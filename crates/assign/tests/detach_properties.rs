//! Random lives of functions that are detached, lent, given back, and reattached, in any order, while
//! drivers fail and the daemon is killed.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::BTreeMap;

use assign::{Assigner, Generation, Item, Origin, Phase, Preparation, VfioPreparation};
use common::{Machine, guest, item, ordinary, until_crash};
use host::{Fault, Host, Operation, SimulatedHost, Snapshot};
use proptest::prelude::*;

const VFS: usize = 2;
const EBUSY: i32 = 16;

#[derive(Debug, Clone)]
enum Step {
    Detach(usize),
    Reattach(usize),
    Lend {
        vf: usize,
        managed: bool,
    },
    Return(usize),
    Fail {
        bind: bool,
        nth: u64,
        partial: bool,
    },
    /// The daemon is killed after so many changes, doing the next thing.
    Kill(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let vf = || 0..VFS;
    prop_oneof![
        4 => vf().prop_map(Step::Detach),
        4 => vf().prop_map(Step::Reattach),
        4 => (vf(), any::<bool>()).prop_map(|(vf, managed)| Step::Lend { vf, managed }),
        4 => vf().prop_map(Step::Return),
        1 => (any::<bool>(), 1..4u64, any::<bool>())
            .prop_map(|(bind, nth, partial)| Step::Fail { bind, nth, partial }),
        1 => (1..10u64).prop_map(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

struct Life {
    machine: Machine,
    assigner: Assigner,
    found: Snapshot,
    /// What guests have, by VF.
    loans: BTreeMap<usize, Generation>,
}

impl Life {
    fn new() -> Self {
        let machine = Machine::new(&format!("pfs=1,vfs={VFS}"));
        Self {
            found: machine.host.snapshot(),
            assigner: machine.start(),
            loans: BTreeMap::new(),
            machine,
        }
    }

    fn restart(&mut self) {
        let runs: Vec<_> = self.loans.keys().map(|vf| holder(*vf).guest).collect();
        let (assigner, _) = self.machine.restart(|guest| runs.contains(&guest));
        std::mem::forget(std::mem::replace(&mut self.assigner, assigner));
    }

    /// Does something that a crash may cut short; `None`: it did, and the daemon is up again.
    fn survive<T>(&mut self, work: impl FnOnce(&Assigner) -> T) -> Option<T> {
        let done = until_crash(|| work(&self.assigner));
        if done.is_none() {
            self.restart();
        }
        done
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Detach(vf) => {
                let address = self.machine.vf(vf);
                self.survive(|assigner| drop(assigner.detach(address, None)));
            }
            Step::Reattach(vf) => {
                let address = self.machine.vf(vf);
                let lent = self.loans.contains_key(&vf);
                let outcome = self.survive(|assigner| assigner.reattach(address).is_ok());
                assert!(!(lent && outcome == Some(true)), "a guest has it");
            }
            Step::Lend { vf, managed } => {
                let address = self.machine.vf(vf);
                let preparation = match managed {
                    true => ordinary(1),
                    false => Preparation::Vfio(VfioPreparation {
                        managed: false,
                        driver: None,
                        network: None,
                        profile: None,
                    }),
                };
                let Ok(claim) = self
                    .assigner
                    .claim(address.into(), holder(vf), Origin::HostDevice)
                else {
                    return;
                };
                let lent = self.survive(|assigner| assigner.prepare(claim, &preparation).ok());
                if let Some(Some(lent)) = lent {
                    self.loans.insert(vf, lent.generation);
                }
            }
            Step::Return(vf) => {
                if let Some(generation) = self.loans.remove(&vf) {
                    self.survive(|assigner| drop(assigner.give_back(generation)));
                }
            }
            Step::Fail { bind, nth, partial } => {
                let operation = if bind {
                    Operation::Bind
                } else {
                    Operation::Unbind
                };
                let fault = Fault::of(operation, EBUSY).nth(nth);
                let fault = if partial { fault.partial() } else { fault };
                self.machine.host.fail(fault);
            }
            Step::Kill(effects) => self.machine.host.crash_after(effects),
            Step::Restart => self.restart(),
        }
    }

    fn check(&self) {
        let list = self.assigner.list();
        let mut records: Vec<_> = list
            .iter()
            .map(|line| format!("{}.json", line.item))
            .collect();
        records.sort_unstable();
        assert_eq!(self.machine.records(), records);
        let now = self.machine.host.snapshot();
        for vf in 0..VFS {
            let address = self.machine.vf(vf);
            let driver = self.machine.host.pci_device(address).unwrap().driver;
            let phase = |item| Some(self.assigner.find(item)?.phase);
            match (phase(item(address)), phase(Item::Detached(address))) {
                (None, None) => {
                    assert_eq!(
                        now.devices[&address], self.found.devices[&address],
                        "{address}"
                    );
                    assert!(!self.loans.contains_key(&vf));
                }
                (Some(Phase::Lent), detached) => {
                    assert!(self.loans.contains_key(&vf));
                    assert_eq!(driver.as_deref(), Some("vfio-pci"));
                    assert!(matches!(detached, None | Some(Phase::Lent)), "{detached:?}");
                }
                (None, Some(Phase::Lent)) => assert_eq!(driver.as_deref(), Some("vfio-pci")),
                (Some(Phase::Dirty(_)), _) | (None, Some(Phase::Dirty(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// All ends well once nothing fails any more.
    fn end(mut self) {
        self.machine.host.restart_caller();
        self.machine.host.heal();
        self.loans.clear();
        self.restart();
        for line in self.assigner.list() {
            if line.item.device().is_some() {
                self.assigner.give_back(line.generation).unwrap();
            }
        }
        for vf in 0..VFS {
            self.assigner.reattach(self.machine.vf(vf)).unwrap();
        }
        assert!(self.assigner.list().is_empty() && self.machine.records().is_empty());
        for vf in 0..VFS {
            let address = self.machine.vf(vf);
            let driver = self.machine.host.pci_device(address).unwrap().driver;
            assert_eq!(driver.as_deref(), Some(SimulatedHost::VF_DRIVER));
        }
        assert_eq!(
            self.found.differences(&self.machine.host.snapshot()),
            [""; 0]
        );
    }
}

/// One guest for each VF.
fn holder(vf: usize) -> assign::Holder {
    guest(u32::try_from(vf).unwrap() + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_it_is_a_guests_detached_dirty_or_as_it_was_found(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut life = Life::new();
        for step in &steps {
            life.take(step);
            life.check();
        }
        life.end();
    }
}
