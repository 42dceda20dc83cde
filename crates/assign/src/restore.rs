//! Taking back: whatever state an item is in now, it gets the one that it was found in.

use std::time::{Duration, Instant};

use crate::assigner::Assigner;
use crate::device::{Assignment, Generation, Holder, Item, Origin};
use crate::error::{ReturnError, UndoFault};
use crate::list::InHand;
use crate::record::{Record, Stage, Work};
use crate::vf::Faults;

/// An item that is nobody's again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// The device, or the tap of one.
    pub item: Item,
    /// Whose it was.
    pub holder: Holder,
    /// What had asked for it.
    pub origin: Origin,
    /// The device, or the link, was not there any more, so that there was nothing to restore.
    pub vanished: bool,
}

/// How a restoration went.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// What is not as it was found, and why. Empty: all is, and the record is gone.
    pub(crate) faults: Vec<UndoFault>,
    /// The device is not there.
    pub(crate) vanished: bool,
}

impl Restored {
    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        self.faults.iter().map(UndoFault::to_string).collect()
    }
}

impl Assigner {
    /// Takes back what has that generation: a claim, a lent item, or a dirty one (once more).
    ///
    /// The reverse of preparing, whatever of it was done. A function for vfio: settings as they
    /// were found, then the driver that it had, then its own network device's MAC. A link: its end
    /// at the switch, then the link itself, then the device below, if that was lent whole. Each
    /// further step is taken though one failed. Then all of it is read, and only if it is as it
    /// was found the record goes and the item is off the list. An older generation than the
    /// device's present one is refused.
    ///
    /// The guest's process has to be gone, or to have let go: as long as one has the vfio group
    /// open nothing is changed ([`ReturnError::StillHeld`]; ask again), other than that it can't be opened
    /// once more when it was closed for a moment.
    ///
    /// # Errors
    /// Nothing is lent under it, or it could not all be restored: then it is dirty.
    pub fn give_back(&self, generation: Generation) -> Result<Returned, ReturnError> {
        let (in_hand, mut record) = match self.take_back(generation)? {
            Ok(lent) => lent,
            Err(Assignment {
                item,
                holder,
                origin,
                ..
            }) => {
                return Ok(Returned {
                    item,
                    holder,
                    origin,
                    vanished: false,
                });
            }
        };
        let (item, holder, origin) = (in_hand.item, in_hand.holder.clone(), in_hand.origin);
        let refused = |fault| match fault {
            UndoFault::StillHeld(process) => ReturnError::StillHeld {
                item,
                guest: holder.name.clone(),
                process,
            },
            fault => ReturnError::Untouched {
                item,
                guest: holder.name.clone(),
                fault,
            },
        };
        if let Err(fault) = self.nobody_holds(&record) {
            in_hand.untouched();
            return Err(refused(fault));
        }
        // So that a restart does not take it for lent. On a full disk it may: still better than a
        // device that can't be given back.
        let note = |record: &Record| {
            if let Err(error) = self.journal.write(record) {
                tracing::warn!(%item, %error, reason = %error.source, "the return is not recorded");
            }
            in_hand.note(record);
        };
        let stage = std::mem::replace(&mut record.stage, Stage::Returning);
        note(&record);
        if let Err(fault) = self.nobody_comes_back(&record) {
            record.stage = stage;
            note(&record);
            in_hand.untouched();
            return Err(refused(fault));
        }
        let restored = self.restore_in_hand(in_hand, &record);
        if restored.is_clean() {
            return Ok(Returned {
                item,
                holder,
                origin,
                vanished: restored.vanished,
            });
        }
        Err(ReturnError::Dirty {
            item,
            guest: holder.name,
            faults: restored.faults,
        })
    }

    /// [`Assigner::give_back`], where the guest is known to be gone, or to be parting with the
    /// device: waits that long for its process to let go. No event tells when it did.
    ///
    /// # Errors
    /// As those of [`Assigner::give_back`].
    pub fn give_back_within(
        &self,
        generation: Generation,
        patience: Duration,
    ) -> Result<Returned, ReturnError> {
        let end = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            match self.give_back(generation) {
                Err(ReturnError::StillHeld { .. }) if Instant::now() < end => {
                    std::thread::park_timeout(pause);
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                settled => return settled,
            }
        }
    }

    /// Brings an item from any state between "as found" and "lent" back to "as found", verifies
    /// that, and removes the record. What is as it was found already is not touched, so that this
    /// can be done again after it was cut short.
    pub(crate) fn restore(&self, record: &Record) -> Restored {
        let mut restored = match &record.work {
            Work::Vfio(vfio) => self.restore_vfio(record, vfio),
            Work::Link(link) => self.restore_link(record, link),
            Work::Usb(usb) => self.restore_usb(record, usb),
        };
        if restored.is_clean()
            && let Err(error) = self.journal.remove(record.item)
        {
            restored.faults.push(error.into());
        }
        restored
    }

    /// [`Assigner::restore`], and the list says what came of it: the item is nobody's again, or dirty.
    pub(crate) fn restore_in_hand(&self, in_hand: InHand<'_>, record: &Record) -> Restored {
        let restored = self.restore(record);
        match restored.is_clean() {
            true => in_hand.free(),
            false => in_hand.dirty(restored.reasons()),
        }
        restored
    }

    fn nobody_holds(&self, record: &Record) -> Result<(), UndoFault> {
        match &record.work {
            Work::Vfio(vfio) => self.group_is_closed(record.item, vfio),
            // A link can be removed while it is open: what reads it sees its end.
            Work::Link(_) => Ok(()),
            // Nothing of the device itself is changed.
            Work::Usb(_) => Ok(()),
        }
    }

    /// Nobody can open it once more, either.
    fn nobody_comes_back(&self, record: &Record) -> Result<(), UndoFault> {
        match &record.work {
            // What can't be withdrawn now is tried again with the rest.
            Work::Vfio(vfio) => self.close_group(record.item, vfio, &mut Faults::default()),
            Work::Link(_) | Work::Usb(_) => Ok(()),
        }
    }
}
