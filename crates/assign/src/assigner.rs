//! The list of assigned devices.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conf::{PciAddress, Uuid};
use host::SharedHost;

use crate::device::{Assignment, DeviceId, Generation, Origin, Owner, Phase};
use crate::error::{ClaimError, Obstacle, OpenError, ReturnError};
use crate::journal::{Journal, Record, Stage};
use crate::recover::{Finding, Recovery};

/// Lends devices and takes them back; see the crate's own words.
#[derive(Debug)]
pub struct Assigner {
    pub(crate) host: Shared,
    pub(crate) journal: Journal,
    pub(crate) boot: String,
    pub(crate) vfio_user: Option<VfioUser>,
    list: Mutex<List>,
}

/// Who opens `/dev/vfio/N`, where that is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfioUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A device that is spoken for. Given to [`Assigner::prepare`], or its generation to
/// [`Assigner::give_back`]; forgotten, the device stays claimed.
#[derive(Debug)]
#[must_use = "a claim that is dropped stays on the list"]
pub struct Claim {
    pub(crate) device: DeviceId,
    pub(crate) generation: Generation,
}

/// [`SharedHost`] with nothing to say about itself.
pub(crate) struct Shared(pub(crate) SharedHost);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

#[derive(Debug, Default)]
struct List {
    start: u32,
    count: u32,
    entries: BTreeMap<DeviceId, Entry>,
    by_generation: BTreeMap<Generation, DeviceId>,
    /// Devices whose records can't be read: of nobody known.
    unreadable: BTreeMap<DeviceId, String>,
}

#[derive(Debug)]
struct Entry {
    generation: Generation,
    owner: Owner,
    origin: Origin,
    phase: Phase,
    record: Option<Record>,
}

impl Claim {
    /// The device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Which claim of it this is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

impl Assigner {
    /// Opens the journal in that directory (made if missing) and puts what it tells on the list.
    /// Nothing is done to any device before [`Assigner::recover`].
    ///
    /// Records of an earlier boot are removed, and told: that boot's settings went with it. A
    /// record that can't be read is told, stays, and keeps its device back.
    pub fn open(
        host: SharedHost,
        directory: PathBuf,
        vfio_user: Option<VfioUser>,
    ) -> Result<(Self, Recovery), OpenError> {
        let boot = host.boot_id().map_err(OpenError::Boot)?;
        let journal = Journal::open(directory)?;
        let (records, unreadable) = journal.read_all()?;
        let mut findings = Vec::new();
        let mut list = List::default();
        for file in unreadable {
            if let Some(device) = file.device {
                let reason = format!("its record '{}' can't be read", file.path.display());
                list.unreadable.insert(device, reason);
            }
            findings.push(Finding::Unreadable {
                path: file.path,
                reason: file.reason,
            });
        }
        let (records, old): (Vec<_>, Vec<_>) =
            (records.into_iter()).partition(|record| record.boot == boot);
        for record in old {
            journal.remove(record.device)?;
            findings.push(Finding::OtherBoot {
                device: record.device,
                guest: record.owner.name,
            });
        }
        list.start = journal.count_start(&boot, &records);
        for record in records {
            (list.by_generation).insert(record.generation, record.device);
            list.entries.insert(
                record.device,
                Entry {
                    generation: record.generation,
                    owner: record.owner.clone(),
                    origin: record.origin,
                    phase: match record.stage {
                        Stage::Preparing => Phase::Preparing,
                        Stage::Lent => Phase::Lent,
                        Stage::Returning => Phase::Returning,
                    },
                    record: Some(record),
                },
            );
        }
        let assigner = Self {
            host: Shared(host),
            journal,
            boot,
            vfio_user,
            list: Mutex::new(list),
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

    /// Speaks for a device. Nothing is asked of the kernel and nothing is written.
    pub fn claim(
        &self,
        device: DeviceId,
        owner: Owner,
        origin: Origin,
    ) -> Result<Claim, ClaimError> {
        let mut list = self.lock();
        if let Some(entry) = list.entries.get(&device) {
            return Err(match &entry.phase {
                Phase::Dirty(reasons) => ClaimError::Barred {
                    device,
                    reason: reasons.join("; "),
                },
                _ => ClaimError::Taken {
                    device,
                    guest: entry.owner.name.clone(),
                    network: entry.owner.network.clone(),
                },
            });
        }
        if let Some(reason) = list.unreadable.get(&device) {
            return Err(ClaimError::Barred {
                device,
                reason: reason.clone(),
            });
        }
        list.count += 1;
        let generation = Generation {
            start: list.start,
            count: list.count,
        };
        list.by_generation.insert(generation, device);
        list.entries.insert(
            device,
            Entry {
                generation,
                owner,
                origin,
                phase: Phase::Claimed,
                record: None,
            },
        );
        Ok(Claim { device, generation })
    }

    /// All assigned devices, by device.
    #[must_use]
    pub fn list(&self) -> Vec<Assignment> {
        let list = self.lock();
        let lines = list.entries.iter();
        lines.map(|(device, entry)| entry.line(*device)).collect()
    }

    /// The line of a device, if it is on the list.
    #[must_use]
    pub fn find(&self, device: DeviceId) -> Option<Assignment> {
        (self.lock().entries.get(&device)).map(|entry| entry.line(device))
    }

    /// The line of a generation, if its device is still on the list under it.
    #[must_use]
    pub fn find_generation(&self, generation: Generation) -> Option<Assignment> {
        let list = self.lock();
        let device = *list.by_generation.get(&generation)?;
        (list.entries.get(&device)).map(|entry| entry.line(device))
    }

    /// The devices of a guest, by device.
    #[must_use]
    pub fn of_guest(&self, guest: Uuid) -> Vec<Assignment> {
        let list = self.lock();
        let own = (list.entries.iter()).filter(|(_, entry)| entry.owner.guest == guest);
        own.map(|(device, entry)| entry.line(*device)).collect()
    }

    /// Devices that no pool may lend, and why: dirty ones, and those with a record that can't be
    /// read.
    #[must_use]
    pub fn barred(&self) -> Vec<(DeviceId, String)> {
        let list = self.lock();
        let dirty = (list.entries.iter()).filter_map(|(device, entry)| match &entry.phase {
            Phase::Dirty(reasons) => Some((*device, reasons.join("; "))),
            _ => None,
        });
        let unreadable = list
            .unreadable
            .iter()
            .map(|(d, reason)| (*d, reason.clone()));
        dirty.chain(unreadable).collect()
    }

    /// Goes on with a claimed device: it is in the caller's hands until it is settled.
    pub(crate) fn take_claimed(&self, claim: &Claim) -> Result<InHand<'_>, Obstacle> {
        let mut list = self.lock();
        match list.entries.get_mut(&claim.device) {
            Some(entry)
                if entry.generation == claim.generation && entry.phase == Phase::Claimed =>
            {
                entry.phase = Phase::Preparing;
                Ok(InHand::new(self, claim.device, entry))
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
        let Some(&device) = list.by_generation.get(&generation) else {
            return Err(superseded);
        };
        let Some(entry) = list.entries.get_mut(&device) else {
            return Err(superseded);
        };
        match (&entry.phase, entry.record.clone()) {
            (Phase::Preparing, _) => Err(ReturnError::InHand {
                device,
                doing: "prepared",
            }),
            (Phase::Returning, _) => Err(ReturnError::InHand {
                device,
                doing: "taken back",
            }),
            (Phase::Lent | Phase::Dirty(_), Some(record)) => {
                let in_hand = InHand::new(self, device, entry);
                entry.phase = Phase::Returning;
                Ok(Ok((in_hand, record)))
            }
            (Phase::Claimed | Phase::Lent | Phase::Dirty(_), _) => {
                let line = entry.line(device);
                list.forget(device);
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

    /// Takes a device of [`Assigner::left_over`], whatever its phase.
    pub(crate) fn take_left(&self, record: &Record) -> Option<InHand<'_>> {
        let mut list = self.lock();
        let entry = list.entries.get_mut(&record.device)?;
        if entry.generation != record.generation {
            return None;
        }
        let in_hand = InHand::new(self, record.device, entry);
        entry.phase = Phase::Returning;
        Some(in_hand)
    }

    /// Refuses a device that can't be parted from another guest's.
    pub(crate) fn check_ties(
        &self,
        guest: Uuid,
        ties: impl IntoIterator<Item = (PciAddress, &'static str)>,
    ) -> Result<(), Obstacle> {
        let list = self.lock();
        for (address, tie) in ties {
            let member = DeviceId::Pci(address);
            if let Some(entry) = list.entries.get(&member)
                && entry.phase != Phase::Claimed
                && entry.owner.guest != guest
            {
                return Err(Obstacle::Tied {
                    member,
                    tie,
                    guest: entry.owner.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether another device of that group is a guest's.
    pub(crate) fn shares_group(&self, device: DeviceId, group: u32) -> bool {
        let list = self.lock();
        list.entries.iter().any(|(other, entry)| {
            let record = entry.record.as_ref();
            *other != device
                && entry.phase == Phase::Lent
                && record.is_some_and(|record| record.group == group)
        })
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Each change of the list is made whole or not at all, so a panic elsewhere spoils none.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn forget(&mut self, device: DeviceId) {
        if let Some(entry) = self.entries.remove(&device) {
            self.by_generation.remove(&entry.generation);
        }
    }
}

impl Entry {
    fn line(&self, device: DeviceId) -> Assignment {
        let record = self.record.as_ref();
        Assignment {
            device,
            generation: self.generation,
            owner: self.owner.clone(),
            origin: self.origin,
            phase: self.phase.clone(),
            since: record.map(|record| record.since),
            vf: record.and_then(|record| record.vf.clone()),
            driver: record.map(|record| record.driver.clone()),
            host_driver: record.and_then(|record| record.host_driver.clone()),
            group: record.map(|record| record.group),
        }
    }
}

/// A device that one thread works on. Dropped unsettled (by a panic), it is dirty.
#[derive(Debug)]
pub(crate) struct InHand<'a> {
    assigner: &'a Assigner,
    pub(crate) device: DeviceId,
    pub(crate) generation: Generation,
    pub(crate) owner: Owner,
    pub(crate) origin: Origin,
    before: Phase,
    settled: bool,
}

impl<'a> InHand<'a> {
    fn new(assigner: &'a Assigner, device: DeviceId, entry: &Entry) -> Self {
        Self {
            assigner,
            device,
            generation: entry.generation,
            owner: entry.owner.clone(),
            origin: entry.origin,
            before: entry.phase.clone(),
            settled: false,
        }
    }

    /// What is known of the device from now on.
    pub(crate) fn note(&self, record: &Record) {
        if let Some(entry) = self.assigner.lock().entries.get_mut(&self.device) {
            entry.record = Some(record.clone());
        }
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
        self.assigner.lock().forget(self.device);
    }

    fn settle(mut self, phase: Phase) {
        self.settled = true;
        if let Some(entry) = self.assigner.lock().entries.get_mut(&self.device) {
            entry.phase = phase;
        }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if !self.settled
            && let Some(entry) = self.assigner.lock().entries.get_mut(&self.device)
        {
            entry.phase = Phase::Dirty(vec!["work on it was cut short".to_owned()]);
        }
    }
}
