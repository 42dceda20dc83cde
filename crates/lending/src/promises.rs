//! VFs that guests wait for, and PFs that lend nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use conf::{Forward, ForwardMode, Network, PciAddress, PoolMembers, Uuid};

use crate::ledger::Ledger;
use crate::members::OpenPoolError;
use crate::state::lock;

/// A VF that a guest was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The attachment that waits.
    pub attachment: Uuid,
    /// Whose it is.
    pub guest: Uuid,
    /// Of which PF.
    pub pf: PciAddress,
    /// Since when, in microseconds since 1970.
    pub since: u64,
}

/// What was promised.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    last: u64,
    /// Of each PF: by age, and of equals in the order of asking.
    waiting: HashMap<PciAddress, BTreeMap<Age, Promise>>,
    /// By attachment.
    places: HashMap<Uuid, (PciAddress, Age)>,
}

type Age = (u64, u64);

impl Promises {
    /// False: it was promised before.
    fn add(&mut self, promise: Promise) -> bool {
        let Entry::Vacant(place) = self.places.entry(promise.attachment) else {
            return false;
        };
        self.last += 1;
        let age = (promise.since, self.last);
        place.insert((promise.pf, age));
        let waiting = self.waiting.entry(promise.pf).or_default();
        waiting.insert(age, promise);
        true
    }

    fn remove(&mut self, attachment: Uuid) -> Option<Promise> {
        let (pf, age) = self.places.remove(&attachment)?;
        let waiting = self.waiting.get_mut(&pf)?;
        let promise = waiting.remove(&age);
        if waiting.is_empty() {
            self.waiting.remove(&pf);
        }
        promise
    }
}

/// Who is told that a VF of a PF may be had.
pub(crate) struct Listener(Box<dyn Fn(PciAddress) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl Ledger {
    /// Has somebody told of each PF of which a VF may be had again. To be called once; it must not ask
    /// the ledger for anything.
    pub fn tell_free(&self, tell: impl Fn(PciAddress) + Send + Sync + 'static) {
        // Whoever comes second is not heard.
        let _ = self.listener.set(Listener(Box::new(tell)));
    }

    /// Has those who wait for a VF of that PF looked at anew.
    pub fn look_again(&self, pf: PciAddress) {
        if let Some(Listener(tell)) = self.listener.get() {
            tell(pf);
        }
    }

    /// Keeps the next VF of a PF for a guest that waits for one. Promised again it keeps its place.
    pub fn promise(&self, promise: Promise) {
        {
            let mut state = lock(&self.state);
            if !state.promises.add(promise) {
                return;
            }
            state.pool.promise(promise.pf);
        }
        // One may be free already.
        self.look_again(promise.pf);
    }

    /// A promise is kept, or over.
    pub fn end_promise(&self, attachment: Uuid) {
        let its = {
            let mut state = lock(&self.state);
            let its = state.promises.remove(attachment);
            if let Some(promise) = its {
                state.pool.end_promise(promise.pf);
            }
            its
        };
        // The next one may have what this one does not need.
        if let Some(promise) = its {
            self.look_again(promise.pf);
        }
    }

    /// Who of those that wait for a VF of that PF may have one now: as many of those that can use one as
    /// are free, the oldest first; nobody while it is drained. `can_use` must not ask the ledger.
    #[must_use]
    pub fn due(&self, pf: PciAddress, can_use: impl Fn(&Promise) -> bool) -> Vec<Promise> {
        let (waiting, free): (Vec<_>, _) = {
            let state = lock(&self.state);
            if state.pool.drained().contains(&pf) {
                return Vec::new();
            }
            let Some(waiting) = state.promises.waiting.get(&pf) else {
                return Vec::new();
            };
            let waiting: Vec<_> = waiting.values().copied().collect();
            let free = state.pool.free_vfs_of(pf, waiting.len());
            (waiting, free)
        };
        waiting.into_iter().filter(can_use).take(free).collect()
    }

    /// Has a PF lend nothing, or lend again.
    pub fn set_drained(&self, pf: PciAddress, drained: bool) {
        lock(&self.state).pool.set_drained(pf, drained);
        if !drained {
            self.look_again(pf);
        }
    }

    /// Whether a PF lends nothing.
    #[must_use]
    pub fn is_drained(&self, pf: PciAddress) -> bool {
        lock(&self.state).pool.drained().contains(&pf)
    }

    /// The VFs of a PF that no network lends by this, as a network whose name nobody can give one.
    /// Asks the host the first time; blocks.
    ///
    /// # Errors
    /// It is no PF, has no VFs, or the host does not tell.
    pub(crate) fn network_of_pf(&self, pf: &str) -> Result<Network, OpenPoolError> {
        let network = network_for(pf)?;
        let is_known = lock(&self.state).networks.contains_key(&network.name);
        if !is_known && let Some(forward) = &network.forward {
            self.open_pool(&network, forward)?;
        }
        Ok(network)
    }
}

fn network_for(pf: &str) -> Result<Network, OpenPoolError> {
    let names_none = || OpenPoolError::NamesNone(pf.to_owned());
    let mut network =
        Network::parse("<network><name>vfs</name></network>").map_err(|_| names_none())?;
    network.name = pool::synthetic(pf);
    network.uuid = Uuid::nil();
    network.forward = Some(Forward {
        mode: ForwardMode::Hostdev,
        managed: true,
        driver: None,
        nat: None,
        members: PoolMembers::PhysicalFunctions(vec![pf.to_owned()]),
    });
    Ok(network)
}
