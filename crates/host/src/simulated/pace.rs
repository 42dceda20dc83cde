//! How long a simulated kernel takes. What waits holds no lock of the simulated host's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SimulatedHost;
use crate::Operation;

/// The pace of one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waits: Mutex<Waits>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waits {
    /// Each call that changes something takes so long.
    slowness: Duration,
    /// Calls of these don't return yet.
    held: Vec<Operation>,
    /// Calls that wait for that.
    waiting: Vec<Operation>,
    /// Calls after a crash don't even unwind.
    is_frozen: bool,
    /// How many of those there are.
    frozen: usize,
}

/// Calls of an operation that don't return until this is dropped.
#[derive(Debug)]
#[must_use = "calls go on when it is dropped"]
pub struct Held {
    pace: Pace,
    operation: Operation,
}

impl Pace {
    pub(super) fn wait(&self, operation: Operation) {
        let mut waits = self.lock();
        if waits.held.contains(&operation) {
            waits.waiting.push(operation);
            self.0.changed.notify_all();
            while waits.held.contains(&operation) {
                let woken = self.0.changed.wait(waits);
                waits = woken.unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(at) = waits.waiting.iter().position(|one| *one == operation) {
                waits.waiting.swap_remove(at);
            }
        }
        let slowness = waits.slowness;
        drop(waits);
        if !slowness.is_zero() && operation.changes() {
            #[expect(clippy::disallowed_methods, reason = "this is the slowness itself")]
            std::thread::sleep(slowness);
        }
    }

    /// Keeps a call after a crash where it is, if that is wanted.
    pub(super) fn freeze(&self) {
        let mut waits = self.lock();
        waits.frozen += 1;
        self.0.changed.notify_all();
        while waits.is_frozen {
            let woken = self.0.changed.wait(waits);
            waits = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waits.frozen -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Waits until a call is held.
    pub fn reached(&self) {
        let mut waits = self.pace.lock();
        while !waits.waiting.contains(&self.operation) {
            let woken = self.pace.0.changed.wait(waits);
            waits = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut waits = self.pace.lock();
        if let Some(at) = waits.held.iter().position(|one| *one == self.operation) {
            waits.held.swap_remove(at);
        }
        self.pace.0.changed.notify_all();
    }
}

/// A caller that stops, as one that is killed does: its calls don't return. Dropped, they unwind.
#[derive(Debug)]
#[must_use = "calls unwind when it is dropped"]
pub struct Frozen(Pace);

impl Frozen {
    /// Whether the caller has come to where it stops.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.0.lock().frozen > 0
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.lock().is_frozen = false;
        self.0.0.changed.notify_all();
    }
}

impl SimulatedHost {
    /// As [`SimulatedHost::crash_after`], and nothing of the caller goes on: the call that made the last
    /// effect does not even unwind, nor does any later one, until what this gives is dropped. So what
    /// waits for it can be taken away first, as the end of a process takes all of it at once.
    pub fn freeze_after(&self, effects: u64) -> Frozen {
        self.pace.lock().is_frozen = true;
        self.crash_after(effects);
        Frozen(self.pace.clone())
    }

    /// Each call that changes something takes so long from now on.
    pub fn set_slowness(&self, slowness: Duration) {
        self.pace.lock().slowness = slowness;
    }

    /// Calls of an operation don't return from now on, until what this gives is dropped.
    pub fn hold(&self, operation: Operation) -> Held {
        self.pace.lock().held.push(operation);
        Held {
            pace: self.pace.clone(),
            operation,
        }
    }
}
