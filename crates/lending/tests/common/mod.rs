//! A ledger on a simulated host, with networks that run and guests that are planned.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::HashMap;
use std::sync::Arc;

use assign::{Assignment, Lent};
use conf::{Domain, Network};
use host::SimulatedHost;
use lending::{
    GuestPlan, Ledger, NetworkProblem, Networks, Outcome, PlanContext, PrepareError, chain, plan,
};
use tempfile::TempDir;

pub(crate) struct Bench {
    pub(crate) host: SimulatedHost,
    pub(crate) ledger: Ledger,
    pub(crate) networks: Running,
    journal: TempDir,
}

/// The networks that run.
#[derive(Debug, Default)]
pub(crate) struct Running(HashMap<String, Arc<Network>>);

impl Networks for Running {
    fn running(&self, name: &str) -> Result<Arc<Network>, NetworkProblem> {
        let network = self.0.get(name).cloned();
        network.ok_or_else(|| NetworkProblem::Unknown(name.to_owned()))
    }
}

impl Bench {
    pub(crate) fn new(shape: &str) -> Self {
        let host = SimulatedHost::new(shape.parse().unwrap());
        let journal = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Arc::new(host.clone()), journal.path().to_owned(), None);
        Self {
            host,
            ledger: ledger.unwrap(),
            networks: Running::default(),
            journal,
        }
    }

    /// Starts a network: its name, and what stands in its document.
    pub(crate) fn run(&mut self, name: &str, inside: &str) {
        let xml =
            format!("<network xmlns:virtnic='urn:virtnic:1'><name>{name}</name>{inside}</network>");
        let network = Network::parse(&xml).unwrap();
        let forward = network.forward.as_ref().unwrap();
        if network.existing_bridge().is_none() {
            self.ledger.open_pool(&network, forward).unwrap();
        }
        self.networks.0.insert(name.to_owned(), Arc::new(network));
    }

    pub(crate) fn plan(&self, guest: &Domain) -> GuestPlan {
        let context = PlanContext::default();
        plan(guest, &mut &self.ledger, &self.networks, &context)
    }

    pub(crate) fn try_plan(&self, guest: &Domain) -> GuestPlan {
        let mut trial = self.ledger.trial(guest.uuid);
        plan(guest, &mut trial, &self.networks, &PlanContext::default())
    }

    /// Prepares all of a plan; gives all of it back if something fails.
    pub(crate) fn carry_out(&self, plan: &GuestPlan) -> Result<Vec<Lent>, PrepareError> {
        let mut lent = Vec::new();
        for (_, _, planned) in plan.planned() {
            match (self.ledger).prepare(planned.claim.unwrap(), &planned.preparation, None) {
                Ok(one) => lent.push(one),
                Err(error) => {
                    self.give_back(lent);
                    plan.release(&self.ledger);
                    return Err(error);
                }
            }
        }
        Ok(lent)
    }

    pub(crate) fn give_back(&self, lent: Vec<Lent>) {
        for one in lent.into_iter().rev() {
            self.ledger.give_back(one.generation).unwrap();
        }
    }

    pub(crate) fn list(&self) -> Vec<Assignment> {
        self.ledger.list()
    }

    /// What every network says that it has.
    pub(crate) fn accounts(&self) -> Vec<String> {
        let mut networks: Vec<_> = self.networks.0.values().collect();
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        (networks.into_iter())
            .map(|network| format!("{:?}", self.ledger.survey(network)))
            .collect()
    }
}

/// A guest with those devices.
pub(crate) fn guest(name: &str, devices: &str) -> Domain {
    read_guest(name, devices).unwrap()
}

pub(crate) fn read_guest(name: &str, devices: &str) -> Result<Domain, conf::Error> {
    Domain::parse(&format!(
        "<domain type='kvm' xmlns:virtnic='urn:virtnic:1'><name>{name}</name>\
         <memory>65536</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices>{devices}</devices></domain>"
    ))
}

/// What becomes of each device, without the identities that are new each time.
pub(crate) fn told(plan: &GuestPlan) -> Vec<String> {
    let devices = plan.devices.iter().map(|device| match &device.outcome {
        Outcome::Alone => "alone".to_owned(),
        Outcome::Owed(owed) => format!("owed by {}", owed.pf.netdev),
        Outcome::Refused(refusal) => format!("{}; {:?}", chain(&**refusal), refusal.advice()),
        Outcome::Lend(planned) => format!(
            "{} {:?} {:?} {} {:?} {:?} {:?} {:?}",
            device.attachment.alias,
            planned.share,
            planned.preparation,
            planned.why,
            planned.steps,
            planned.notes,
            planned.passed_over,
            (planned.port.as_ref()).map(|port| (&port.network.name, &port.port.plug)),
        ),
    });
    let obstacles = plan.obstacles.iter().map(ToString::to_string);
    obstacles.chain(devices).collect()
}
