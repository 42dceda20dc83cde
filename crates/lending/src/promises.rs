//! VFs that guests wait for, and PFs that lend nothing.

use std::collections::BTreeMap;
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

/// What was promised, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    last: u64,
    /// By age, and of equals in the order of asking.
    waiting: BTreeMap<(u64, u64), Promise>,
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
        self.is_free(pf);
    }

    pub(crate) fn is_free(&self, pf: PciAddress) {
        if let Some(Listener(tell)) = self.listener.get() {
            tell(pf);
        }
    }

    /// Keeps the next VF of a PF for a guest that waits for one. Promised again it keeps its place.
    pub fn promise(&self, promise: Promise) {
        {
            let mut state = lock(&self.state);
            let mut waiting = state.promises.waiting.values();
            if waiting.any(|known| known.attachment == promise.attachment) {
                return;
            }
            state.promises.last += 1;
            let place = (promise.since, state.promises.last);
            state.promises.waiting.insert(place, promise);
            state.pool.promise(promise.pf);
        }
        // One may be free already.
        self.is_free(promise.pf);
    }

    /// A promise is kept, or over.
    pub fn end_promise(&self, attachment: Uuid) {
        let its: Vec<_> = {
            let mut state = lock(&self.state);
            let waiting = state.promises.waiting.iter();
            let its = waiting.filter(|(_, promise)| promise.attachment == attachment);
            let its: Vec<_> = its.map(|(place, promise)| (*place, promise.pf)).collect();
            for (place, pf) in &its {
                state.promises.waiting.remove(place);
                state.pool.end_promise(*pf);
            }
            its
        };
        // The next one may have what this one does not need.
        for (_, pf) in its {
            self.is_free(pf);
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
            let waiting = state.promises.waiting.values();
            let waiting: Vec<_> = waiting.filter(|one| one.pf == pf).copied().collect();
            let free = state.pool.free_vfs_of(pf, waiting.len());
            (waiting, free)
        };
        waiting.into_iter().filter(can_use).take(free).collect()
    }

    /// Has a PF lend nothing, or lend again.
    pub fn set_drained(&self, pf: PciAddress, drained: bool) {
        lock(&self.state).pool.set_drained(pf, drained);
        if !drained {
            self.is_free(pf);
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
        let network = synthetic(pf)?;
        let is_known = lock(&self.state).networks.contains_key(&network.name);
        if !is_known && let Some(forward) = &network.forward {
            self.open_pool(&network, forward)?;
        }
        Ok(network)
    }
}

fn synthetic(pf: &str) -> Result<Network, OpenPoolError> {
    let names_none = || OpenPoolError::NamesNone(pf.to_owned());
    let mut network =
        Network::parse("<network><name>vfs</name></network>").map_err(|_| names_none())?;
    // No network's name has a slash.
    network.name = format!("VFs of {pf}/");
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
