//! Choosing without taking: for a plan that is only shown.

use std::collections::BTreeMap;

use assign::Item;
use conf::{DeviceId, DirectMode, Network, Plug};
use pool::{Choice, Pool, Refusal, Request};

use super::{Borrower, Lender, Wanted, whole_or_share};
use crate::fault;
use crate::sync::lock;

/// The pool as it is now, on which choices have no effect but on the next ones.
#[derive(Debug)]
pub(crate) struct Trial(Pool);

/// What would be chosen.
#[derive(Debug)]
pub(crate) struct TrialChoice {
    pub(crate) choice: Choice,
    pub(crate) plug: Plug,
    /// What was passed over, and why.
    pub(crate) passed_over: BTreeMap<DeviceId, String>,
}

impl Lender {
    /// A copy of the pool.
    pub(crate) fn trial(&self) -> Trial {
        Trial(lock(&self.state).pool.clone())
    }

    /// What [`Lender::choose`] would choose. Asks the kernel.
    pub(crate) fn try_choose(
        &self,
        trial: &mut Trial,
        network: &Network,
        mode: Option<DirectMode>,
        borrower: &Borrower,
        numa_nodes: &[u16],
    ) -> Result<TrialChoice, Box<Refusal>> {
        let mut passed_over = BTreeMap::new();
        loop {
            let request = Request {
                network: &network.name,
                guest: &borrower.owner.name,
                mac: borrower.owner.mac,
                numa_nodes,
                exclude: &passed_over,
            };
            let choice = trial.0.choose(&request)?;
            let wanted = whole_or_share(network, mode, choice.device);
            match self.plug(network, mode, wanted) {
                Ok(plug) => {
                    // Just chosen, so it is there to be had.
                    let _ = trial.claim(wanted, borrower);
                    return Ok(TrialChoice {
                        choice,
                        plug,
                        passed_over,
                    });
                }
                Err(reason) => {
                    passed_over.insert(choice.device, reason);
                }
            }
        }
    }

    /// Checks all that preparing would check, and tells its steps; or what is in the way. Asks the
    /// kernel, changes nothing.
    pub(crate) fn steps(
        &self,
        wanted: Wanted,
        borrower: &Borrower,
        preparation: &assign::Preparation,
    ) -> Result<Vec<String>, String> {
        let item = match wanted {
            Wanted::Whole(device) => Item::Device(device),
            Wanted::Share(_) | Wanted::Tap => Item::PLANNED_LINK,
        };
        let plan = self.assigner.plan(item, &borrower.owner, preparation);
        let plan = plan.map_err(|obstacle| match obstacle.advice() {
            Some(advice) => format!("{}\n{advice}", fault::chain(&obstacle)),
            None => fault::chain(&obstacle),
        })?;
        Ok(plan.steps.iter().map(ToString::to_string).collect())
    }
}

impl Trial {
    /// Takes a device, or a share; who has it, in words, if somebody does.
    pub(crate) fn claim(&mut self, wanted: Wanted, borrower: &Borrower) -> Result<(), String> {
        match wanted {
            Wanted::Whole(device) => {
                (self.0.claim(device, borrower.holder())).map_err(|taken| taken.to_string())
            }
            Wanted::Share(parent) => (self.0.share(parent, borrower.holder()))
                .map(drop)
                .map_err(|taken| taken.to_string()),
            Wanted::Tap => Ok(()),
        }
    }
}
