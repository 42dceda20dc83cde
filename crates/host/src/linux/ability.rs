//! What a NIC can do for guests, and its VFs made on demand.

use conf::PciAddress;

use super::sysfs::Reading;
use super::{LinuxHost, is_vfio};
use crate::{HostError, Netdev, NicAbility, Operation, PhysicalFunction};

/// The feature by which a card sorts frames for macvlans itself.
const MACVLAN_OFFLOAD: &str = "l2-fwd-offload";
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

impl LinuxHost {
    pub(super) fn ability_of(&self, netdev: &Netdev) -> Result<NicAbility, HostError> {
        if let Some(address) = netdev.pci {
            match self.sysfs.physical_function(netdev.name.as_str()) {
                Ok(pf) if pf.max_vfs > 0 => {
                    return Ok(NicAbility::SrIov {
                        max_vfs: pf.max_vfs,
                        vfs: pf.vf_count,
                    });
                }
                // A representor, or a function whose driver is just going: no PF to guests.
                Ok(_) | Err(HostError::NotPhysicalFunction(_) | HostError::NoPfNetdev(_)) => {}
                Err(error) => return Err(error),
            }
            if self.sysfs.is_virtual(address)? {
                return Ok(NicAbility::VirtualFunction);
            }
        }
        let feature = self.generic.feature(netdev.index, MACVLAN_OFFLOAD);
        let feature = feature.map_err(|source| HostError::Kernel {
            operation: Operation::ReadNetdev,
            target: format!("'{}'", netdev.name),
            source,
        })?;
        Ok(match feature {
            Some(feature) if feature.on || feature.changeable => {
                NicAbility::MacvlanOffload { on: feature.on }
            }
            _ => NicAbility::Ethernet,
        })
    }

    pub(super) fn autoprobe_of(&self, pf: &PhysicalFunction) -> Result<bool, HostError> {
        let target = pf_target(pf);
        let reading = Reading {
            operation: Operation::ReadInventory,
            target: &target,
        };
        let file = self.sysfs.existing(pf.address)?.join(AUTOPROBE);
        match reading.number::<u8>(&file)? {
            Some(number) => Ok(number != 0),
            None => Err(without_autoprobe(target)),
        }
    }

    pub(super) fn change_autoprobe(
        &self,
        pf: &PhysicalFunction,
        on: bool,
    ) -> Result<(), HostError> {
        let target = pf_target(pf);
        let writing = Reading {
            operation: Operation::SetAutoprobe,
            target: &target,
        };
        let file = self.sysfs.existing(pf.address)?.join(AUTOPROBE);
        if !file.exists() {
            return Err(without_autoprobe(target));
        }
        writing.write(&file, if on { "1" } else { "0" })
    }

    /// Makes VFs, or takes them away; a refusal tells what the PF has and can have.
    pub(super) fn change_vf_count(
        &self,
        pf: &PhysicalFunction,
        count: u16,
    ) -> Result<(), HostError> {
        let has = self.sysfs.vf_count(pf.address)?;
        if has == count {
            return Ok(());
        }
        let refused = |holder, source| HostError::VfCount {
            pf: pf_target(pf),
            asked: count,
            has,
            max: pf.max_vfs,
            holder,
            source,
        };
        // The kernel would wait, for as long as it takes, for whoever holds one by vfio.
        if let Some(holder) = self.held_vf(pf)? {
            let busy = std::io::Error::from_raw_os_error(EBUSY);
            return Err(refused(Some(holder), busy));
        }
        let target = pf_target(pf);
        let writing = Reading {
            operation: Operation::SetVfCount,
            target: &target,
        };
        let file = self.sysfs.device_dir(pf.address).join("sriov_numvfs");
        match writing.write(&file, &count.to_string()) {
            Err(HostError::Kernel { source, .. }) => Err(refused(None, source)),
            written => written,
        }
    }

    /// The first VF that a process holds by vfio.
    fn held_vf(&self, pf: &PhysicalFunction) -> Result<Option<PciAddress>, HostError> {
        for (_, vf) in self.sysfs.vf_addresses(pf.address)? {
            let driver = self.sysfs.driver(vf)?;
            if driver.as_deref().is_some_and(is_vfio) && self.holder_of_group(vf)?.is_some() {
                return Ok(Some(vf));
            }
        }
        Ok(None)
    }
}

const AUTOPROBE: &str = "sriov_drivers_autoprobe";

fn pf_target(pf: &PhysicalFunction) -> String {
    format!("'{}' ({})", pf.netdev, pf.address)
}

fn without_autoprobe(target: String) -> HostError {
    HostError::Unsupported {
        target,
        reason: format!("the kernel has no {AUTOPROBE} for it"),
    }
}
