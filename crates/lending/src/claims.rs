//! Where choices are made: the ledger itself, or a copy for a trial.

use std::collections::BTreeMap;

use assign::{ClaimError, Generation, Holder, Origin};
use conf::DeviceId;
use pool::{Pool, ShareId, Taken, Uses};

use crate::error::{ChooseError, chain};
use crate::ledger::{Chosen, Ledger, PoolRequest};
use crate::state::{Share, lock, pool_holder, whole_or_part};

/// Chooses and claims. What the host says is the same for all: that of [`Claims::ledger`].
pub trait Claims {
    /// What ends a claim.
    type Claim: Copy;

    /// Whose host is asked, and whose list is looked at.
    fn ledger(&self) -> &Ledger;

    /// Chooses a device of a network and claims it, as [`Ledger::choose`] does.
    ///
    /// # Errors
    /// The network has none to give.
    fn choose(
        &mut self,
        request: &PoolRequest<'_>,
        excluded: &mut BTreeMap<DeviceId, String>,
    ) -> Result<Chosen<Self::Claim>, ChooseError>;

    /// Claims a certain device, a part of it, or a tap.
    ///
    /// # Errors
    /// Somebody has it, or it is kept back.
    fn claim(
        &mut self,
        share: Share,
        holder: &Holder,
        origin: Origin,
    ) -> Result<Self::Claim, ClaimError>;

    /// Ends a claim.
    fn drop_claim(&mut self, claim: Self::Claim);

    /// The claim as a plan tells it; `None`: it is only tried.
    fn generation(claim: Self::Claim) -> Option<Generation>;
}

impl Claims for &Ledger {
    type Claim = Generation;

    fn ledger(&self) -> &Ledger {
        self
    }

    fn choose(
        &mut self,
        request: &PoolRequest<'_>,
        excluded: &mut BTreeMap<DeviceId, String>,
    ) -> Result<Chosen, ChooseError> {
        Ledger::choose(self, request, excluded)
    }

    fn claim(
        &mut self,
        share: Share,
        holder: &Holder,
        origin: Origin,
    ) -> Result<Generation, ClaimError> {
        Ledger::claim(self, share, holder, origin)
    }

    fn drop_claim(&mut self, claim: Generation) {
        Ledger::drop_claim(self, claim);
    }

    fn generation(claim: Generation) -> Option<Generation> {
        Some(claim)
    }
}

/// The pool as it was when the trial began: choices have no effect but on the next ones.
#[derive(Debug)]
pub struct Trial<'a> {
    ledger: &'a Ledger,
    pool: Pool,
}

/// A claim in a trial.
#[derive(Debug, Clone, Copy)]
pub enum TrialClaim {
    /// A device.
    Whole(DeviceId),
    /// A part of one.
    Part(ShareId),
    /// A tap.
    Tap,
}

impl Ledger {
    /// A copy of the pool, to try choices on.
    #[must_use]
    pub fn trial(&self) -> Trial<'_> {
        Trial {
            ledger: self,
            pool: lock(&self.state).pool.clone(),
        }
    }
}

impl Claims for Trial<'_> {
    type Claim = TrialClaim;

    fn ledger(&self) -> &Ledger {
        self.ledger
    }

    fn choose(
        &mut self,
        request: &PoolRequest<'_>,
        excluded: &mut BTreeMap<DeviceId, String>,
    ) -> Result<Chosen<TrialClaim>, ChooseError> {
        loop {
            let choice = self.pool.choose(&request.to_pool(excluded))?;
            let share = whole_or_part(request.network, request.mode, choice.device);
            let claim = self.claim(share, request.holder, Origin::PoolPort)?;
            let plug = (self.ledger).plug(request.network, request.mode, share, choice.device);
            match plug {
                Ok(plug) => {
                    return Ok(Chosen {
                        choice,
                        share,
                        plug,
                        claim,
                    });
                }
                Err(reason) => {
                    self.drop_claim(claim);
                    excluded.insert(choice.device, chain(&reason));
                }
            }
        }
    }

    fn claim(
        &mut self,
        share: Share,
        holder: &Holder,
        _: Origin,
    ) -> Result<TrialClaim, ClaimError> {
        let assigner = &self.ledger.assigner;
        match share {
            Share::Whole(device) => {
                assigner.check_claim(device, true)?;
                self.pool
                    .claim(device, pool_holder(holder))
                    .map_err(refusal)?;
                Ok(TrialClaim::Whole(device))
            }
            Share::Part(parent) => {
                assigner.check_claim(parent, false)?;
                let share = self
                    .pool
                    .share(parent, pool_holder(holder))
                    .map_err(refusal)?;
                Ok(TrialClaim::Part(share))
            }
            Share::Tap => Ok(TrialClaim::Tap),
        }
    }

    fn drop_claim(&mut self, claim: TrialClaim) {
        match claim {
            TrialClaim::Whole(device) => drop(self.pool.release(device)),
            TrialClaim::Part(share) => drop(self.pool.release_share(share)),
            TrialClaim::Tap => {}
        }
    }

    fn generation(_: TrialClaim) -> Option<Generation> {
        None
    }
}

/// As the list would say it.
fn refusal(taken: Taken) -> ClaimError {
    let device = taken.device;
    match taken.uses {
        Uses::Whole(holder) => ClaimError::Taken {
            device,
            guest: holder.guest,
            network: holder.network,
        },
        Uses::Shared(holders) => {
            let mut guests: Vec<_> = holders.into_values().map(|holder| holder.guest).collect();
            guests.dedup();
            ClaimError::Shared { device, guests }
        }
    }
}
