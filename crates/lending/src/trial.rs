//! Choosing without taking: for a plan that is only shown.

use std::collections::BTreeMap;

use assign::{Item, Owner, Preparation};
use conf::{DeviceId, Plug};
use pool::{Choice, Pool, Refusal, Taken};

use crate::error::chain;
use crate::ledger::{Ledger, PoolRequest};
use crate::state::{Share, holder, lock, whole_or_part};

/// The pool as it is now, on which choices have no effect but on the next ones.
#[derive(Debug)]
pub struct Trial(Pool);

/// What would be chosen.
#[derive(Debug)]
pub struct TrialChoice {
    /// The device, and why this one.
    pub choice: Choice,
    /// How a port of the network would say it.
    pub plug: Plug,
    /// What was passed over, and why.
    pub passed_over: BTreeMap<DeviceId, String>,
}

impl Ledger {
    /// A copy of the pool.
    #[must_use]
    pub fn trial(&self) -> Trial {
        Trial(lock(&self.state).pool.clone())
    }

    /// What [`Ledger::choose`] would choose. Asks the host; blocks.
    ///
    /// # Errors
    /// As [`Ledger::choose`].
    pub fn try_choose(
        &self,
        trial: &mut Trial,
        request: &PoolRequest<'_>,
    ) -> Result<TrialChoice, Box<Refusal>> {
        let mut passed_over = BTreeMap::new();
        loop {
            let choice = trial.0.choose(&request.to_pool(&passed_over))?;
            let share = whole_or_part(request.network, request.mode, choice.device);
            match self.plug(request.network, request.mode, share, choice.device) {
                Ok(plug) => {
                    // Just chosen, so it is there to be had.
                    let _ = trial.claim(share, request.owner);
                    return Ok(TrialChoice {
                        choice,
                        plug,
                        passed_over,
                    });
                }
                Err(reason) => {
                    passed_over.insert(choice.device, chain(&reason));
                }
            }
        }
    }

    /// Checks all that preparing would check, and tells its steps. Asks the host; blocks.
    ///
    /// # Errors
    /// What is in the way.
    pub fn steps(
        &self,
        share: Share,
        owner: &Owner,
        preparation: &Preparation,
    ) -> Result<Vec<assign::Step>, assign::Obstacle> {
        let item = match share {
            Share::Whole(device) => Item::Device(device),
            Share::Part(_) | Share::Tap => Item::PLANNED_LINK,
        };
        Ok(self.assigner.plan(item, owner, preparation)?.steps)
    }
}

impl Trial {
    /// Takes a device, or a part of it.
    ///
    /// # Errors
    /// Somebody has it.
    pub fn claim(&mut self, share: Share, owner: &Owner) -> Result<(), Taken> {
        match share {
            Share::Whole(device) => self.0.claim(device, holder(owner)),
            Share::Part(parent) => self.0.share(parent, holder(owner)).map(drop),
            Share::Tap => Ok(()),
        }
    }
}
