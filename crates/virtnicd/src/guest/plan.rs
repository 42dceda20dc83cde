//! What a guest's start will take, with its ports on their networks.

use std::collections::BTreeMap;
use std::sync::Arc;

use conf::{DeviceId, Network};
use lending::{
    Attachment, GuestPlan, NetworkProblem, Networks, Outcome, PlanContext, PlannedDevice, Role,
};

use super::pairs;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

impl Networks for Daemon {
    fn running(&self, name: &str) -> std::result::Result<Arc<Network>, NetworkProblem> {
        self.running_network(name)
    }
}

impl Daemon {
    /// What a guest's plan depends on besides its document.
    pub(super) fn plan_context(&self, domain: &conf::Domain) -> PlanContext {
        let uuid = self.node.uuid.as_deref();
        PlanContext {
            host_uuid: uuid.and_then(|uuid| uuid.parse().ok()).unwrap_or_default(),
            numa_nodes: self.numa_nodes_of(domain),
            misplaced: self.misplaced(domain),
            pf: None,
            is_promised: false,
        }
    }

    /// Plans a start: every device is chosen, claimed and checked, and its port is on its network;
    /// or nothing is. Asks the host; blocks.
    pub(super) fn plan_start(
        &self,
        domain: &conf::Domain,
        context: &PlanContext,
    ) -> Result<GuestPlan> {
        loop {
            let plan = lending::plan(domain, &mut &*self.lender, self, context);
            let kept = match fault::lending::plan(&plan) {
                Some(error) => Err(error),
                None => self.keep_ports(&plan),
            };
            match kept {
                Ok(true) => return Ok(plan),
                // A network was changed meanwhile, and what was chosen is of the past.
                Ok(false) => plan.release(&self.lender),
                Err(error) => {
                    plan.release(&self.lender);
                    return Err(error);
                }
            }
        }
    }

    /// Another device in place of one that could not be prepared, with its port on its network.
    pub(super) fn plan_again(
        &self,
        plan: &mut GuestPlan,
        at: usize,
        excluded: &BTreeMap<DeviceId, String>,
        domain: &conf::Domain,
        context: &PlanContext,
    ) -> Result<()> {
        let mut context = context.clone();
        // The other half of its pair is where it is.
        context.pf = plan.devices.get(at).and_then(|device| {
            let is_primary = device.attachment.role == Role::Primary;
            let function = device.planned().filter(|_| is_primary)?.function()?;
            self.lender.pf_of(function)
        });
        loop {
            let excluded = excluded.clone();
            plan.plan_again(at, excluded, domain, &mut &*self.lender, self, &context);
            let claim = plan.devices[at].attachment.claim;
            let kept = match &plan.devices[at].outcome {
                Outcome::Lend(planned) => self.keep_port_of(planned),
                Outcome::Refused(refusal) => {
                    Err(fault::lending::device(&plan.devices[at], refusal))
                }
                // The guest can do without it.
                Outcome::Owed(_) | Outcome::Alone => Ok(true),
            };
            if matches!(kept, Ok(true)) {
                return Ok(());
            }
            if let Some(claim) = claim {
                self.lender.drop_claim(claim);
            }
            kept?;
        }
    }

    /// All of them, or none.
    fn keep_ports(&self, plan: &GuestPlan) -> Result<bool> {
        self.keep_ports_of(plan.planned().map(|(_, _, planned)| planned))
    }

    pub(super) fn keep_ports_of<'a>(
        &self,
        planned: impl Iterator<Item = &'a PlannedDevice>,
    ) -> Result<bool> {
        let mut kept = Vec::new();
        for planned in planned {
            let done = self.keep_port_of(planned);
            if !matches!(done, Ok(true)) {
                for (network, port) in kept {
                    self.end_port(network, port);
                }
                return done;
            }
            kept.extend((planned.port.as_ref()).map(|port| (port.network.uuid, port.port.uuid)));
        }
        Ok(true)
    }

    /// Puts a device's port on its network, if it has one. False: that was changed meanwhile.
    pub(super) fn keep_port_of(&self, planned: &PlannedDevice) -> Result<bool> {
        match &planned.port {
            Some(port) => self.keep_planned_port(port, planned.claim),
            None => Ok(true),
        }
    }
}

/// What a plan takes, and what it owes the guest.
pub(super) fn attachments(
    plan: &GuestPlan,
    domain: &conf::Domain,
    arrives: bool,
) -> Vec<Attachment> {
    let devices = plan
        .devices
        .iter()
        .filter(|device| matches!(device.outcome, Outcome::Lend(_) | Outcome::Owed(_)));
    let attachments = devices.map(|device| {
        let mut attachment = device.attachment.clone();
        if pairs::is_withheld(domain, &attachment, arrives) {
            pairs::reserve(&mut attachment, device);
        }
        attachment
    });
    attachments.collect()
}
