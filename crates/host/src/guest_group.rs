//! Groups that guests' processes have for themselves.

use std::fs;
use std::io;
use std::path::Path;

use conf::Uuid;
use serde::{Deserialize, Serialize};

/// A group that the process of one guest has, and no other: by it that guest alone may open what is
/// lent to it, though all guests run as one user. It is a number, and has no name in `/etc/group`.
///
/// Numbers are 2013265920 to 2080374783. systemd's table of ids ("Users, Groups, UIDs and GIDs on
/// systemd Systems") has nobody use these; they are above the containers' (to 1879048191) and above
/// what SSSD makes of foreign domains' ids by default (to 2000200000), and below systemd's range of
/// foreign images (from 2147352576).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct GuestGroup(u32);

/// A number that is no guest's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no guest's group: these are {first} to {last}", first = GuestGroup::FIRST, last = GuestGroup::LAST)]
pub struct GuestGroupError(u32);

impl GuestGroup {
    const FIRST: u32 = 0x7800_0000;
    const LAST: u32 = 0x7bff_ffff;

    /// Any of them. It is drawn by lot, so that it isn't one that a process has of which nobody knows:
    /// a guest's whose record can't be read, or another daemon's.
    #[must_use]
    pub fn draw() -> Self {
        // The lower 62 bits of a random UUID are random.
        let lot = u32::try_from(Uuid::new_v4().as_u128() & 0x03ff_ffff);
        Self(Self::FIRST + lot.unwrap_or(0))
    }

    /// Its number.
    #[must_use]
    pub fn gid(self) -> u32 {
        self.0
    }

    /// Whether we may give a process such a group: not in a user namespace that lacks these numbers, or
    /// in which groups can't be chosen. `proc` is where procfs is mounted.
    #[must_use]
    pub fn can_be_had(proc: &Path) -> bool {
        let own = |name: &str| match fs::read_to_string(proc.join("self").join(name)) {
            Ok(text) => Some(Some(text)),
            // A kernel without user namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            Err(_) => None,
        };
        let may_choose = own("setgroups").is_some_and(|text| {
            let text = text.as_deref().unwrap_or("allow");
            text.trim() == "allow"
        });
        let are_mapped = own("gid_map").is_some_and(|map| map.as_deref().is_none_or(maps_all));
        may_choose && are_mapped
    }
}

/// Whether a namespace has all of the numbers: lines of first number inside, first outside, count.
fn maps_all(map: &str) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let (lowest, last) = (u64::from(GuestGroup::FIRST), u64::from(GuestGroup::LAST));
        first <= lowest && first.saturating_add(count) > last
    })
}

impl TryFrom<u32> for GuestGroup {
    type Error = GuestGroupError;

    fn try_from(gid: u32) -> Result<Self, Self::Error> {
        match gid {
            Self::FIRST..=Self::LAST => Ok(Self(gid)),
            _ => Err(GuestGroupError(gid)),
        }
    }
}

impl From<GuestGroup> for u32 {
    fn from(group: GuestGroup) -> Self {
        group.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_one_of_those_that_nobody_uses() {
        for _ in 0..1000 {
            let drawn = GuestGroup::draw();
            assert_eq!(GuestGroup::try_from(drawn.gid()), Ok(drawn));
        }
        assert_ne!(GuestGroup::draw(), GuestGroup::draw());
        for other in [0, 108, 0x77ff_ffff, 0x7c00_0000, u32::MAX] {
            assert_eq!(GuestGroup::try_from(other), Err(GuestGroupError(other)));
        }
        assert_eq!(
            GuestGroup::try_from(108).unwrap_err().to_string(),
            "108 is no guest's group: these are 2013265920 to 2080374783"
        );
    }

    #[test]
    fn a_namespace_without_the_numbers_is_known() {
        let proc = tempfile::tempdir().unwrap();
        let own = proc.path().join("self");
        fs::create_dir(&own).unwrap();
        let can = || GuestGroup::can_be_had(proc.path());
        assert!(can(), "a kernel without user namespaces");
        let map = |text: &str| fs::write(own.join("gid_map"), text).unwrap();
        map("         0          0 4294967295\n");
        assert!(can());
        for lacking in [
            "0 100000 65536\n",
            "0 0 2080374783\n",
            "2013265921 0 67108864\n",
            "x\n",
            "",
        ] {
            map(lacking);
            assert!(!can(), "{lacking}");
        }
        map("0 100000 65536\n2013265920 2013265920 67108864\n");
        assert!(can());
        fs::write(own.join("setgroups"), "deny\n").unwrap();
        assert!(!can());
        fs::write(own.join("setgroups"), "allow\n").unwrap();
        assert!(can());
    }
}
