//! What is so of a detached function later: after a restart, when everything is compared, and when it is
//! gone.

use conf::PciAddress;
use host::HostError;
use records::RecordError;

use crate::assigner::Assigner;
use crate::compare::Deviation;
use crate::device::{Generation, Item};
use crate::list::InHand;
use crate::reconcile::Difference;
use crate::record::Record;
use crate::recover::Finding;
use crate::vf::driver_name;

impl Assigner {
    /// A function is gone, and with it what was done to it. Fine if it was not detached, or is there.
    pub fn detached_is_gone(&self, address: PciAddress) {
        if !matches!(
            self.host.0.pci_device(address),
            Err(HostError::NoPciDevice(_))
        ) {
            return;
        }
        if let Ok(Some((in_hand, record))) = self.take_detached(address) {
            self.restore_in_hand(in_hand, &record);
        }
    }

    /// What is so of a detached function after a restart.
    pub(crate) fn recover_detached(
        &self,
        in_hand: InHand<'_>,
        record: &Record,
        address: PciAddress,
    ) -> Option<Finding> {
        let driver = match self.still_detached(record, address) {
            Ok(()) => {
                in_hand.lent();
                return None;
            }
            Err(driver) => driver,
        };
        if let Err(error) = self.journal.remove(record.item) {
            in_hand.dirty(vec![error.to_string()]);
            return Some(Finding::NotRestored {
                item: record.item,
                guest: String::new(),
                fault: error.into(),
            });
        }
        in_hand.free();
        Some(Finding::NotDetached { address, driver })
    }

    /// What is to be said of a function that is detached.
    pub(crate) fn reconcile_detached(
        &self,
        item: Item,
        generation: Generation,
    ) -> Option<Difference> {
        let address = item.detached()?;
        let record = self.lock().entries.get(&item)?.record.clone()?;
        if let Err(driver) = self.still_detached(&record, address) {
            let now = match driver {
                None => "is not there any more".to_owned(),
                Some(driver) => format!("has {}", driver_name(driver.as_deref())),
            };
            return Some(Difference::NotDetached {
                address,
                generation,
                now,
            });
        }
        if !self.journal.has(item) {
            return Some(Difference::NoRecord {
                item,
                generation,
                guest: String::new(),
            });
        }
        let driver = record.vfio()?.driver.clone();
        // What a guest has is nobody's concern.
        (!self.has_device(address)).then_some(Difference::Detached { address, driver })
    }

    /// Removes the record of a function that is not detached any more.
    pub(crate) fn forget_detached(&self, generation: Generation) -> Result<(), RecordError> {
        let found = self.find_generation(generation);
        let Some(address) = found.and_then(|line| line.item.detached()) else {
            return Ok(());
        };
        if let Ok(Some((in_hand, record))) = self.take_detached(address) {
            if self.still_detached(&record, address).is_ok() {
                in_hand.lent();
                return Ok(());
            }
            match self.journal.remove(record.item) {
                Ok(()) => in_hand.free(),
                Err(error) => {
                    in_hand.lent();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether it is on the driver that it was given. Else which it has; none: it is not there. A
    /// guest may have it bound to another, and brings it back.
    fn still_detached(
        &self,
        record: &Record,
        address: PciAddress,
    ) -> Result<(), Option<Option<String>>> {
        if self.has_device(address) {
            return Ok(());
        }
        let host = &*self.host.0;
        for deviation in self.compare(record) {
            match deviation {
                Deviation::DeviceGone => return Err(None),
                Deviation::Differs { .. } => {
                    return Err(host.pci_device(address).ok().map(|pci| pci.driver));
                }
                Deviation::LinkGone(_) | Deviation::Unknown(_) => {}
            }
        }
        Ok(())
    }
}
