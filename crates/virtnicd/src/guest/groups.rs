//! The groups by which guests' processes open what is lent to them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use host::GuestGroup;

use crate::sync::lock;

/// Those that guests have.
#[derive(Debug)]
pub(crate) struct GuestGroups {
    taken: Taken,
    /// Guests that are started get one.
    are_given: bool,
}

type Taken = Arc<Mutex<HashSet<GuestGroup>>>;

/// One that a guest has, from its start until nobody knows of that run any more.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    group: GuestGroup,
    taken: Taken,
}

impl GuestGroups {
    /// None yet. `are_given`: whether guests that are started get one.
    pub(crate) fn new(are_given: bool) -> Self {
        Self {
            taken: Taken::default(),
            are_given,
        }
    }

    /// One that no other guest has; `None`: none is given.
    pub(crate) fn draw(&self) -> Option<Arc<OwnGroup>> {
        if !self.are_given {
            return None;
        }
        loop {
            let group = GuestGroup::draw();
            if lock(&self.taken).insert(group) {
                return Some(self.own(group));
            }
        }
    }

    /// That of a guest which an earlier daemon started.
    pub(crate) fn take_up(&self, group: GuestGroup) -> Arc<OwnGroup> {
        lock(&self.taken).insert(group);
        self.own(group)
    }

    fn own(&self, group: GuestGroup) -> Arc<OwnGroup> {
        let taken = Arc::clone(&self.taken);
        Arc::new(OwnGroup { group, taken })
    }
}

impl OwnGroup {
    pub(crate) fn group(&self) -> GuestGroup {
        self.group
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_one_guests_until_it_is_gone() {
        let groups = GuestGroups::new(true);
        let found = groups.take_up(GuestGroup::draw());
        let drawn = groups.draw().unwrap();
        assert_ne!(found.group(), drawn.group());
        assert_eq!(lock(&groups.taken).len(), 2);
        let copy = Arc::clone(&drawn);
        drop(drawn);
        assert!(lock(&groups.taken).contains(&copy.group()));
        drop((copy, found));
        assert!(lock(&groups.taken).is_empty());
        assert!(GuestGroups::new(false).draw().is_none());
    }
}
