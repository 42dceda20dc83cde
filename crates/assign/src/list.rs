//! The list itself: its lines, and who works on one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conf::{DeviceId, NetdevName, PciAddress, Uuid};

use crate::device::{Assignment, Generation, Holder, Item, Origin, Phase};
use crate::error::ClaimError;
use crate::record::{Record, Stage};

#[derive(Debug, Default)]
pub(crate) struct List {
    pub(crate) start: u32,
    count: u32,
    pub(crate) entries: BTreeMap<Item, Entry>,
    pub(crate) by_generation: BTreeMap<Generation, Item>,
    by_guest: BTreeMap<Uuid, BTreeSet<Item>>,
    /// Attachments are the guests' own, and the last claim for one counts.
    pub(crate) by_attachment: BTreeMap<Uuid, Item>,
    /// The links on each device that is shared.
    pub(crate) shared: BTreeMap<DeviceId, BTreeSet<Generation>>,
    /// The names of links, made or about to be.
    pub(crate) names: HashMap<NetdevName, Item>,
    /// By the beginning of links' names: all numbers below that one were in use when last looked at.
    pub(crate) first_free: BTreeMap<&'static str, u32>,
    /// Items whose records can't be read: of nobody known.
    pub(crate) unreadable: BTreeMap<Item, UnreadableRecord>,
}

#[derive(Debug, Clone)]
pub(crate) struct UnreadableRecord {
    pub(crate) path: PathBuf,
    /// What is wrong, in words.
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) generation: Generation,
    pub(crate) holder: Holder,
    pub(crate) origin: Origin,
    pub(crate) phase: Phase,
    /// The device that it shares.
    pub(crate) parent: Option<DeviceId>,
    /// A thread changes the lent item just now.
    pub(crate) busy: bool,
    pub(crate) record: Option<Record>,
}

impl List {
    /// Puts a claim on the list that nobody has a better one against. `device`: lent whole; else a
    /// link, on that parent.
    pub(crate) fn claim(
        &mut self,
        device: Option<DeviceId>,
        parent: Option<DeviceId>,
        holder: Holder,
        origin: Origin,
    ) -> Result<(Item, Generation), ClaimError> {
        if let Some(claimed) = device.or(parent) {
            self.check_claim(claimed, device.is_some())?;
        }
        // Each start counts from anew, and has four thousand million claims.
        self.count = self.count.saturating_add(1);
        let generation = Generation {
            start: self.start,
            count: self.count,
        };
        let item = device.map_or(Item::Link(generation), Item::Device);
        self.insert(
            item,
            Entry {
                generation,
                holder,
                origin,
                phase: Phase::Claimed,
                parent,
                busy: false,
                record: None,
            },
        );
        Ok((item, generation))
    }

    /// Refuses a device that somebody has; and, to have it whole, one that links share.
    pub(crate) fn check_claim(&self, device: DeviceId, whole: bool) -> Result<(), ClaimError> {
        self.refuse_taken(device)?;
        if whole && let Some(links) = self.shared.get(&device) {
            let guests = links.iter().filter_map(|link| self.by_generation(*link));
            let mut guests: Vec<_> = guests.map(|(_, entry)| entry.holder.name.clone()).collect();
            guests.dedup();
            return Err(ClaimError::Shared { device, guests });
        }
        Ok(())
    }

    /// Puts a function on the list that is to be taken from the host, or given back to it: nobody else
    /// does either meanwhile, and nobody claims it. `names`: its network devices.
    pub(crate) fn claim_detached(
        &mut self,
        address: PciAddress,
        names: &[NetdevName],
    ) -> Result<(Item, Generation), ClaimError> {
        self.check_claim(address.into(), true)?;
        for name in names {
            self.check_claim(DeviceId::Netdev(*name), true)?;
        }
        self.count = self.count.saturating_add(1);
        let generation = Generation {
            start: self.start,
            count: self.count,
        };
        let item = Item::Detached(address);
        self.insert(
            item,
            Entry {
                generation,
                holder: Holder::nobody(),
                origin: Origin::Detached,
                phase: Phase::Preparing,
                parent: None,
                busy: false,
                record: None,
            },
        );
        Ok((item, generation))
    }

    /// Refuses a function that somebody is just taking from the host, or giving back to it.
    fn refuse_in_hand(&self, device: DeviceId) -> Result<(), ClaimError> {
        let Some(item) = device.pci().map(Item::Detached) else {
            return Ok(());
        };
        let in_hand = |doing| Err(ClaimError::InHand { device, doing });
        match self.entries.get(&item).map(|entry| &entry.phase) {
            Some(Phase::Claimed | Phase::Preparing) => in_hand("taken from the host"),
            Some(Phase::Returning) => in_hand("given back to the host"),
            Some(Phase::Dirty(reasons)) => Err(ClaimError::Barred {
                item,
                reason: reasons.join("; "),
            }),
            Some(Phase::Lent) | None => Ok(()),
        }
    }

    fn refuse_taken(&self, device: DeviceId) -> Result<(), ClaimError> {
        self.refuse_in_hand(device)?;
        let item = Item::Device(device);
        if let Some(entry) = self.entries.get(&item) {
            return Err(match &entry.phase {
                Phase::Dirty(reasons) => ClaimError::Barred {
                    item,
                    reason: reasons.join("; "),
                },
                _ => ClaimError::Taken {
                    device,
                    guest: entry.holder.name.clone(),
                    network: entry.holder.network.clone(),
                },
            });
        }
        match self.unreadable.get(&item) {
            Some(record) => Err(ClaimError::Barred {
                item,
                reason: record.reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Puts what the journal tells on the list.
    pub(crate) fn insert_record(&mut self, record: Record) {
        let item = record.item;
        self.insert(
            item,
            Entry {
                generation: record.generation,
                holder: record.holder.clone(),
                origin: record.origin,
                phase: match record.stage {
                    Stage::Preparing => Phase::Preparing,
                    Stage::Lent => Phase::Lent,
                    Stage::Returning => Phase::Returning,
                },
                parent: record.parent(),
                busy: false,
                record: None,
            },
        );
        self.set_record(item, record);
    }

    /// What is known of an item from now on.
    pub(crate) fn set_record(&mut self, item: Item, record: Record) {
        let Some(entry) = self.entries.get_mut(&item) else {
            return;
        };
        let name_in = |record: &Record| record.link().map(|link| link.name);
        let (old, new) = (entry.record.as_ref().and_then(name_in), name_in(&record));
        entry.record = Some(record);
        if old != new {
            self.release_name(item, old);
            self.names.extend(new.map(|name| (name, item)));
        }
    }

    fn release_name(&mut self, item: Item, name: Option<NetdevName>) {
        let Some(name) = name.filter(|name| self.names.get(name) == Some(&item)) else {
            return;
        };
        self.names.remove(&name);
        for (prefix, first) in &mut self.first_free {
            let number = name.as_str().strip_prefix(prefix);
            if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
                *first = number.min(*first);
            }
        }
    }

    fn insert(&mut self, item: Item, entry: Entry) {
        self.by_generation.insert(entry.generation, item);
        (self.by_guest.entry(entry.holder.guest).or_default()).insert(item);
        if let Some(attachment) = entry.holder.attachment {
            self.by_attachment.insert(attachment, item);
        }
        if let Some(parent) = entry.parent {
            (self.shared.entry(parent).or_default()).insert(entry.generation);
        }
        self.entries.insert(item, entry);
    }

    pub(crate) fn forget(&mut self, item: Item) {
        let Some(entry) = self.entries.remove(&item) else {
            return;
        };
        self.by_generation.remove(&entry.generation);
        let link = entry.record.as_ref().and_then(Record::link);
        self.release_name(item, link.map(|link| link.name));
        if let Some(attachment) = entry.holder.attachment
            && self.by_attachment.get(&attachment) == Some(&item)
        {
            self.by_attachment.remove(&attachment);
        }
        let guest = entry.holder.guest;
        if let Some(items) = self.by_guest.get_mut(&guest) {
            items.remove(&item);
            if items.is_empty() {
                self.by_guest.remove(&guest);
            }
        }
        if let Some(parent) = entry.parent
            && let Some(links) = self.shared.get_mut(&parent)
        {
            links.remove(&entry.generation);
            if links.is_empty() {
                self.shared.remove(&parent);
            }
        }
    }

    pub(crate) fn by_generation(&self, generation: Generation) -> Option<(Item, &Entry)> {
        let item = *self.by_generation.get(&generation)?;
        self.entries.get(&item).map(|entry| (item, entry))
    }

    pub(crate) fn of_guest(&self, guest: Uuid) -> Vec<Assignment> {
        let items = self.by_guest.get(&guest).into_iter().flatten();
        let lines = items.filter_map(|item| Some(self.entries.get(item)?.line(*item)));
        lines.collect()
    }
}

impl Entry {
    pub(crate) fn line(&self, item: Item) -> Assignment {
        let record = self.record.as_ref();
        let vfio = record.and_then(Record::vfio);
        let link = record.and_then(Record::link);
        Assignment {
            item,
            generation: self.generation,
            holder: self.holder.clone(),
            origin: self.origin,
            phase: self.phase.clone(),
            kind: record.map(Record::kind),
            since: record.map(|record| record.since),
            vf: record.and_then(|record| Some(record.vf()?.vf.clone())),
            driver: vfio.map(|vfio| vfio.driver.clone()),
            host_driver: vfio.and_then(|vfio| vfio.host_driver.clone()),
            group: vfio.map(|vfio| vfio.group),
            parent: self.parent,
            mode: link.and_then(|link| link.mode),
            netdev: link.map(|link| link.name),
            ifindex: link.and_then(|link| link.index),
            bridge: link.and_then(|link| link.bridge),
            instance: record.and_then(Record::instance),
        }
    }
}

/// Each change of the list is made whole or not at all, so a panic elsewhere spoils none.
pub(crate) fn lock(list: &Mutex<List>) -> MutexGuard<'_, List> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An item that one thread works on. Dropped unsettled (by a panic), it is dirty.
#[derive(Debug)]
pub(crate) struct InHand<'a> {
    list: &'a Mutex<List>,
    pub(crate) item: Item,
    pub(crate) generation: Generation,
    pub(crate) holder: Holder,
    pub(crate) origin: Origin,
    pub(crate) parent: Option<DeviceId>,
    before: Phase,
    settled: bool,
}

impl<'a> InHand<'a> {
    pub(crate) fn new(list: &'a Mutex<List>, item: Item, entry: &Entry) -> Self {
        Self {
            list,
            item,
            generation: entry.generation,
            holder: entry.holder.clone(),
            origin: entry.origin,
            parent: entry.parent,
            before: entry.phase.clone(),
            settled: false,
        }
    }

    /// What is known of it from now on.
    pub(crate) fn note(&self, record: &Record) {
        lock(self.list).set_record(self.item, record.clone());
    }

    /// It is the guest's.
    pub(crate) fn lent(self) {
        self.settle(Phase::Lent);
    }

    /// It is not as it was found.
    pub(crate) fn dirty(self, reasons: Vec<String>) {
        self.settle(Phase::Dirty(reasons));
    }

    /// Nothing was done after all.
    pub(crate) fn untouched(mut self) {
        let before = std::mem::replace(&mut self.before, Phase::Claimed);
        self.settle(before);
    }

    /// It is nobody's.
    pub(crate) fn free(mut self) {
        self.settled = true;
        lock(self.list).forget(self.item);
    }

    fn settle(mut self, phase: Phase) {
        self.settled = true;
        if let Some(entry) = lock(self.list).entries.get_mut(&self.item) {
            entry.phase = phase;
        }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if !self.settled
            && let Some(entry) = lock(self.list).entries.get_mut(&self.item)
        {
            entry.phase = Phase::Dirty(vec!["work on it was cut short".to_owned()]);
        }
    }
}
