//! Lending, whatever it is.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use conf::{PciAddress, UsbAddress};
use host::{GuestGroup, Netdev, VirtualFunction};

use crate::assigner::{Assigner, Claim};
use crate::device::{Generation, Item};
use crate::error::{Obstacle, PrepareError};
use crate::list::InHand;
use crate::patience::now;
use crate::plan::ItemPlan;
use crate::preparation::Preparation;
use crate::record::{Record, Stage, Work};

/// What is the guest's.
#[derive(Debug)]
#[must_use = "what is lent has to be given back"]
pub struct Lent {
    /// The device, or the tap of one.
    pub item: Item,
    /// What gives it back.
    pub generation: Generation,
    /// By its kind.
    pub kind: LentKind,
}

/// What QEMU needs of it.
#[derive(Debug)]
pub enum LentKind {
    /// A PCI function.
    Vfio {
        /// Where it sits.
        address: PciAddress,
        /// PF and number, if it is a VF.
        vf: Option<VirtualFunction>,
        /// Its IOMMU group: `/dev/vfio/GROUP`.
        group: u32,
        /// The driver that it has.
        driver: String,
    },
    /// A USB device.
    Usb {
        /// Where it is plugged in.
        address: UsbAddress,
    },
    /// A macvtap or tap.
    Link {
        /// As it was when all was done; a macvtap is down until [`Assigner::set_link_state`].
        netdev: Netdev,
        /// Its queues.
        taps: Vec<OwnedFd>,
        /// vhost-net, once for each queue; empty: frames go through QEMU.
        vhosts: Vec<OwnedFd>,
    },
}

impl Assigner {
    /// Prepares a claimed item for its guest: checks ([`Assigner::plan`]), records what it is
    /// about to do and what it found, makes each change, and reads all of it back.
    ///
    /// Any failure undoes what was done, through further failures, and takes the item off the
    /// list; if not all could be undone it stays there, dirty. The claim is used up either way.
    ///
    /// # Errors
    /// What stood in the way, and what could not be undone.
    pub fn prepare(&self, claim: Claim, preparation: &Preparation) -> Result<Lent, PrepareError> {
        self.prepare_for(claim, preparation, None)
    }

    /// [`Assigner::prepare`] for a guest whose QEMU has that group of its own: by it that one alone
    /// may open the device. `None`: every QEMU of that user may, as all did in earlier releases.
    ///
    /// # Errors
    /// As those of [`Assigner::prepare`].
    pub fn prepare_for(
        &self,
        claim: Claim,
        preparation: &Preparation,
        group: Option<GuestGroup>,
    ) -> Result<Lent, PrepareError> {
        let item = claim.item;
        let in_hand = self.take_claimed(&claim).map_err(|obstacle| PrepareError {
            item,
            guest: self.find(item).map_or_else(String::new, |a| a.holder.name),
            obstacle: Box::new(obstacle),
            undo: Vec::new(),
        })?;
        let guest = in_hand.holder.name.clone();
        let refused = |obstacle, undo| PrepareError {
            item,
            guest,
            obstacle: Box::new(obstacle),
            undo,
        };
        let (plan, mut record) = match self.begin(&in_hand, preparation, group) {
            Ok(begun) => begun,
            Err(obstacle) => {
                in_hand.free();
                return Err(refused(obstacle, Vec::new()));
            }
        };
        match self.carry_out(&in_hand, &plan, preparation, &mut record) {
            Ok(kind) => {
                let generation = record.generation;
                in_hand.note(&record);
                in_hand.lent();
                Ok(Lent {
                    item,
                    generation,
                    kind,
                })
            }
            Err(obstacle) => {
                let undo = self.restore_in_hand(in_hand, &record).faults;
                Err(refused(obstacle, undo))
            }
        }
    }

    /// Everything up to the first change: checks, and the record of what is about to be done.
    fn begin(
        &self,
        in_hand: &InHand<'_>,
        preparation: &Preparation,
        group: Option<GuestGroup>,
    ) -> Result<(ItemPlan, Record), Obstacle> {
        let (item, holder) = (in_hand.item, &in_hand.holder);
        let plan = self.plan_for(item, holder, preparation, &BTreeSet::new(), group)?;
        let record = Record {
            item: in_hand.item,
            generation: in_hand.generation,
            stage: Stage::Preparing,
            since: now(),
            holder: in_hand.holder.clone(),
            origin: in_hand.origin,
            work: plan.work.clone(),
        };
        if record.parent() != in_hand.parent {
            return Err(Obstacle::WrongClaim { item: in_hand.item });
        }
        self.keep(in_hand, &record)?;
        Ok((plan, record))
    }

    fn carry_out(
        &self,
        in_hand: &InHand<'_>,
        plan: &ItemPlan,
        preparation: &Preparation,
        record: &mut Record,
    ) -> Result<LentKind, Obstacle> {
        let kind = match &plan.work {
            Work::Vfio(vfio) => self.lend_vfio(in_hand, plan, vfio, record)?,
            Work::Usb(usb) => self.lend_usb(usb)?,
            Work::Link(_) => self.lend_link(in_hand, plan, preparation, record)?,
        };
        record.stage = Stage::Lent;
        self.journal.write(record)?;
        Ok(kind)
    }

    /// Writes the record. Known before it is written: whatever happens from here on, there is
    /// something to undo.
    pub(crate) fn keep(&self, in_hand: &InHand<'_>, record: &Record) -> Result<(), Obstacle> {
        in_hand.note(record);
        Ok(self.journal.write(record)?)
    }
}
