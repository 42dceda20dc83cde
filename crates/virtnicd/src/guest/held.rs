//! VFs of pairs that could not be plugged in: tried again after a while, and nobody else waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Until the first next attempt, and the longest between two.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// By alias: until when, unless that is over, and how long that was.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, (Option<Instant>, Duration)>);

impl Held {
    /// It has just failed.
    pub(super) fn hold(&mut self, alias: String) {
        let last = self.0.get(&alias).map(|(_, wait)| *wait);
        let wait = last.map_or(FIRST, |wait| (wait * 2).min(LONGEST));
        self.0.insert(alias, (Some(Instant::now() + wait), wait));
    }

    /// It is there.
    pub(super) fn forget(&mut self, alias: &str) {
        self.0.remove(alias);
    }

    /// Something has changed for all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_held(&self, alias: &str) -> bool {
        self.0.get(alias).is_some_and(|(until, _)| until.is_some())
    }

    /// Those that are.
    pub(super) fn aliases(&self) -> BTreeSet<String> {
        let all = self.0.keys();
        all.filter(|alias| self.is_held(alias)).cloned().collect()
    }

    /// When the next may be tried again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|(until, _)| *until).min()
    }

    /// Those whose time has come may be.
    pub(super) fn release(&mut self) {
        let now = Instant::now();
        for (until, _) in self.0.values_mut() {
            until.take_if(|until| *until <= now);
        }
    }
}
