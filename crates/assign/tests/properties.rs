//! Random lives: guests come and go, drivers fail, the daemon is killed, and starts again.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::BTreeMap;

use assign::{Assigner, DeviceId, Generation, Phase};
use common::{Machine, claim, everything, guest, ordinary, until_crash};
use conf::PciAddress;
use host::{Fault, Snapshot};
use proptest::prelude::*;

const VFS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Lend {
        vf: usize,
        guest: u32,
        all: bool,
    },
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..VFS, 1..5u32, any::<bool>())
            .prop_map(|(vf, guest, all)| Step::Lend { vf, guest, all }),
        4 => (0..VFS).prop_map(Step::Return),
        1 => (0..8usize).prop_map(Step::Late),
        2 => (1..40u64, any::<bool>()).prop_map(|(nth, partial)| Step::Fail { nth, partial }),
        1 => (1..5u32).prop_map(Step::Die),
        2 => (0..14u64).prop_map(Step::Kill),
    ]
}

struct Life {
    machine: Machine,
    assigner: Assigner,
    vfs: Vec<PciAddress>,
    found: Snapshot,
    /// Whose each lent device is, as the guests see it.
    lent: BTreeMap<PciAddress, (u32, Generation)>,
    past: Vec<Generation>,
}

impl Life {
    fn new() -> Self {
        let machine = Machine::new(&format!("vfs={VFS}"));
        let assigner = machine.start();
        Self {
            vfs: (0..VFS).map(|number| machine.vf(number)).collect(),
            found: machine.host.snapshot(),
            assigner,
            machine,
            lent: BTreeMap::new(),
            past: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        let assigner = &self.assigner;
        match *step {
            Step::Lend { vf, guest, all } => {
                let vf = self.vfs[vf];
                let preparation = if all {
                    everything(guest)
                } else {
                    ordinary(guest)
                };
                let Ok(claimed) = claim(assigner, vf, guest) else {
                    return;
                };
                assert!(!self.lent.contains_key(&vf), "{vf} is lent twice");
                let prepared = until_crash(|| assigner.prepare(claimed, &preparation));
                match prepared {
                    Some(Ok(lent)) => {
                        self.lent.insert(vf, (guest, lent.generation));
                    }
                    Some(Err(_)) => {}
                    None => self.restart(),
                }
            }
            Step::Return(vf) => {
                let vf = self.vfs[vf];
                // What is dirty is nobody's, and is tried again.
                let of_guest = self.lent.get(&vf).map(|(_, generation)| *generation);
                let listed = assigner.find(DeviceId::Pci(vf)).map(|line| line.generation);
                let Some(generation) = of_guest.or(listed) else {
                    return;
                };
                let returned = until_crash(|| assigner.give_back(generation));
                match returned {
                    Some(Err(assign::ReturnError::Untouched { .. })) => {}
                    Some(_) => self.forget(vf),
                    None => {
                        self.forget(vf);
                        self.restart();
                    }
                }
            }
            Step::Late(n) => {
                if let Some(generation) = self.past.get(n) {
                    assert!(assigner.give_back(*generation).is_err());
                }
            }
            Step::Fail { nth, partial } => {
                let fault = Fault::any(5).nth(nth);
                let fault = if partial { fault.partial() } else { fault };
                self.machine.host.fail(fault);
            }
            Step::Die(n) => {
                let dead: Vec<_> = (self.lent.iter())
                    .filter(|(_, (guest, _))| *guest == n)
                    .map(|(vf, _)| *vf)
                    .collect();
                for vf in dead {
                    self.forget(vf);
                }
                self.restart();
            }
            Step::Kill(effects) => self.machine.host.crash_after(effects.max(1)),
        }
    }

    fn forget(&mut self, vf: PciAddress) {
        if let Some((_, generation)) = self.lent.remove(&vf) {
            // Dirty devices are tried again under the same generation.
            if self.assigner.find(DeviceId::Pci(vf)).is_none() {
                self.past.push(generation);
            }
        }
    }

    /// Until a start gets through; a machine does not fail at every start.
    fn restart(&mut self) {
        self.machine.host.heal();
        let running: Vec<_> = self.lent.values().map(|(n, _)| guest(*n).guest).collect();
        let (assigner, _) = self.machine.restart(|id| running.contains(&id));
        std::mem::forget(std::mem::replace(&mut self.assigner, assigner));
    }

    /// The list, the kernel and the guests agree.
    fn check(&self) {
        let now = self.machine.host.snapshot();
        let list = self.assigner.list();
        let mut records: Vec<_> = list
            .iter()
            .map(|line| format!("{}.json", line.device))
            .collect();
        records.sort_unstable();
        assert_eq!(self.machine.records(), records);
        for vf in &self.vfs {
            let line = list.iter().find(|line| line.device == DeviceId::Pci(*vf));
            let device = &now.devices[vf];
            match (line.map(|line| &line.phase), self.lent.get(vf)) {
                (Some(Phase::Lent), Some((n, generation))) => {
                    assert_eq!(line.map(|line| line.generation), Some(*generation));
                    assert_eq!(
                        device.vf.as_ref().map(|state| state.mac),
                        Some(common::mac(*n))
                    );
                    assert_eq!(device.driver.as_deref(), Some("vfio-pci"));
                }
                (None, None) => assert_eq!(device, &self.found.devices[vf], "{vf} is not as found"),
                (Some(Phase::Dirty(_)), None) => {}
                (phase, lent) => panic!("{vf} is {phase:?} on the list, and lent {lent:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn no_device_is_lent_twice_none_forgotten_and_each_is_as_found(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut life = Life::new();
        for step in &steps {
            life.take(step);
            life.check();
        }
        // In the end everything can be had back.
        life.machine.host.heal();
        life.lent.clear();
        life.restart();
        life.check();
        prop_assert!(life.assigner.list().is_empty());
    }
}
