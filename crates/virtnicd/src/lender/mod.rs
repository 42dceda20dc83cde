//! Where `pool` chooses and `assign` lends: one lock over choosing and claiming, so that a device is
//! never promised twice.

mod devices;
mod news;
mod picture;
mod pools;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assign::{
    Assigner, Assignment, ChangeError, Claim, Difference, ErrorKind, Generation, Holder, Item,
    Lent, LinkError, OpenError, Origin, Phase, Preparation, PrepareError, ReturnError, VfioUser,
};
use conf::{DeviceId, DirectMode, Network, NetworkPort, PciAddress, Plug, Uuid};
use host::{HostError, PhysicalFunction, SharedHost, VirtualFunction};
use pool::{Pool, Request, ShareId, Uses};
use rpc::{Code, Domain, Error};

use crate::fault::{self, Result};
use crate::sync::lock;

pub(crate) use news::Vanished;
pub(crate) use picture::ability;
pub(crate) use trial::Trial;

/// Chooses, claims, lends and takes back.
pub(crate) struct Lender {
    host: SharedHost,
    assigner: Arc<Assigner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: Pool,
    /// What each running network lends.
    networks: HashMap<String, pools::Parts>,
    /// The PFs of all networks that ran so far, as they were last seen.
    pfs: HashMap<PciAddress, PhysicalFunction>,
    /// The VFs of those PFs, as they were last seen.
    vfs: HashMap<PciAddress, VirtualFunction>,
    /// Claims that nothing was done with yet.
    claims: HashMap<Generation, Claim>,
    /// The pool's side of each link on a shared device.
    shares: HashMap<Generation, ShareId>,
    /// What each port has, for the time after a restart until its network is back.
    by_port: HashMap<Uuid, Generation>,
    /// Devices that the pool must not lend.
    withheld: BTreeSet<DeviceId>,
    /// Lent devices that the host does not have any more.
    vanished: BTreeSet<DeviceId>,
}

/// How long a process may take to let go of its vfio groups once it has ended, or has parted with
/// a device.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Who borrows, and by what.
#[derive(Debug, Clone)]
pub(crate) struct Borrower {
    pub(crate) owner: Holder,
    pub(crate) origin: Origin,
}

/// A device that a guest gets, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole(DeviceId),
    /// A macvtap on it, beside others.
    Share(DeviceId),
    /// A tap of its own; no device is below it.
    Tap,
}

/// A claim on a device that a network chose.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) plug: Plug,
    pub(crate) claim: Generation,
}

/// A device was not lent.
#[derive(Debug)]
pub(crate) struct NotLent {
    pub(crate) error: Error,
    /// Another device of the pool may do; this one's fault, in words.
    pub(crate) try_another: Option<String>,
}

impl Borrower {
    /// The owner of a port.
    pub(crate) fn port(network: &Network, port: &NetworkPort) -> Self {
        Self {
            owner: Holder {
                guest: port.owner_uuid,
                name: port.owner_name.clone(),
                network: Some(network.name.clone()),
                port: Some(port.uuid),
                mac: Some(port.mac),
                alias: None,
                attachment: None,
            },
            origin: Origin::PoolPort,
        }
    }

    fn holder(&self) -> pool::Holder {
        pool::Holder {
            guest: self.owner.name.clone(),
            network: self.owner.network.clone(),
            mac: self.owner.mac,
        }
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lender")
            .field("assigner", &self.assigner)
            .finish_non_exhaustive()
    }
}

impl Lender {
    /// Opens the journal in that directory, and knows again what is lent.
    pub(crate) fn open(
        host: SharedHost,
        journal: PathBuf,
        vfio_user: Option<VfioUser>,
    ) -> std::result::Result<Self, OpenError> {
        let (assigner, recovery) = Assigner::open(Arc::clone(&host), journal, vfio_user)?;
        for finding in &recovery.findings {
            tracing::warn!("{}", fault::chain(finding));
        }
        Ok(Self {
            host,
            assigner: Arc::new(assigner),
            state: Mutex::default(),
        })
    }

    /// Once it is known which guests run: theirs stay lent, everything else is given back.
    pub(crate) async fn recover(&self, runs: impl Fn(Uuid) -> bool + Send + 'static) {
        let assigner = Arc::clone(&self.assigner);
        let recovered = tokio::task::spawn_blocking(move || assigner.recover(runs));
        for finding in recovered.await.unwrap_or_default() {
            tracing::warn!("{}", fault::chain(&finding));
        }
        let mut state = lock(&self.state);
        for line in self.assigner.list() {
            if let Some(port) = line.holder.port {
                state.by_port.insert(port, line.generation);
            }
            // A fresh pool has lent nothing, so nothing clashes.
            state.enter(&line);
        }
        for (item, reason) in self.assigner.barred() {
            if let Item::Device(device) = item {
                state.withhold(device, reason);
            }
        }
    }

    /// Chooses a device of a network and claims it. One that the host itself uses is passed over,
    /// as are those of `excluded`, with what is wrong with each.
    pub(crate) fn choose(
        &self,
        network: &Network,
        mode: Option<DirectMode>,
        borrower: &Borrower,
        numa_nodes: &[u16],
        mut excluded: BTreeMap<DeviceId, String>,
    ) -> Result<Chosen> {
        loop {
            let (wanted, claim) = {
                let mut state = lock(&self.state);
                let request = Request {
                    network: &network.name,
                    guest: &borrower.owner.name,
                    mac: borrower.owner.mac,
                    numa_nodes,
                    exclude: &excluded,
                };
                let choice = state.pool.choose(&request).map_err(|refusal| {
                    let detail = format!("{refusal}\n{}", refusal.advice());
                    Error::new(Code::InternalError, Domain::Network, detail)
                })?;
                let wanted = whole_or_share(network, mode, choice.device);
                (wanted, self.claim_in(&mut state, wanted, borrower)?)
            };
            match (self.plug(network, mode, wanted), wanted) {
                (Ok(plug), _) => return Ok(Chosen { plug, claim }),
                (Err(reason), Wanted::Whole(device) | Wanted::Share(device)) => {
                    self.drop_claim(claim);
                    excluded.insert(device, reason);
                }
                (Err(reason), Wanted::Tap) => {
                    self.drop_claim(claim);
                    return Err(Error::new(Code::InternalError, Domain::Network, reason));
                }
            }
        }
    }

    /// Claims a certain device, a share of it, or a tap.
    pub(crate) fn claim(&self, wanted: Wanted, borrower: &Borrower) -> Result<Generation> {
        self.claim_in(&mut lock(&self.state), wanted, borrower)
    }

    fn claim_in(
        &self,
        state: &mut State,
        wanted: Wanted,
        borrower: &Borrower,
    ) -> Result<Generation> {
        let (owner, origin) = (borrower.owner.clone(), borrower.origin);
        let claim = match wanted {
            Wanted::Whole(device) => self.assigner.claim(device, owner, origin),
            Wanted::Share(parent) => self.assigner.claim_link(Some(parent), owner, origin),
            Wanted::Tap => self.assigner.claim_link(None, owner, origin),
        };
        let claim = claim.map_err(|error| fault::invalid(Domain::Qemu, error.to_string()))?;
        let generation = claim.generation();
        // `assign` has just said that nobody else has it.
        match wanted {
            Wanted::Whole(device) => {
                let _ = state.pool.claim(device, borrower.holder());
            }
            Wanted::Share(parent) => {
                if let Ok(share) = state.pool.share(parent, borrower.holder()) {
                    state.shares.insert(generation, share);
                }
            }
            Wanted::Tap => {}
        }
        state.claims.insert(generation, claim);
        Ok(generation)
    }

    /// The claim of a port that an earlier daemon made: the one that its device is still lent
    /// under, or a new one.
    pub(crate) fn reclaim(
        &self,
        port: Uuid,
        wanted: Wanted,
        borrower: &Borrower,
    ) -> Result<Generation> {
        let mut state = lock(&self.state);
        match state.by_port.remove(&port) {
            Some(known) => Ok(known),
            None => self.claim_in(&mut state, wanted, borrower),
        }
    }

    /// What a port of an earlier daemon has, whose network does not run now.
    pub(crate) fn claim_of_port(&self, port: Uuid) -> Option<Generation> {
        lock(&self.state).by_port.remove(&port)
    }

    /// Ends a claim that nothing was done with. A device that is lent stays so.
    pub(crate) fn drop_claim(&self, generation: Generation) {
        let claimed = lock(&self.state).claims.remove(&generation);
        // Only claimed, so there is nothing that could fail on the way back.
        if let Some(claim) = claimed
            && self.assigner.give_back(generation).is_ok()
        {
            self.settle(claim.item(), generation);
        }
    }

    /// Prepares a claimed device for its guest.
    pub(crate) async fn prepare(
        &self,
        generation: Generation,
        preparation: Preparation,
    ) -> std::result::Result<Lent, NotLent> {
        let internal = |detail: String| NotLent {
            error: Error::new(Code::InternalError, Domain::Qemu, detail),
            try_another: None,
        };
        let Some(claim) = lock(&self.state).claims.remove(&generation) else {
            let detail = format!("the claim {generation} is not good any more");
            return Err(internal(detail));
        };
        let item = claim.item();
        let assigner = Arc::clone(&self.assigner);
        let prepared = tokio::task::spawn_blocking(move || assigner.prepare(claim, &preparation));
        let error = match prepared.await {
            Ok(Ok(lent)) => return Ok(lent),
            Ok(Err(error)) => error,
            Err(_) => {
                let detail = format!("preparing {item} broke off; the log says why");
                return Err(internal(detail));
            }
        };
        self.settle(item, generation);
        Err(NotLent {
            try_another: error
                .is_about_this_device()
                .then(|| error.obstacle.to_string()),
            error: prepare_error(&error),
        })
    }

    /// Takes a device back from its guest, whose process is gone.
    pub(crate) async fn give_back(
        &self,
        generation: Generation,
    ) -> std::result::Result<(), String> {
        lock(&self.state).claims.remove(&generation);
        let assigner = Arc::clone(&self.assigner);
        let returned =
            tokio::task::spawn_blocking(move || assigner.give_back_within(generation, LETTING_GO))
                .await;
        match returned {
            Ok(Ok(returned)) => {
                self.settle(returned.item, generation);
                Ok(())
            }
            // Given back before, by whoever undid a failed start.
            Ok(Err(ReturnError::Superseded(_))) => Ok(()),
            Ok(Err(error)) => {
                if let ReturnError::Dirty { item, .. } = &error {
                    self.settle(*item, generation);
                }
                Err(fault::chain(&error))
            }
            Err(_) => Err(format!(
                "giving {generation} back broke off; the log says why"
            )),
        }
    }

    /// Makes the pool agree with the list about one item, after it changed under that generation.
    fn settle(&self, item: Item, generation: Generation) {
        let mut state = lock(&self.state);
        let line = self.assigner.find(item);
        match item {
            Item::Device(device) => {
                state.pool.release(device);
                state.readmit(device);
                state.vanished.remove(&device);
                if let Some(line) = &line {
                    state.enter(line);
                }
            }
            // One that could not be removed is still on its parent.
            Item::Link(_) if line.is_some() => {}
            Item::Link(_) => {
                if let Some(share) = state.shares.remove(&generation) {
                    state.pool.release_share(share);
                }
            }
        }
    }

    /// Switches a guest's link on or off, and what it stands on with it. Blocks.
    pub(crate) fn set_link_state(
        &self,
        generation: Generation,
        up: bool,
    ) -> std::result::Result<(), LinkError> {
        self.assigner.set_link_state(generation, up)
    }

    /// Sets the link that the guest of a VF sees. Blocks.
    pub(crate) fn set_vf_link(&self, generation: Generation, link: conf::VfLink) -> Result<()> {
        let set = self.assigner.set_vf_link(generation, link);
        set.map_err(|error| change_error(&error))
    }

    /// Shapes a guest's macvtap or tap. Blocks.
    pub(crate) fn set_bandwidth(
        &self,
        generation: Generation,
        bandwidth: &conf::Bandwidth,
    ) -> Result<()> {
        let set = self.assigner.set_bandwidth(generation, bandwidth);
        set.map_err(|error| change_error(&error))
    }

    /// All that is lent.
    pub(crate) fn list(&self) -> Vec<Assignment> {
        self.assigner.list()
    }

    /// What a guest has.
    pub(crate) fn of_guest(&self, guest: Uuid) -> Vec<Assignment> {
        self.assigner.of_guest(guest)
    }

    /// Lent devices that the host does not have any more.
    pub(crate) fn is_vanished(&self, device: DeviceId) -> bool {
        lock(&self.state).vanished.contains(&device)
    }

    /// What differs between records, kernel and running guests. Blocks.
    pub(crate) fn differences(&self, runs: impl Fn(Uuid) -> bool) -> Vec<Difference> {
        self.assigner.reconcile(runs)
    }

    /// Mends one of them; what is in the way, in words. Blocks.
    pub(crate) fn mend(&self, difference: &Difference) -> std::result::Result<(), String> {
        let mended = self.assigner.mend(difference);
        self.agree();
        mended.map_err(|error| fault::chain(&error))
    }

    /// Makes the pool agree with the whole list.
    fn agree(&self) {
        let mut state = lock(&self.state);
        let lent: BTreeSet<_> = (self.assigner.list().iter())
            .map(|line| line.item)
            .collect();
        let loans = state.pool.loans();
        let whole: Vec<_> = (loans.filter(|(_, uses)| matches!(uses, Uses::Whole(_))))
            .map(|(device, _)| device)
            .collect();
        for device in whole {
            if !lent.contains(&Item::Device(device)) {
                state.pool.release(device);
                state.vanished.remove(&device);
            }
        }
        let gone: Vec<_> = (state.shares.keys().copied())
            .filter(|generation| !lent.contains(&Item::Link(*generation)))
            .collect();
        for generation in gone {
            if let Some(share) = state.shares.remove(&generation) {
                state.pool.release_share(share);
            }
        }
        let barred: BTreeSet<_> = (self.assigner.barred().into_iter())
            .filter_map(|(item, _)| item.device())
            .collect();
        let free_again: Vec<_> = state.withheld.difference(&barred).copied().collect();
        for device in free_again {
            state.readmit(device);
        }
    }

    /// The PF that a VF of a network belongs to, and its number there.
    pub(crate) fn place_of(&self, device: DeviceId) -> Option<(String, u16)> {
        let state = lock(&self.state);
        let (pf_address, number) = state.pool.vf(device.pci()?)?;
        let pf = state.pfs.get(&pf_address)?;
        Some((pf.netdev.clone(), number))
    }

    /// How many devices are with guests.
    pub(crate) fn lent_count(&self) -> usize {
        self.list()
            .iter()
            .filter(|line| line.phase == Phase::Lent)
            .count()
    }

    /// Whether a claim's device is with its guest, or on its way there or back.
    pub(crate) fn is_in_use(&self, generation: Generation) -> bool {
        self.assigner
            .find_generation(generation)
            .is_some_and(|line| line.phase != Phase::Claimed)
    }
}

impl State {
    fn withhold(&mut self, device: DeviceId, reason: String) {
        self.withheld.insert(device);
        self.pool.withhold(device, reason);
    }

    fn readmit(&mut self, device: DeviceId) {
        self.withheld.remove(&device);
        self.pool.readmit(device);
    }

    /// Enters a line of the list into the pool.
    fn enter(&mut self, line: &Assignment) {
        let holder = Borrower {
            owner: line.holder.clone(),
            origin: line.origin,
        }
        .holder();
        match (line.item, &line.phase) {
            (Item::Device(device), Phase::Dirty(reasons)) => {
                self.withhold(device, reasons.join("; "));
            }
            (Item::Device(device), _) => {
                let _ = self.pool.claim(device, holder);
            }
            (Item::Link(generation), _) => {
                if let Some(parent) = line.parent
                    && let Ok(share) = self.pool.share(parent, holder)
                {
                    self.shares.insert(generation, share);
                }
            }
        }
    }
}

/// Whether a network's guests get a device whole, in that macvtap mode.
pub(crate) fn whole_or_share(
    network: &Network,
    mode: Option<DirectMode>,
    device: DeviceId,
) -> Wanted {
    if pools::is_exclusive(network) || mode == Some(DirectMode::Passthrough) {
        Wanted::Whole(device)
    } else {
        Wanted::Share(device)
    }
}

fn change_error(error: &ChangeError) -> Error {
    let detail = fault::chain(error);
    let code = match error {
        ChangeError::NoSuchSetting { .. } | ChangeError::NotOffered { .. } => {
            Code::OperationUnsupported
        }
        ChangeError::Lent(LinkError::Refused {
            source: HostError::Unsupported { .. },
            ..
        }) => Code::OperationUnsupported,
        ChangeError::Lent(_) | ChangeError::NotTaken { .. } => Code::OperationFailed,
    };
    Error::new(code, Domain::Qemu, detail)
}

pub(crate) fn prepare_error(error: &PrepareError) -> Error {
    let mut detail = fault::chain(error);
    if let Some(advice) = error.obstacle.advice() {
        detail.push('\n');
        detail.push_str(&advice);
    }
    match error.kind() {
        ErrorKind::ConfigUnsupported => Error::new(Code::ConfigUnsupported, Domain::Qemu, detail),
        ErrorKind::OperationInvalid => Error::new(Code::OperationInvalid, Domain::Qemu, detail),
        // The chain ends with the kernel's own words already.
        ErrorKind::System(_) => Error::new(Code::SystemError, Domain::Qemu, detail),
        ErrorKind::Internal => Error::new(Code::InternalError, Domain::Qemu, detail),
    }
}
