//! The groups by which guests' processes open what is lent to them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use host::GuestGroup;

use crate::sync::lock;

/// Those that guests have.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuestGroups(Arc<Mutex<HashSet<GuestGroup>>>);

/// One that a guest has, from its start until nobody knows of that run any more.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    group: GuestGroup,
    all: GuestGroups,
}

impl GuestGroups {
    /// One that no other guest has.
    pub(crate) fn draw(&self) -> Arc<OwnGroup> {
        loop {
            let group = GuestGroup::draw();
            if lock(&self.0).insert(group) {
                return self.own(group);
            }
        }
    }

    /// That of a guest which an earlier daemon started.
    pub(crate) fn take_up(&self, group: GuestGroup) -> Arc<OwnGroup> {
        lock(&self.0).insert(group);
        self.own(group)
    }

    fn own(&self, group: GuestGroup) -> Arc<OwnGroup> {
        let all = self.clone();
        Arc::new(OwnGroup { group, all })
    }
}

impl OwnGroup {
    pub(crate) fn group(&self) -> GuestGroup {
        self.group
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_one_guests_until_it_is_gone() {
        let groups = GuestGroups::default();
        let found = groups.take_up(GuestGroup::draw());
        let drawn = groups.draw();
        assert_ne!(found.group(), drawn.group());
        assert_eq!(lock(&groups.0).len(), 2);
        let copy = Arc::clone(&drawn);
        drop(drawn);
        assert!(lock(&groups.0).contains(&copy.group()));
        drop((copy, found));
        assert!(lock(&groups.0).is_empty());
    }
}
