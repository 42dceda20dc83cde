//! The list of assigned devices.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use conf::{DeviceId, PciAddress, Uuid};
use host::SharedHost;

use crate::device::{Assignment, Generation, Holder, Item, Origin, Phase};
use crate::error::{ClaimError, Obstacle, OpenError, ReturnError};
use crate::journal::Journal;
use crate::list::{self, InHand, List, UnreadableRecord};
use crate::make_vfs::Probing;
use crate::record::Record;
use crate::recover::{Finding, Recovery};
use crate::step::VfioUser;

/// Lends devices and takes them back; see the crate's own words.
#[derive(Debug)]
pub struct Assigner {
    pub(crate) host: Shared,
    pub(crate) journal: Journal,
    pub(crate) probing: Probing,
    pub(crate) vfio_user: Option<VfioUser>,
    list: Mutex<List>,
    /// Held while a device that links share is brought up or down, so that two of them agree who
    /// is the last.
    pub(crate) parents: Mutex<()>,
}

/// A device, or a link to be made, that is spoken for. Given to [`Assigner::prepare`], or its generation to
/// [`Assigner::give_back`]; forgotten, it stays claimed.
#[derive(Debug)]
#[must_use = "a claim that is dropped stays on the list"]
pub struct Claim {
    pub(crate) item: Item,
    pub(crate) parent: Option<DeviceId>,
    pub(crate) generation: Generation,
}

/// [`SharedHost`] with nothing to say about itself.
pub(crate) struct Shared(pub(crate) SharedHost);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

impl Claim {
    /// What is claimed.
    #[must_use]
    pub fn item(&self) -> Item {
        self.item
    }

    /// The device that a link is to share.
    #[must_use]
    pub fn parent(&self) -> Option<DeviceId> {
        self.parent
    }

    /// Which claim of it this is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

impl Assigner {
    /// Opens the journal in that directory (made if missing) and puts what it tells on the list.
    /// Nothing is done to anything before [`Assigner::recover`].
    ///
    /// Records of an earlier boot are removed, and told: that boot's settings went with it. A
    /// record that can't be read is told, stays, and keeps its item back.
    pub fn open(
        host: SharedHost,
        directory: PathBuf,
        vfio_user: Option<VfioUser>,
    ) -> Result<(Self, Recovery), OpenError> {
        let boot = host.boot_id().map_err(OpenError::Boot)?;
        let probing = Probing::open(&directory, &boot)?;
        let journal = Journal::open(directory, boot)?;
        let told = journal.read_all()?;
        let mut findings = Vec::new();
        let mut list = List::default();
        for file in told.unreadable {
            if let Some(item) = file.item {
                let reason = format!("its record '{}' can't be read", file.path.display());
                let path = file.path.clone();
                (list.unreadable).insert(item, UnreadableRecord { path, reason });
            }
            findings.push(Finding::Unreadable {
                path: file.path,
                reason: file.reason,
            });
        }
        for (item, guest) in told.of_other_boots {
            findings.push(Finding::OtherBoot { item, guest });
        }
        list.start = journal.count_start(&told.records);
        for record in told.records {
            list.insert_record(record);
        }
        let assigner = Self {
            host: Shared(host),
            journal,
            probing,
            vfio_user,
            list: Mutex::new(list),
            parents: Mutex::default(),
        };
        let assignments = assigner.list();
        Ok((
            assigner,
            Recovery {
                assignments,
                findings,
            },
        ))
    }

    /// Speaks for a whole device: for vfio, or for a macvtap in passthrough mode. Nothing is asked
    /// of the kernel and nothing is written.
    ///
    /// # Errors
    /// Another has it, or links share it, or it is kept back.
    pub fn claim(
        &self,
        device: DeviceId,
        holder: Holder,
        origin: Origin,
    ) -> Result<Claim, ClaimError> {
        let (item, generation) = self.lock().claim(Some(device), None, holder, origin)?;
        Ok(Claim {
            item,
            parent: None,
            generation,
        })
    }

    /// Speaks for a link that is yet to be made: a macvtap that shares `parent` with others, or a
    /// tap. Nothing is asked of the kernel and nothing is written.
    ///
    /// # Errors
    /// The parent is lent whole, or kept back.
    pub fn claim_link(
        &self,
        parent: Option<DeviceId>,
        holder: Holder,
        origin: Origin,
    ) -> Result<Claim, ClaimError> {
        let (item, generation) = self.lock().claim(None, parent, holder, origin)?;
        Ok(Claim {
            item,
            parent,
            generation,
        })
    }

    /// Whether a device could be claimed now: whole, or as the parent of one more link. Nothing is
    /// claimed by it.
    ///
    /// # Errors
    /// As [`Assigner::claim`] and [`Assigner::claim_link`].
    pub fn check_claim(&self, device: DeviceId, whole: bool) -> Result<(), ClaimError> {
        self.lock().check_claim(device, whole)
    }

    /// How many use a device: the links that share it, or the one that has it whole.
    #[must_use]
    pub fn connections(&self, parent: DeviceId) -> usize {
        let list = self.lock();
        let whole = list.entries.contains_key(&Item::Device(parent));
        list.shared.get(&parent).map_or(0, |links| links.len()) + usize::from(whole)
    }

    /// All that is assigned: devices first, by device, then links, by age.
    #[must_use]
    pub fn list(&self) -> Vec<Assignment> {
        let list = self.lock();
        let lines = list.entries.iter();
        lines.map(|(item, entry)| entry.line(*item)).collect()
    }

    /// The line of an item, if it is on the list.
    #[must_use]
    pub fn find(&self, item: Item) -> Option<Assignment> {
        (self.lock().entries.get(&item)).map(|entry| entry.line(item))
    }

    /// The function whose network device was called that when it was lent, or taken from the host. Looks at all
    /// that is: for names that no network device has now.
    #[must_use]
    pub fn named_before(&self, netdev: &str) -> Option<PciAddress> {
        let list = self.lock();
        let mut records = list
            .entries
            .values()
            .filter_map(|entry| entry.record.as_ref());
        records.find_map(|record| {
            let vfio = record.vfio()?;
            let (name, _) = vfio.vf.as_ref()?.original.netdev.as_ref()?;
            (name == netdev).then_some(vfio.address)
        })
    }

    /// Whether that claim's item is with its guest, or on its way there or back. Nothing is copied:
    /// this is asked at each call on a port.
    #[must_use]
    pub fn is_in_use(&self, generation: Generation) -> bool {
        let list = self.lock();
        let entry = list.by_generation(generation);
        entry.is_some_and(|(_, entry)| entry.phase != Phase::Claimed)
    }

    /// The line of a generation, if its item is still on the list under it.
    #[must_use]
    pub fn find_generation(&self, generation: Generation) -> Option<Assignment> {
        let list = self.lock();
        list.by_generation(generation)
            .map(|(item, entry)| entry.line(item))
    }

    /// The line of a guest's attachment, if it is on the list. Records of releases that had none are
    /// found by their generation only.
    #[must_use]
    pub fn find_attachment(&self, attachment: Uuid) -> Option<Assignment> {
        let list = self.lock();
        let item = *list.by_attachment.get(&attachment)?;
        (list.entries.get(&item)).map(|entry| entry.line(item))
    }

    /// What a guest has, in the order of [`Assigner::list`].
    #[must_use]
    pub fn of_guest(&self, guest: Uuid) -> Vec<Assignment> {
        self.lock().of_guest(guest)
    }

    /// What no pool may lend, and why: dirty items, and those with a record that can't be read.
    #[must_use]
    pub fn barred(&self) -> Vec<(Item, String)> {
        let list = self.lock();
        let dirty = (list.entries.iter()).filter_map(|(item, entry)| match &entry.phase {
            Phase::Dirty(reasons) => Some((*item, reasons.join("; "))),
            _ => None,
        });
        let unreadable =
            (list.unreadable.iter()).map(|(item, record)| (*item, record.reason.clone()));
        dirty.chain(unreadable).collect()
    }

    /// Goes on with a claimed item: it is in the caller's hands until it is settled.
    pub(crate) fn take_claimed(&self, claim: &Claim) -> Result<InHand<'_>, Obstacle> {
        let mut list = self.lock();
        match list.entries.get_mut(&claim.item) {
            Some(entry)
                if entry.generation == claim.generation && entry.phase == Phase::Claimed =>
            {
                entry.phase = Phase::Preparing;
                Ok(InHand::new(&self.list, claim.item, entry))
            }
            _ => Err(Obstacle::Superseded(claim.generation)),
        }
    }

    /// Takes what has that generation into the caller's hands, to give it back; `None`: it was
    /// only claimed, and is off the list now.
    pub(crate) fn take_back(
        &self,
        generation: Generation,
    ) -> Result<Result<(InHand<'_>, Record), Assignment>, ReturnError> {
        let mut list = self.lock();
        let superseded = ReturnError::Superseded(generation);
        let Some(&item) = list.by_generation.get(&generation) else {
            return Err(superseded);
        };
        let Some(entry) = list.entries.get_mut(&item) else {
            return Err(superseded);
        };
        let in_hand = |doing| Err(ReturnError::InHand { item, doing });
        match (&entry.phase, entry.record.clone()) {
            (Phase::Preparing, _) => in_hand("prepared"),
            (Phase::Returning, _) => in_hand("taken back"),
            _ if entry.busy => in_hand("switched on or off"),
            (Phase::Lent | Phase::Dirty(_), Some(record)) => {
                let in_hand = InHand::new(&self.list, item, entry);
                entry.phase = Phase::Returning;
                Ok(Ok((in_hand, record)))
            }
            (Phase::Claimed | Phase::Lent | Phase::Dirty(_), _) => {
                let line = entry.line(item);
                list.forget(item);
                Ok(Err(line))
            }
        }
    }

    /// What the last run of the daemon left in the middle, or lent: each is put into the caller's
    /// hands, one at a time, by [`Assigner::take_left`].
    pub(crate) fn left_over(&self) -> Vec<Record> {
        let list = self.lock();
        let records = list
            .entries
            .values()
            .filter_map(|entry| entry.record.clone());
        records.collect()
    }

    /// Takes an item of [`Assigner::left_over`], whatever its phase.
    pub(crate) fn take_left(&self, record: &Record) -> Option<InHand<'_>> {
        let mut list = self.lock();
        let entry = list.entries.get_mut(&record.item)?;
        if entry.generation != record.generation {
            return None;
        }
        let in_hand = InHand::new(&self.list, record.item, entry);
        entry.phase = Phase::Returning;
        Some(in_hand)
    }

    /// For an item that is put into somebody's hands while the list is locked.
    pub(crate) fn whole_list(&self) -> &Mutex<List> {
        &self.list
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, List> {
        list::lock(&self.list)
    }
}
