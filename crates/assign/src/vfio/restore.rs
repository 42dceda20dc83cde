//! Taking a PCI function back from vfio.

use host::HostError;

use super::is_vfio;
use crate::assigner::Assigner;
use crate::device::{Item, Phase};
use crate::error::UndoFault;
use crate::profile::leave;
use crate::record::{Record, VfioWork};
use crate::restore::Restored;
use crate::vf::FunctionRestorer;

impl Assigner {
    pub(crate) fn restore_vfio(&self, record: &Record, vfio: &VfioWork) -> Restored {
        let mut restored = Restored::default();
        let host = &*self.host.0;
        if let Err(HostError::NoPciDevice(_)) = host.pci_device(vfio.address) {
            restored.vanished = true;
            return restored;
        }
        if let Err(fault) = self.group_is_closed(record.item, vfio) {
            restored.faults.push(fault);
            return restored;
        }
        let driver = vfio.host_driver.as_deref();
        let mut work = FunctionRestorer::new(host, vfio.address, driver, vfio.vf.as_ref());
        leave(host, vfio.profile.as_ref(), &mut work.faults);
        work.settings();
        if vfio.bind {
            work.driver();
        }
        if let Some(fault) = self.revoke(record.item, vfio) {
            work.faults.certain.push(fault);
        }
        work.netdev_mac();
        work.admin_mac();
        work.verify();
        restored.faults = work.faults.settle(record.item);
        restored
    }

    /// Unbinding a device that a process has open would block until it lets go, and changing its
    /// settings would hit a guest that runs.
    pub(crate) fn group_is_closed(&self, item: Item, vfio: &VfioWork) -> Result<(), UndoFault> {
        if self.shares_group(item, vfio.group) {
            // The open group may be for the other device.
            return Ok(());
        }
        match self.host.0.vfio_holder(vfio.address) {
            Ok(Some(holder)) => Err(UndoFault::StillHeld(holder)),
            Ok(None) | Err(HostError::NoPciDevice(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A vfio group that was there before is root's again.
    fn revoke(&self, item: Item, vfio: &VfioWork) -> Option<UndoFault> {
        let stays = vfio.host_driver.as_deref().is_some_and(is_vfio);
        if self.vfio_user.is_none() || !stays || self.shares_group(item, vfio.group) {
            return None;
        }
        let revoked = self.host.0.grant_vfio(vfio.group, 0, 0);
        revoked.err().map(UndoFault::Host)
    }

    /// Whether another device of that group is a guest's.
    fn shares_group(&self, item: Item, group: u32) -> bool {
        let list = self.lock();
        list.entries.iter().any(|(other, entry)| {
            let vfio = entry.record.as_ref().and_then(Record::vfio);
            // What was only taken from the host nobody has open.
            *other != item
                && other.detached().is_none()
                && entry.phase == Phase::Lent
                && vfio.is_some_and(|vfio| vfio.group == group)
        })
    }
}
