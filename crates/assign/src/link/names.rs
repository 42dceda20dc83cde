//! Names of links.

use std::collections::BTreeSet;

use conf::NetdevName;
use host::{Host, HostError, Netdev};

use crate::assigner::Assigner;
use crate::error::Obstacle;
use crate::record::Record;

/// Numbers are tried up to this one.
const MOST: u32 = 99_999;

impl Assigner {
    /// The name that was asked for, if it is free.
    pub(crate) fn asked_name(&self, name: NetdevName) -> Result<NetdevName, Obstacle> {
        match self.host.0.netdev(name.as_str()) {
            Err(HostError::NoNetdev(_)) => Ok(name),
            Ok(holder) => Err(self.taken(&holder)),
            Err(error) => Err(error.into()),
        }
    }

    /// A free name: none that is recorded and not made yet, and none of `others`.
    pub(crate) fn free_name(
        &self,
        prefix: &'static str,
        others: &BTreeSet<NetdevName>,
    ) -> Result<NetdevName, Obstacle> {
        let known = self.lock().first_free.get(prefix).copied().unwrap_or(0);
        if let Some((name, number)) = self.free_from(prefix, known, others)? {
            if others.is_empty() {
                self.lock().first_free.insert(prefix, number);
            }
            return Ok(name);
        }
        // Below, there may be one that was not ours.
        let lowest = self.free_from(prefix, 0, others)?;
        let (name, _) = lowest.ok_or(Obstacle::NoFreeName { prefix })?;
        Ok(name)
    }

    /// The lowest free name from that number on.
    pub(crate) fn free_name_from(
        &self,
        prefix: &'static str,
        from: u32,
    ) -> Result<NetdevName, Obstacle> {
        let found = self.free_from(prefix, from, &BTreeSet::new())?;
        let (name, _) = found.ok_or(Obstacle::NoFreeName { prefix })?;
        Ok(name)
    }

    fn free_from(
        &self,
        prefix: &'static str,
        from: u32,
        others: &BTreeSet<NetdevName>,
    ) -> Result<Option<(NetdevName, u32)>, Obstacle> {
        for number in from..=MOST {
            let Ok(name) = format!("{prefix}{number}").parse::<NetdevName>() else {
                break;
            };
            if others.contains(&name) || self.lock().names.contains_key(&name) {
                continue;
            }
            match self.host.0.netdev(name.as_str()) {
                Err(HostError::NoNetdev(_)) => return Ok(Some((name, number))),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// That a name is taken, and by whom.
    pub(crate) fn taken(&self, other: &Netdev) -> Obstacle {
        Obstacle::NameTaken {
            name: other.name,
            holder: self.whose(other),
        }
    }

    /// Whose a network device is, in words.
    pub(crate) fn whose(&self, netdev: &Netdev) -> String {
        let guest = {
            let list = self.lock();
            let entry = list.entries.values().find(|entry| {
                let link = entry.record.as_ref().and_then(Record::link);
                link.is_some_and(|link| link.index == Some(netdev.index))
            });
            entry.map(|entry| entry.holder.name.clone())
        };
        match (guest, &netdev.kind) {
            (Some(guest), _) => format!("made for guest '{guest}'"),
            (None, _) if netdev.is_ours() => "left behind by a guest that is gone".to_owned(),
            (None, Some(kind)) => format!("a {kind} device of the host"),
            (None, None) => "a card of the host".to_owned(),
        }
    }
}

/// A network device's name by its index, for words.
pub(crate) fn name_of(host: &dyn Host, index: u32) -> String {
    let all = host.netdevs().unwrap_or_default();
    let found = all.into_iter().find(|netdev| netdev.index == index);
    found.map_or_else(
        || format!("device {index}"),
        |netdev| netdev.name.to_string(),
    )
}
