//! Where choices are made: the ledger itself, or a copy for a trial.

use std::collections::BTreeMap;

use assign::{Assignment, ClaimError, Generation, Holder, Item, Origin, Phase};
use conf::{DeviceId, Domain, HostSource, InterfaceSource, Uuid};
use pool::{Pool, ShareId, Taken, Uses};

use crate::devices::host_device;
use crate::error::{ChooseError, chain};
use crate::ledger::{Chosen, Ledger, PfPlace, PoolRequest};
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

    /// The PF of a network that is the most likely to have a VF for one more guest that waits.
    fn likeliest_pf(&mut self, network: &str) -> Option<PfPlace>;

    /// The claim as a plan tells it; `None`: it is only tried.
    fn generation(claim: Self::Claim) -> Option<Generation>;

    /// What the guest itself has now, where a plan is about the time when it has given that back.
    fn own(&self, share: Share, holder: &Holder) -> Option<&Assignment> {
        let _ = (share, holder);
        None
    }
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

    fn likeliest_pf(&mut self, network: &str) -> Option<PfPlace> {
        let (address, netdev) = lock(&self.state).pool.likeliest_pf(network)?;
        Some(PfPlace { address, netdev })
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
    /// What the guest that it is for has now, and will have given back.
    own: Vec<Assignment>,
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
    /// A trial of a guest's start. What its document names is in the pool then, as it would be at the start.
    /// Blocks.
    #[must_use]
    pub fn trial_of(&self, domain: &Domain) -> Trial<'_> {
        for interface in &domain.devices.interfaces {
            if let InterfaceSource::Hostdev {
                source: HostSource::VfOf(pf),
                ..
            } = &interface.source
            {
                // What is wrong with it the plan says.
                let _ = self.network_of_pf(pf);
            }
        }
        self.trial(domain.uuid)
    }

    /// A copy of the pool, to try choices on, as it will be when that guest has given back what it has
    /// now.
    #[must_use]
    pub fn trial(&self, guest: Uuid) -> Trial<'_> {
        let state = lock(&self.state);
        let mut pool = state.pool.clone();
        let mut own = self.assigner.of_guest(guest);
        // What could not be given back is nobody's to have; what is reserved for it is its own.
        own.retain(|line| !matches!(line.phase, Phase::Dirty(_)));
        for line in &own {
            match line.item {
                Item::Device(device) => drop(pool.release(device)),
                Item::Detached(_) => {}
                Item::Link(generation) => {
                    if let Some(share) = state.shares.get(&generation) {
                        pool.release_share(*share);
                    }
                }
            }
        }
        Trial {
            ledger: self,
            pool,
            own,
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
            let share = whole_or_part(Some(request.network), request.mode, choice.device);
            let device = choice.device;
            let claim = match self.claim(share, request.holder, Origin::PoolPort) {
                Ok(claim) => claim,
                Err(error) => {
                    excluded.insert(device, error.to_string());
                    continue;
                }
            };
            let is_own = self.own(share, request.holder).is_some();
            let plug = match host_device(request.network, share) {
                Some(plug) if is_own => Ok(plug),
                _ => (self.ledger).plug(request.network, request.mode, share, device),
            };
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
        // The pool has the trial's own claims, too; the list alone has what is kept back.
        let (claim, device) = match share {
            Share::Whole(device) => {
                let claimed = self.pool.claim(device, pool_holder(holder));
                claimed.map_err(refusal)?;
                (TrialClaim::Whole(device), device)
            }
            Share::Part(parent) => {
                let shared = self.pool.share(parent, pool_holder(holder));
                (TrialClaim::Part(shared.map_err(refusal)?), parent)
            }
            Share::Tap => return Ok(TrialClaim::Tap),
        };
        if self.own(Share::Whole(device), holder).is_none() {
            let is_whole = matches!(share, Share::Whole(_));
            if let Err(error) = self.ledger.assigner.check_claim(device, is_whole) {
                self.drop_claim(claim);
                return Err(error);
            }
        }
        Ok(claim)
    }

    fn likeliest_pf(&mut self, network: &str) -> Option<PfPlace> {
        let (address, netdev) = self.pool.likeliest_pf(network)?;
        Some(PfPlace { address, netdev })
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

    fn own(&self, share: Share, holder: &Holder) -> Option<&Assignment> {
        self.own.iter().find(|line| match share {
            Share::Whole(device) => line.item == Item::Device(device),
            Share::Part(parent) => line.parent == Some(parent) && line.holder.mac == holder.mac,
            Share::Tap => false,
        })
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
