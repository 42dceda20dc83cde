//! The ledger: what is chosen, claimed and lent, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use assign::{
    Assigner, Assignment, ChangeError, ClaimError, DetachError, Detached, Difference, Generation,
    Holder, Item, Lent, LinkError, MendError, OpenError, Origin, Phase, Preparation, ReturnError,
    SeatOwner, TapSeat, VfioUser,
};
use conf::{DeviceId, DirectMode, Network, PciAddress, Plug, Uuid};
use host::{GuestGroup, SharedHost};
use pool::{Choice, Request};

use crate::error::{ChooseError, PrepareError, chain};
use crate::promises::Listener;
use crate::state::{Share, State, lock, pool_holder, whole_or_part};

/// Chooses, claims, lends and takes back.
pub struct Ledger {
    pub(crate) host: SharedHost,
    pub(crate) assigner: Assigner,
    pub(crate) state: Mutex<State>,
    /// Who is told of VFs that get free.
    pub(crate) listener: OnceLock<Listener>,
}

/// A device of a network is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PoolRequest<'a> {
    /// The running network.
    pub network: &'a Network,
    /// The macvtap mode; `None` where the network lends host devices.
    pub mode: Option<DirectMode>,
    /// Who gets it.
    pub holder: &'a Holder,
    /// The host's NUMA nodes that the guest runs on; empty: anywhere.
    pub numa_nodes: &'a [u16],
    /// Where from, if not from wherever there is one.
    pub from: pool::Source,
    /// It was promised one.
    pub is_promised: bool,
}

/// A PF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfPlace {
    /// Where it sits.
    pub address: PciAddress,
    /// Its network device.
    pub netdev: String,
}

/// A device that a network chose, claimed.
#[derive(Debug)]
pub struct Chosen<C = Generation> {
    /// The device, and why this one.
    pub choice: Choice,
    /// How much of it.
    pub share: Share,
    /// How a port of the network says it.
    pub plug: Plug,
    /// The claim on it.
    pub claim: C,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("assigner", &self.assigner)
            .finish_non_exhaustive()
    }
}

/// How long a process may take to let go of its vfio groups once it has ended, or has parted with a
/// device.
const LETTING_GO: Duration = Duration::from_secs(5);

impl Ledger {
    /// Opens the journal in that directory, and knows again what is lent. `vfio_user`: who opens
    /// vfio's groups, where that is not root. Blocks.
    ///
    /// # Errors
    /// The journal can't be read, or the host does not tell which boot this is.
    pub fn open(
        host: SharedHost,
        journal: PathBuf,
        vfio_user: Option<VfioUser>,
    ) -> Result<Self, OpenError> {
        let (assigner, recovery) = Assigner::open(Arc::clone(&host), journal, vfio_user)?;
        for finding in &recovery.findings {
            tracing::warn!("{}", chain(finding));
        }
        Ok(Self {
            host,
            assigner,
            state: Mutex::default(),
            listener: OnceLock::new(),
        })
    }

    /// Once it is known which guests run: theirs stay lent, everything else is given back. Blocks.
    pub fn recover(&self, runs: impl Fn(Uuid) -> bool) {
        for finding in self.assigner.recover(runs) {
            tracing::warn!("{}", chain(&finding));
        }
        let (lines, barred) = (self.assigner.list(), self.assigner.barred());
        let mut state = lock(&self.state);
        for line in lines {
            if let Some(port) = line.holder.port {
                state.by_port.insert(port, line.generation);
            }
            // A fresh pool has lent nothing, so nothing clashes.
            state.enter(&line);
        }
        for (item, reason) in barred {
            if let Item::Device(device) = item {
                state.withhold(device, reason);
            }
        }
    }

    /// Chooses a device of a network and claims it. One that the host itself uses is passed over
    /// and added to `excluded`, with what is wrong; those that are in there are not looked at.
    /// Asks the host; blocks.
    ///
    /// # Errors
    /// The network has none to give.
    pub fn choose(
        &self,
        request: &PoolRequest<'_>,
        excluded: &mut BTreeMap<DeviceId, String>,
    ) -> Result<Chosen, ChooseError> {
        loop {
            let (choice, share, claim) = self.choose_any(request, excluded)?;
            let claim = match claim {
                Ok(claim) => claim,
                Err(error) => {
                    excluded.insert(choice.device, error.to_string());
                    continue;
                }
            };
            match self.plug(request.network, request.mode, share, choice.device) {
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

    /// The same where the host need not be asked for long, for callers that must not block: a VF
    /// that is at rest. `None`: [`Ledger::choose`] has to be asked, from a thread that may block.
    ///
    /// # Errors
    /// As [`Ledger::choose`].
    pub fn choose_at_rest(
        &self,
        request: &PoolRequest<'_>,
        excluded: &BTreeMap<DeviceId, String>,
    ) -> Result<Option<Chosen>, ChooseError> {
        let (choice, share, claim) = self.choose_any(request, excluded)?;
        let Ok(claim) = claim else {
            return Ok(None);
        };
        let Some(plug) = self.plug_at_rest(request.network, share) else {
            self.drop_claim(claim);
            return Ok(None);
        };
        Ok(Some(Chosen {
            choice,
            share,
            plug,
            claim,
        }))
    }

    /// The pool's choice, claimed; the host is not asked. The pool does not know what is just being taken
    /// from the host for nobody, or given back to it: that can't be claimed.
    fn choose_any(
        &self,
        request: &PoolRequest<'_>,
        excluded: &BTreeMap<DeviceId, String>,
    ) -> Result<(Choice, Share, Result<Generation, ClaimError>), ChooseError> {
        let mut state = lock(&self.state);
        let choice = state.pool.choose(&request.to_pool(excluded))?;
        let share = whole_or_part(Some(request.network), request.mode, choice.device);
        let claim = self.claim_in(&mut state, share, request.holder, Origin::PoolPort);
        Ok((choice, share, claim))
    }

    /// Claims a certain device, a part of it, or a tap. The host is not asked.
    ///
    /// # Errors
    /// Somebody has it, or it is kept back.
    pub fn claim(
        &self,
        share: Share,
        holder: &Holder,
        origin: Origin,
    ) -> Result<Generation, ClaimError> {
        self.claim_in(&mut lock(&self.state), share, holder, origin)
    }

    fn claim_in(
        &self,
        state: &mut State,
        share: Share,
        holder: &Holder,
        origin: Origin,
    ) -> Result<Generation, ClaimError> {
        let claim = match share {
            Share::Whole(device) => self.assigner.claim(device, holder.clone(), origin),
            Share::Part(parent) => self
                .assigner
                .claim_link(Some(parent), holder.clone(), origin),
            Share::Tap => self.assigner.claim_link(None, holder.clone(), origin),
        }?;
        let generation = claim.generation();
        // `assign` has just said that nobody else has it.
        match share {
            Share::Whole(device) => {
                let _ = state.pool.claim(device, pool_holder(holder));
            }
            Share::Part(parent) => {
                if let Ok(share) = state.pool.share(parent, pool_holder(holder)) {
                    state.shares.insert(generation, share);
                }
            }
            Share::Tap => {}
        }
        state.claims.insert(generation, claim);
        Ok(generation)
    }

    /// The claim of a port that an earlier daemon made: the one that its device is still lent
    /// under, or a new one.
    ///
    /// # Errors
    /// Somebody else has the device by now, or it is kept back.
    pub fn reclaim(
        &self,
        port: Uuid,
        share: Share,
        holder: &Holder,
    ) -> Result<Generation, ClaimError> {
        let mut state = lock(&self.state);
        match state.by_port.remove(&port) {
            Some(known) => Ok(known),
            None => self.claim_in(&mut state, share, holder, Origin::PoolPort),
        }
    }

    /// What a port of an earlier daemon has, whose network does not run now.
    pub fn claim_of_port(&self, port: Uuid) -> Option<Generation> {
        lock(&self.state).by_port.remove(&port)
    }

    /// Ends a claim that nothing was done with. A device that is lent stays so.
    pub fn drop_claim(&self, generation: Generation) {
        let claimed = lock(&self.state).claims.remove(&generation);
        // Only claimed, so there is nothing that could fail on the way back.
        if let Some(claim) = claimed
            && self.assigner.give_back(generation).is_ok()
        {
            self.settle(claim.item(), generation);
        }
    }

    /// Prepares a claimed device for its guest, whose QEMU opens it by that group of its own
    /// ([`Assigner::prepare_for`]). Blocks.
    ///
    /// # Errors
    /// What stood in the way, and what could not be undone; the claim is over either way.
    pub fn prepare(
        &self,
        generation: Generation,
        preparation: &Preparation,
        own_group: Option<GuestGroup>,
    ) -> Result<Lent, PrepareError> {
        let claim = lock(&self.state).claims.remove(&generation);
        let claim = claim.ok_or(PrepareError::Superseded(generation))?;
        let item = claim.item();
        let prepared = self.assigner.prepare_for(claim, preparation, own_group);
        if prepared.is_err() {
            self.settle(item, generation);
        }
        Ok(prepared?)
    }

    /// Takes a device back from its guest, whose process is gone, or has parted with it. One that was
    /// given back before, by whoever undid a failed start, is fine. Blocks.
    ///
    /// # Errors
    /// It is not back, or not as it was found.
    pub fn give_back(&self, generation: Generation) -> Result<(), ReturnError> {
        lock(&self.state).claims.remove(&generation);
        match self.assigner.give_back_within(generation, LETTING_GO) {
            Ok(returned) => {
                self.settle(returned.item, generation);
                Ok(())
            }
            Err(ReturnError::Superseded(_)) => Ok(()),
            Err(error) => {
                if let ReturnError::Dirty { item, .. } = &error {
                    self.settle(*item, generation);
                }
                Err(error)
            }
        }
    }

    /// Makes the pool agree with the list about one item, after it changed under that generation.
    fn settle(&self, item: Item, generation: Generation) {
        let free = {
            // Asked under the lock: whoever claims the item next does so after this.
            let mut state = lock(&self.state);
            let line = self.assigner.find(item);
            state.settle(item, generation, line.as_ref());
            let vf = item.device().and_then(DeviceId::pci);
            vf.and_then(|vf| Some(state.vfs.get(&vf)?.pf_address))
        };
        if let Some(pf) = free {
            self.look_again(pf);
        }
    }

    /// Switches a guest's link on or off, and what it stands on with it. Blocks.
    ///
    /// # Errors
    /// Nothing is lent under that generation, or the host refused.
    pub fn set_link_state(&self, generation: Generation, up: bool) -> Result<(), LinkError> {
        self.assigner.set_link_state(generation, up)
    }

    /// Whether the other macvtaps on the same device pass a guest's macvtap by: see [`Assigner::bypass`]. Blocks.
    ///
    /// # Errors
    /// Nothing is lent under that generation, or the host refused.
    pub fn bypass(&self, generation: Generation, bypassed: bool) -> Result<(), LinkError> {
        self.assigner.bypass(generation, bypassed)
    }

    /// Sets the link that the guest of a VF sees. Blocks.
    ///
    /// # Errors
    /// It is no VF, its PF's driver offers no such thing, or the host refused.
    pub fn set_vf_link(
        &self,
        generation: Generation,
        link: conf::VfLink,
    ) -> Result<(), ChangeError> {
        self.assigner.set_vf_link(generation, link)
    }

    /// Shapes a guest's macvtap or tap. Blocks.
    ///
    /// # Errors
    /// It is neither, or the host refused.
    pub fn set_bandwidth(
        &self,
        generation: Generation,
        bandwidth: &conf::Bandwidth,
    ) -> Result<(), ChangeError> {
        self.assigner.set_bandwidth(generation, bandwidth)
    }

    /// The PF of a VF, and the name of its network device, as they were last seen.
    #[must_use]
    pub fn pf_of(&self, vf: PciAddress) -> Option<PfPlace> {
        let known = lock(&self.state).vfs.get(&vf).cloned();
        let vf = match known {
            Some(vf) => vf,
            None => self.host.virtual_function(vf).ok()?,
        };
        Some(PfPlace {
            address: vf.pf_address,
            netdev: vf.pf_netdev,
        })
    }

    /// Moves a guest's tap to another bridge, or changes how it stands in its own. `from`: as
    /// [`Assigner::move_tap`] has it; `owner`: of which network it is then; `runs`: the guest's vCPUs
    /// do. Blocks.
    ///
    /// # Errors
    /// It is no tap of ours in a bridge, or the host refused; it is where it was then.
    pub fn move_tap(
        &self,
        generation: Generation,
        from: Option<&TapSeat>,
        to: &TapSeat,
        owner: SeatOwner,
        runs: bool,
    ) -> Result<(), ChangeError> {
        self.assigner.move_tap(generation, from, to, owner, runs)
    }

    /// All that is lent.
    #[must_use]
    pub fn list(&self) -> Vec<Assignment> {
        self.assigner.list()
    }

    /// Whether there is a line about that item.
    #[must_use]
    pub fn is_listed(&self, item: Item) -> bool {
        self.assigner.find(item).is_some()
    }

    /// What is lent under a claim.
    #[must_use]
    pub fn find(&self, generation: Generation) -> Option<Assignment> {
        self.assigner.find_generation(generation)
    }

    /// What a guest has.
    #[must_use]
    pub fn of_guest(&self, guest: Uuid) -> Vec<Assignment> {
        self.assigner.of_guest(guest)
    }

    /// Whether a lent device is one that the host does not have any more.
    #[must_use]
    pub fn is_vanished(&self, device: DeviceId) -> bool {
        lock(&self.state).vanished.contains(&device)
    }

    /// What differs between records, kernel and running guests. Blocks.
    pub fn differences(&self, runs: impl Fn(Uuid) -> bool) -> Vec<Difference> {
        let admitted = self.assigner.admit_removed().into_iter();
        for device in admitted.filter_map(|item| item.device()) {
            lock(&self.state).readmit(device);
        }
        self.assigner.reconcile(runs)
    }

    /// Mends one of them. Blocks.
    ///
    /// # Errors
    /// It is not safe, or was refused.
    pub fn mend(&self, difference: &Difference) -> Result<(), MendError> {
        let mended = self.assigner.mend(difference);
        let mut state = lock(&self.state);
        let lines = self.assigner.list().into_iter();
        let lent: BTreeSet<_> = lines.map(|line| line.item).collect();
        let barred = self.assigner.barred().into_iter();
        let barred: BTreeSet<_> = barred.filter_map(|(item, _)| item.device()).collect();
        state.agree(&lent, &barred);
        mended
    }

    /// How many devices are with guests.
    #[must_use]
    pub fn lent_count(&self) -> usize {
        let lines = self.list().into_iter();
        let with_guests = lines.filter(|line| line.origin != Origin::Detached);
        with_guests.filter(|line| line.phase == Phase::Lent).count()
    }

    /// Takes a PCI function from the host's driver, for nobody yet. Blocks. See [`Assigner::detach`].
    ///
    /// # Errors
    /// Somebody has it, or the kernel refused.
    pub fn detach(
        &self,
        address: PciAddress,
        driver: Option<&str>,
    ) -> Result<Detached, DetachError> {
        self.assigner.detach(address, driver)
    }

    /// Gives it back. Blocks. See [`Assigner::reattach`].
    ///
    /// # Errors
    /// Somebody has it, or the kernel refused.
    pub fn reattach(&self, address: PciAddress) -> Result<Option<String>, DetachError> {
        self.assigner.reattach(address)
    }

    /// Resets a PCI function that nobody uses. Blocks. See [`Assigner::reset`].
    ///
    /// # Errors
    /// Somebody has it, or the kernel refused.
    pub fn reset(&self, address: PciAddress) -> Result<(), DetachError> {
        self.assigner.reset(address)
    }

    /// A PCI function is gone: if it was detached, nobody has it any more. Blocks.
    pub fn detached_is_gone(&self, address: PciAddress) {
        self.assigner.detached_is_gone(address);
    }

    /// Whether a claim's device is with its guest, or on its way there or back.
    #[must_use]
    pub fn is_in_use(&self, generation: Generation) -> bool {
        self.assigner.is_in_use(generation)
    }
}

impl<'a> PoolRequest<'a> {
    pub(crate) fn to_pool(self, excluded: &'a BTreeMap<DeviceId, String>) -> Request<'a> {
        Request {
            network: &self.network.name,
            guest: &self.holder.name,
            mac: self.holder.mac,
            numa_nodes: self.numa_nodes,
            exclude: excluded,
            from: self.from,
            is_promised: self.is_promised,
        }
    }
}
