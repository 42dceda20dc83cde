//! Taking a PCI function back from vfio.

use host::HostError;

use crate::assigner::Assigner;
use crate::device::Item;
use crate::error::UndoFault;
use crate::profile::leave;
use crate::record::{Record, VfioWork};
use crate::restore::Restored;
use crate::vf::{Faults, FunctionRestorer};

impl Assigner {
    pub(crate) fn restore_vfio(&self, record: &Record, vfio: &VfioWork) -> Restored {
        let mut restored = Restored::default();
        let host = &*self.host.0;
        if let Err(HostError::NoPciDevice(_)) = host.pci_device(vfio.address) {
            restored.vanished = true;
            let withdrawn = self.withdraw_what_is_left(record.item, vfio);
            restored.faults.extend(withdrawn.err().map(UndoFault::Host));
            return restored;
        }
        let driver = vfio.host_driver.as_deref();
        let mut work = FunctionRestorer::new(host, vfio.address, driver, vfio.vf.as_ref());
        work.leaves_driver = !vfio.bind;
        if let Err(fault) = self.close_group(record.item, vfio, &mut work.faults) {
            restored.faults.push(fault);
            return restored;
        }
        leave(host, vfio.profile.as_ref(), &mut work.faults);
        work.settings();
        if vfio.bind {
            work.driver();
        }
        work.netdev_mac();
        work.admin_mac();
        work.verify();
        self.verify_node(record.item, vfio, &mut work.faults);
        restored.faults = work.faults.settle(record.item);
        restored
    }

    /// Nobody has the group open, and the guest's QEMU can't open it once more: one that was asked for the
    /// device, and goes on, may want to.
    pub(crate) fn close_group(
        &self,
        item: Item,
        vfio: &VfioWork,
        faults: &mut Faults,
    ) -> Result<(), UndoFault> {
        self.group_is_closed(item, vfio)?;
        if self.withdraw(item, vfio, faults) {
            // It may have, just before.
            self.group_is_closed(item, vfio)?;
        }
        Ok(())
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
}
