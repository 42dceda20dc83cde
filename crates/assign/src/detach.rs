//! Taking a PCI function from the host for nobody yet, as `virsh nodedev-detach` does, and giving it
//! back.
//!
//! What was taken is an item of its own ([`Item::Detached`]), with a record, beside the device: a
//! guest that gets the device whole finds it on vfio, and leaves it there.

mod error;
mod told;

use conf::{DeviceId, NetdevName, PciAddress};
use host::{HostError, PciDevice, Sriov, Usage};

use crate::assigner::Assigner;
use crate::device::{Generation, Holder, Item, Phase};
use crate::error::{ClaimError, Obstacle};
use crate::list::{Entry, InHand};
use crate::patience::now;
use crate::preparation::VfioPreparation;
use crate::record::{Record, Stage, VfioWork, Work};
use crate::settings::{differing, told};
use crate::vf::driver_name;
use crate::vfio::{Tie, is_vfio, plan_vf, refuse_bridge};

pub use error::DetachError;

/// Drivers that take anything and do nothing with it: what has one of them is nobody's.
const STUBS: [&str; 3] = ["pci-stub", "pciback", "xen-pciback"];

/// A function that was taken from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// The driver that it has for guests.
    pub driver: String,
    /// What has it on the list.
    pub generation: Generation,
}

impl Assigner {
    /// Takes a PCI function from the host's driver and binds it to the one that fits it best for
    /// guests, or to that driver; it stays so until [`Assigner::reattach`], across restarts of the
    /// daemon, and is nobody's. Done already: nothing is done.
    ///
    /// The card that shows the console is taken only if its driver is named.
    ///
    /// # Errors
    /// A guest or the host uses it; or the kernel refused, and all is undone.
    pub fn detach(
        &self,
        address: PciAddress,
        driver: Option<&str>,
    ) -> Result<Detached, DetachError> {
        let refused = |obstacle, undo| DetachError::Refused {
            doing: "detach",
            address,
            obstacle: Box::new(obstacle),
            undo,
        };
        let pci =
            (self.host.0.pci_device(address)).map_err(|error| refused(error.into(), Vec::new()))?;
        self.check_free(&pci)?;
        if let Some(done) = self.detached_already(&pci, driver) {
            return Ok(done);
        }
        // Somebody bound it to another driver since, or another one is asked for now.
        if self.find(Item::Detached(address)).is_some() {
            self.reattach(address)?;
        }
        let in_hand = self.take_function(&pci)?;
        let plan = (self.plan_detach(&pci, driver)).and_then(|work| {
            let record = Record {
                item: in_hand.item,
                generation: in_hand.generation,
                stage: Stage::Preparing,
                since: now(),
                holder: in_hand.holder.clone(),
                origin: in_hand.origin,
                work: Work::Vfio(work.clone()),
            };
            self.keep(&in_hand, &record)?;
            Ok((work, record))
        });
        let (work, mut record) = match plan {
            Ok(planned) => planned,
            Err(obstacle) => {
                in_hand.free();
                return Err(refused(obstacle, Vec::new()));
            }
        };
        match self.take_from_host(&work, &mut record) {
            Ok(()) => {
                let generation = record.generation;
                in_hand.note(&record);
                in_hand.lent();
                Ok(Detached {
                    driver: work.driver,
                    generation,
                })
            }
            Err(obstacle) => {
                let undo = self.restore_in_hand(in_hand, &record).faults;
                Err(refused(obstacle, undo))
            }
        }
    }

    /// Gives a PCI function back to the host: to the driver that it had when it was taken, or, if
    /// nobody here took it, to the one that the kernel chooses; tells which has it. One that a driver
    /// of the host's has is left alone. A VF's settings that were changed meanwhile stand: they are
    /// the administrator's.
    ///
    /// # Errors
    /// A guest has it, or a process; or it is not as it was found: then it is dirty.
    pub fn reattach(&self, address: PciAddress) -> Result<Option<String>, DetachError> {
        let refused = |obstacle| DetachError::Refused {
            doing: "give back",
            address,
            obstacle: Box::new(obstacle),
            undo: Vec::new(),
        };
        let host = &*self.host.0;
        let pci = match host.pci_device(address) {
            Ok(pci) => pci,
            Err(HostError::NoPciDevice(_)) => {
                self.detached_is_gone(address);
                return Err(refused(HostError::NoPciDevice(address).into()));
            }
            Err(error) => return Err(refused(error.into())),
        };
        let taken = self.take_detached(address)?;
        let ties =
            (self.group_of(address)).and_then(|ties| self.check_ties(&Holder::nobody(), &ties));
        if let Err(obstacle) = ties.and_then(|()| self.refuse_held(address)) {
            if let Some((in_hand, _)) = taken {
                in_hand.lent();
            }
            return Err(refused(obstacle));
        }
        let Some((in_hand, mut record)) = taken else {
            return self.give_unrecorded(&pci, refused);
        };
        record.stage = Stage::Returning;
        self.leave_settings(&mut record);
        if let Err(error) = self.journal.write(&record) {
            tracing::warn!(%address, %error, reason = %error.source, "the return is not recorded");
        }
        in_hand.note(&record);
        let restored = self.restore(&record);
        if !restored.is_clean() {
            in_hand.dirty(restored.reasons());
            let faults = restored.faults;
            return Err(DetachError::Dirty { address, faults });
        }
        let had = record.vfio().and_then(|vfio| vfio.host_driver.as_deref());
        let now = match had.is_some_and(is_vfio) {
            // It was not the host's when it was taken either.
            true => host.rebind(address),
            false => host.pci_device(address).map(|pci| pci.driver),
        };
        in_hand.free();
        now.map_err(|error| refused(error.into()))
    }

    /// Resets a PCI function that neither a guest nor the host uses. One that a vfio driver has is
    /// reset whenever it is opened, and is left alone.
    ///
    /// # Errors
    /// Somebody uses it, it can't be reset, or the kernel refused.
    pub fn reset(&self, address: PciAddress) -> Result<(), DetachError> {
        let refused = |obstacle| DetachError::Refused {
            doing: "reset",
            address,
            obstacle: Box::new(obstacle),
            undo: Vec::new(),
        };
        let host = &*self.host.0;
        let failed = |error: HostError| refused(error.into());
        let pci = host.pci_device(address).map_err(failed)?;
        self.check_free(&pci)?;
        refuse_bridge(&pci)
            .and_then(|()| refuse_vfs(&pci))
            .and_then(|()| self.refuse_used(&pci, true))
            .map_err(refused)?;
        if pci.driver.as_deref().is_some_and(is_vfio) {
            return Ok(());
        }
        if !host.pci_details(address).map_err(failed)?.can_reset {
            return Err(failed(HostError::Unsupported {
                target: address.to_string(),
                reason: "the kernel knows no way to reset it alone".to_owned(),
            }));
        }
        host.reset(address).map_err(failed)
    }

    fn detached_already(&self, pci: &PciDevice, driver: Option<&str>) -> Option<Detached> {
        let line = self.find(Item::Detached(pci.address))?;
        let has = line.driver.filter(|_| line.phase == Phase::Lent)?;
        let as_asked = driver.is_none_or(|driver| driver == has);
        (as_asked && pci.driver.as_ref() == Some(&has)).then_some(Detached {
            driver: has,
            generation: line.generation,
        })
    }

    /// Speaks for a function that is to be taken from the host.
    fn take_function(&self, pci: &PciDevice) -> Result<InHand<'_>, ClaimError> {
        let names = netdev_names(pci);
        let mut list = self.lock();
        refuse_lent_vfs(&list, pci)?;
        let (item, _) = list.claim_detached(pci.address, &names)?;
        match list.entries.get(&item) {
            Some(entry) => Ok(self.in_hand(item, entry)),
            None => Err(ClaimError::InHand {
                device: pci.address.into(),
                doing: "taken from the host",
            }),
        }
    }

    /// Takes a detached function into the caller's hands, to give it back; `None`: it is not detached.
    pub(super) fn take_detached(
        &self,
        address: PciAddress,
    ) -> Result<Option<(InHand<'_>, Record)>, ClaimError> {
        let item = Item::Detached(address);
        let mut list = self.lock();
        // One that could not be given back may be tried again.
        let dirty =
            (list.entries.get(&item)).is_some_and(|entry| matches!(entry.phase, Phase::Dirty(_)));
        if !dirty || list.entries.contains_key(&Item::Device(address.into())) {
            list.check_claim(address.into(), true)?;
        }
        let Some(entry) = list.entries.get_mut(&item) else {
            return Ok(None);
        };
        let Some(record) = entry.record.clone() else {
            return Ok(None);
        };
        let in_hand = self.in_hand(item, entry);
        entry.phase = Phase::Returning;
        Ok(Some((in_hand, record)))
    }

    fn check_free(&self, pci: &PciDevice) -> Result<(), ClaimError> {
        let list = self.lock();
        list.check_claim(pci.address.into(), true)?;
        for name in netdev_names(pci) {
            list.check_claim(DeviceId::Netdev(name), true)?;
        }
        refuse_lent_vfs(&list, pci)
    }

    /// All that can be checked before the first change, and what is to be recorded.
    fn plan_detach(&self, pci: &PciDevice, driver: Option<&str>) -> Result<VfioWork, Obstacle> {
        let host = &*self.host.0;
        refuse_bridge(pci)?;
        refuse_vfs(pci)?;
        self.refuse_used(pci, driver.is_none())?;
        let address = pci.address;
        let bound = pci.driver.clone().filter(|driver| is_vfio(driver));
        let driver = match (driver, bound) {
            (Some(driver), _) => {
                host.check_driver(driver)?;
                driver.to_owned()
            }
            (None, Some(bound)) => bound,
            (None, None) => host.best_vfio_driver(address)?,
        };
        let group = match host.iommu_group(address)? {
            Some(group) => group.number,
            None if is_vfio(&driver) => return Err(Obstacle::NoIommu),
            None => 0,
        };
        let plain = VfioPreparation {
            managed: true,
            driver: None,
            network: None,
            profile: None,
        };
        let vf = match &pci.sriov {
            Sriov::Virtual { .. } => match host.virtual_function(address) {
                Ok(vf) => Some(plan_vf(host, vf, &plain, &mut Vec::new())?),
                Err(HostError::NoPfNetdev(_)) => None,
                Err(error) => return Err(error.into()),
            },
            Sriov::None | Sriov::Physical { .. } => None,
        };
        Ok(VfioWork {
            address,
            group,
            bind: pci.driver.as_ref() != Some(&driver),
            driver,
            host_driver: pci.driver.clone(),
            vf,
            profile: None,
            // It is nobody's.
            node: None,
        })
    }

    fn take_from_host(&self, work: &VfioWork, record: &mut Record) -> Result<(), Obstacle> {
        let host = &*self.host.0;
        if work.bind {
            host.bind(work.address, &work.driver)?;
        }
        let driver = host.pci_device(work.address)?.driver;
        if driver.as_ref() != Some(&work.driver) {
            return Err(Obstacle::NotKept {
                wanted: driver_name(Some(&work.driver)),
                found: driver_name(driver.as_deref()),
            });
        }
        record.stage = Stage::Lent;
        Ok(self.journal.write(record)?)
    }

    /// Gives a function to the host that nobody here took from it. Cut short, it has no driver, and
    /// is nobody's: there is nothing to undo.
    fn give_unrecorded(
        &self,
        pci: &PciDevice,
        refused: impl FnOnce(Obstacle) -> DetachError,
    ) -> Result<Option<String>, DetachError> {
        let is_hosts = |driver: &str| !is_vfio(driver) && !STUBS.contains(&driver);
        if pci.driver.as_deref().is_some_and(is_hosts) {
            return Ok(pci.driver.clone());
        }
        let in_hand = self.take_function(pci)?;
        let now = self.host.0.rebind(pci.address);
        in_hand.free();
        now.map_err(|error| refused(error.into()))
    }

    /// The host uses it; its console counts only where that is to be minded.
    fn refuse_used(&self, pci: &PciDevice, mind_console: bool) -> Result<(), Obstacle> {
        let host = &*self.host.0;
        let vf = match &pci.sriov {
            Sriov::Virtual { .. } => match host.virtual_function(pci.address) {
                Err(HostError::NoPfNetdev(_)) => None,
                vf => Some(vf?),
            },
            Sriov::None | Sriov::Physical { .. } => None,
        };
        let mut usages = match &vf {
            Some(vf) => host.vf_usage(vf)?,
            None => host.pci_usage(pci.address)?,
        };
        usages.retain(|usage| mind_console || *usage != Usage::Console);
        match usages.is_empty() {
            true => Ok(()),
            false => Err(Obstacle::InUse(usages)),
        }
    }

    fn refuse_held(&self, address: PciAddress) -> Result<(), Obstacle> {
        match self.host.0.vfio_holder(address)? {
            Some(holder) => Err(Obstacle::InUse(vec![Usage::VfioOpen(holder)])),
            None => Ok(()),
        }
    }

    /// The other members of its IOMMU group: a driver of the host's on one of them would take the
    /// group from a guest that has another.
    fn group_of(&self, address: PciAddress) -> Result<Vec<(PciAddress, Tie)>, Obstacle> {
        let group = self.host.0.iommu_group(address)?;
        let members = group.into_iter().flat_map(|group| group.members);
        let others = members.filter(|(member, _)| *member != address);
        Ok(others.map(|(member, _)| (member, Tie::Group)).collect())
    }

    /// Settings of a VF that somebody changed since it was taken are not taken back.
    fn leave_settings(&self, record: &mut Record) {
        let Some(work) = record.vf() else { return };
        let now = self.host.0.vf_state(&work.vf);
        let changed = now.is_ok_and(|now| !differing(&told(&work.original), &now).is_empty());
        if changed && let Work::Vfio(vfio) = &mut record.work {
            vfio.vf = None;
        }
    }

    /// Whether the function is with a guest, or was.
    pub(super) fn has_device(&self, address: PciAddress) -> bool {
        self.lock()
            .entries
            .contains_key(&Item::Device(address.into()))
    }

    fn in_hand(&self, item: Item, entry: &Entry) -> InHand<'_> {
        InHand::new(self.whole_list(), item, entry)
    }
}

/// A PF goes with its VFs.
fn refuse_vfs(pci: &PciDevice) -> Result<(), Obstacle> {
    match &pci.sriov {
        Sriov::Physical { vfs, .. } if !vfs.is_empty() => Err(Obstacle::HasVfs {
            vfs: vfs.len(),
            address: pci.address,
        }),
        _ => Ok(()),
    }
}

/// The first guest that has one of its VFs is told.
fn refuse_lent_vfs(list: &crate::list::List, pci: &PciDevice) -> Result<(), ClaimError> {
    let Sriov::Physical { vfs, .. } = &pci.sriov else {
        return Ok(());
    };
    for vf in vfs {
        list.check_claim((*vf).into(), true)
            .map_err(|source| ClaimError::OfVf {
                pf: pci.address,
                source: Box::new(source),
            })?;
    }
    Ok(())
}

fn netdev_names(pci: &PciDevice) -> Vec<NetdevName> {
    let names = pci.netdevs.iter();
    names.filter_map(|name| name.parse().ok()).collect()
}
