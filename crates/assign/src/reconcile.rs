//! Records, kernel and guests, compared.

use std::collections::BTreeSet;

use conf::{NetdevName, PciAddress, Uuid};
use host::{HostError, Netdev, PhysicalFunction, VfState, VirtualFunction, VlanId};
use records::RecordError;
use serde::{Deserialize, Serialize};

use crate::assigner::Assigner;
use crate::compare::Deviation;
use crate::device::{Generation, Item, Origin, Phase};
use crate::error::{LinkError, ReturnError, whose};
use crate::list::UnreadableRecord;
use crate::record::Record;
use crate::vfio::is_vfio;

/// Something that records, kernel and guests don't agree on. [`std::fmt::Display`] says it in a
/// line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Difference {
    /// A link that this daemon made, and that no record knows.
    #[error("'{netdev}' was made for guest {guest}, and nobody knows of it")]
    OrphanedLink {
        /// Its name.
        netdev: NetdevName,
        /// Its index.
        ifindex: u32,
        /// The guest, by its tag.
        guest: Uuid,
        /// The claim, by its tag.
        generation: Generation,
        /// That guest runs.
        runs: bool,
    },
    /// A VLAN device that this daemon made, and that no guest uses.
    #[error("'{netdev}' was made for guests of VLAN {id}, and none of them uses it")]
    UnusedVlan {
        /// Its name.
        netdev: NetdevName,
        /// Its index.
        ifindex: u32,
        /// The VLAN.
        id: VlanId,
    },
    /// A lent link that is not there.
    #[error("'{netdev}', lent to guest '{guest}', is not there")]
    LinkMissing {
        /// What is lent.
        item: Item,
        /// Its name.
        netdev: NetdevName,
        /// The guest's name.
        guest: String,
    },
    /// A lent device that is not there.
    #[error("{words}, lent to guest '{guest}', is not there", words = .item.words())]
    DeviceMissing {
        /// What is lent.
        item: Item,
        /// The guest's name.
        guest: String,
    },
    /// A lent item that is not set as it was.
    #[error("{words}, lent to guest '{guest}', should have {wanted}, and has {found}", words = .item.words())]
    Changed {
        /// What is lent.
        item: Item,
        /// The guest's name.
        guest: String,
        /// As it was lent.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// What is lent to a guest that does not run.
    #[error("{words} is lent to guest '{guest}', which does not run", words = .item.words())]
    NoGuest {
        /// What is lent.
        item: Item,
        /// What gives it back.
        generation: Generation,
        /// The guest's name.
        guest: String,
    },
    /// What an administrator took from the host, and nobody has.
    #[error("{address} was detached from the host, has driver {driver}, and is lent to nobody")]
    Detached {
        /// The function.
        address: PciAddress,
        /// Its driver.
        driver: String,
    },
    /// The same, which somebody has given back since, or which is gone.
    #[error("{address} was detached from the host, and {now}")]
    NotDetached {
        /// The function.
        address: PciAddress,
        /// Under which claim.
        generation: Generation,
        /// How it is now, in words.
        now: String,
    },
    /// What could not be restored.
    #[error("{words}, back from {whose}, is not as it was found: {}", .reasons.join("; "), words = .item.words(), whose = whose(.guest))]
    Dirty {
        /// The device, or the tap of one.
        item: Item,
        /// What gives it back.
        generation: Generation,
        /// Whose it was.
        guest: String,
        /// What is not as it was, each in words.
        reasons: Vec<String>,
    },
    /// What is lent, and has no record any more: the next daemon would not know of it.
    #[error("{words}, lent to {whose}, has no record", words = .item.words(), whose = whose(.guest))]
    NoRecord {
        /// What is lent.
        item: Item,
        /// Under which claim.
        generation: Generation,
        /// The guest's name.
        guest: String,
    },
    /// A record that can't be read.
    #[error("{words} is kept back: {reason}", words = .item.words())]
    UnreadableRecord {
        /// Whose record.
        item: Item,
        /// What stands in the way, in words.
        reason: String,
    },
    /// A VF that nobody has, on a vfio driver.
    #[error("{address} has driver {driver}, and is lent to nobody")]
    OnVfio {
        /// The VF.
        address: PciAddress,
        /// Its driver.
        driver: String,
    },
    /// A VF that nobody has, with a guest's settings.
    #[error("VF {number} of '{pf}' ({address}) is lent to nobody, and has {}", .settings.join(", "))]
    LeftSettings {
        /// The VF.
        address: PciAddress,
        /// Its PF.
        pf: String,
        /// Its number.
        number: u16,
        /// What it has.
        settings: Vec<String>,
    },
    /// Something that the host did not tell.
    #[error("{what} can't be looked at: {reason}")]
    Unknown {
        /// What can't be looked at.
        what: String,
        /// What stands in the way, in words.
        reason: String,
    },
}

/// A difference was not mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// It could do harm.
    #[error("this is not mended without being asked: {0}")]
    NotSafe(Box<Difference>),
    /// The host refused.
    #[error("cannot remove '{netdev}'")]
    Link {
        /// What was to go.
        netdev: NetdevName,
        /// What it said.
        #[source]
        source: HostError,
    },
    /// It could not be given back.
    #[error(transparent)]
    Return(#[from] ReturnError),
    /// It could not be recorded.
    #[error(transparent)]
    Record(#[from] LinkError),
    /// The record could not be removed.
    #[error(transparent)]
    Forget(#[from] RecordError),
}

impl Difference {
    /// How that can have come about.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::OrphanedLink { runs: false, .. } => {
                "its record was removed, or a crash came between the two"
            }
            Self::OrphanedLink { runs: true, .. } => {
                "its record was removed while the guest runs with it"
            }
            Self::UnusedVlan { .. } => {
                "the host, or a guest whose record was removed, used it when its last guest ended"
            }
            Self::LinkMissing { .. } => "somebody removed it, or the device below it",
            Self::DeviceMissing { .. } => {
                "the card was removed or reset, its VFs were made anew, or its driver was unloaded"
            }
            Self::Changed { .. } => "somebody set it since",
            Self::NoGuest { .. } => "the guest ended while nobody looked",
            Self::Detached { .. } => "it was taken by virsh nodedev-detach",
            Self::NotDetached { .. } => {
                "somebody bound it to another driver by hand, or the device was made anew"
            }
            Self::Dirty { .. } => "the kernel refused to take something back",
            Self::NoRecord { .. } => "somebody removed it",
            Self::UnreadableRecord { .. } => "a later version wrote it, or somebody changed it",
            Self::OnVfio { .. } => "somebody bound it by hand, or another program left it there",
            Self::LeftSettings { .. } => "somebody set them by hand, or another program left them",
            Self::Unknown { .. } => "the kernel, or the driver, refused",
        }
    }

    /// What would mend it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::OrphanedLink { netdev, runs, .. } => match runs {
                false => format!("remove it: ip link delete {netdev}"),
                true => format!("stop the guest, then remove it: ip link delete {netdev}"),
            },
            Self::UnusedVlan { netdev, .. } => format!("remove it: ip link delete {netdev}"),
            Self::LinkMissing { .. } | Self::DeviceMissing { .. } => {
                "stop the guest and start it: it is given the device anew".to_owned()
            }
            Self::Changed { .. } => "set it back, or stop the guest and start it".to_owned(),
            Self::NoGuest { .. } => "give it back".to_owned(),
            Self::Detached { address, .. } => format!(
                "if no guest is to have it: virsh nodedev-reattach {}",
                address.node_device_name()
            ),
            Self::NotDetached { .. } => "remove the record".to_owned(),
            Self::Dirty { .. } => "try once more to restore it".to_owned(),
            Self::NoRecord { .. } => "write it again".to_owned(),
            Self::UnreadableRecord { .. } => {
                "look at what it was lent for, restore that by hand, and remove the record"
                    .to_owned()
            }
            Self::OnVfio { address, .. } => format!(
                "if no other program needs it: echo > /sys/bus/pci/devices/{address}/driver_override; \
                 echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; \
                 echo {address} > /sys/bus/pci/drivers_probe"
            ),
            Self::LeftSettings { pf, number, .. } => format!(
                "if they are not wanted, set them back: ip link set {pf} vf {number} …; a guest \
                 that is lent the VF gets its own in any case"
            ),
            Self::Unknown { .. } => "see to what the kernel says, and look again".to_owned(),
        }
    }

    /// What was done, once it is mended.
    #[must_use]
    pub fn done(&self) -> &'static str {
        match self {
            Self::OrphanedLink { .. } | Self::UnusedVlan { .. } => "it was removed",
            Self::Dirty { .. } => "it was restored",
            Self::NoRecord { .. } => "it was written again",
            Self::NotDetached { .. } => "the record was removed",
            _ => "it was given back",
        }
    }

    /// Whether mending it can't hurt anybody.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        match self {
            Self::OrphanedLink { runs, .. } => !runs,
            Self::NoGuest { .. }
            | Self::NotDetached { .. }
            | Self::Dirty { .. }
            | Self::NoRecord { .. }
            | Self::UnusedVlan { .. } => true,
            Self::Detached { .. } => false,
            Self::LinkMissing { .. }
            | Self::DeviceMissing { .. }
            | Self::Changed { .. }
            | Self::UnreadableRecord { .. }
            | Self::OnVfio { .. }
            | Self::LeftSettings { .. }
            | Self::Unknown { .. } => false,
        }
    }
}

impl Assigner {
    /// Items whose unreadable records somebody has removed since: they are nobody's again.
    pub fn admit_removed(&self) -> Vec<Item> {
        let unreadable = self.lock().unreadable.clone();
        let is_removed = |record: &UnreadableRecord| {
            let found = record.path.symlink_metadata();
            found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        let removed = unreadable.into_iter();
        let removed: Vec<_> = removed
            .filter(|(_, record)| is_removed(record))
            .map(|(item, _)| item)
            .collect();
        let mut list = self.lock();
        for item in &removed {
            list.unreadable.remove(item);
        }
        removed
    }

    /// Compares records, kernel and guests. Reads only; takes a moment for each VF of the host.
    ///
    /// `runs` tells of a guest whether it runs, or is on its way to or from that.
    pub fn reconcile(&self, runs: impl Fn(Uuid) -> bool) -> Vec<Difference> {
        let mut differences = self.reconcile_records(&runs);
        let functions = self.host.0.physical_functions();
        let functions = functions.unwrap_or_else(|error| {
            differences.push(unknown("the host", &error));
            Vec::new()
        });
        for pf in &functions {
            self.reconcile_vfs(pf, &mut differences);
        }
        self.reconcile_links(&runs, &mut differences);
        differences
    }

    fn reconcile_records(&self, runs: &impl Fn(Uuid) -> bool) -> Vec<Difference> {
        let mut differences = Vec::new();
        for line in self.list() {
            let (item, generation, guest) = (line.item, line.generation, line.holder.name);
            match line.phase {
                Phase::Dirty(reasons) => differences.push(Difference::Dirty {
                    item,
                    generation,
                    guest,
                    reasons,
                }),
                Phase::Lent if line.origin == Origin::Detached => {
                    differences.extend(self.reconcile_detached(item, generation));
                }
                Phase::Lent if !runs(line.holder.guest) => {
                    differences.push(Difference::NoGuest {
                        item,
                        generation,
                        guest,
                    });
                }
                Phase::Lent => {
                    let has_record = self.journal.has(item);
                    let record = self.record_of(item);
                    let found = record.iter().flat_map(|record| self.compare(record));
                    let found: Vec<_> = found.collect();
                    // Somebody was at it meanwhile, and what was read is of no one moment.
                    if record.is_none() || !self.is_at_rest(generation, record.as_ref()) {
                        continue;
                    }
                    if !has_record {
                        differences.push(Difference::NoRecord {
                            item,
                            generation,
                            guest: guest.clone(),
                        });
                    }
                    let found = found.into_iter();
                    differences.extend(found.map(|found| changed(item, guest.clone(), found)));
                }
                // Somebody is at it.
                Phase::Claimed | Phase::Preparing | Phase::Returning => {}
            }
        }
        let unreadable = self.lock().unreadable.clone().into_iter();
        differences.extend(
            unreadable.map(|(item, record)| Difference::UnreadableRecord {
                item,
                reason: record.reason,
            }),
        );
        differences
    }

    /// Whether an item is lent under that claim, as that record says, and nobody changes it.
    fn is_at_rest(&self, generation: Generation, record: Option<&Record>) -> bool {
        let list = self.lock();
        let entry = list.by_generation(generation);
        entry.is_some_and(|(_, entry)| {
            entry.phase == Phase::Lent && !entry.busy && entry.record.as_ref() == record
        })
    }

    /// VFs that are on no record, and look as if they should be.
    fn reconcile_vfs(&self, pf: &PhysicalFunction, differences: &mut Vec<Difference>) {
        let host = &*self.host.0;
        let vfs = match host.virtual_functions(pf) {
            Ok(vfs) => vfs,
            Err(error) => return differences.push(unknown(&pf.netdev, &error)),
        };
        for vf in vfs {
            let detached = Item::Detached(vf.address);
            if self.connections(vf.address.into()) > 0 || self.find(detached).is_some() {
                continue;
            }
            match host.vf_state(&vf) {
                Ok(state) => differences.extend(left_on(&vf, state)),
                // It went while we looked.
                Err(HostError::NoPciDevice(_)) => {}
                Err(error) => differences.push(unknown(&vf.address.to_string(), &error)),
            }
        }
    }

    fn reconcile_links(&self, runs: &impl Fn(Uuid) -> bool, differences: &mut Vec<Difference>) {
        let all = match self.host.0.netdevs() {
            Ok(all) => all,
            Err(error) => return differences.push(unknown("network devices", &error)),
        };
        let known = self.known_links();
        for netdev in all {
            let Some((guest, generation)) = self.read_tag(&netdev) else {
                differences.extend(self.reconcile_vlan(&netdev));
                continue;
            };
            if !known.contains(&generation) {
                differences.push(Difference::OrphanedLink {
                    netdev: netdev.name,
                    ifindex: netdev.index,
                    guest,
                    generation,
                    runs: runs(guest),
                });
            }
        }
    }

    fn reconcile_vlan(&self, netdev: &Netdev) -> Option<Difference> {
        match self.unused_vlan(netdev) {
            Ok(id) => id.map(|id| Difference::UnusedVlan {
                netdev: netdev.name,
                ifindex: netdev.index,
                id,
            }),
            Err(error) => Some(unknown(netdev.name.as_str(), &error)),
        }
    }

    fn known_links(&self) -> BTreeSet<Generation> {
        let list = self.lock();
        let lines = list.entries.values();
        lines.map(|entry| entry.generation).collect()
    }

    fn record_of(&self, item: Item) -> Option<Record> {
        self.lock().entries.get(&item)?.record.clone()
    }

    /// Mends what is safe: gives back, tries again to restore, removes a link that is nobody's.
    ///
    /// # Errors
    /// It is not safe, or was refused.
    pub fn mend(&self, difference: &Difference) -> Result<(), MendError> {
        match difference {
            Difference::NoGuest { generation, .. } | Difference::Dirty { generation, .. } => {
                match self.give_back(*generation) {
                    // Somebody was quicker.
                    Ok(_) | Err(ReturnError::Superseded(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Difference::NotDetached { generation, .. } => Ok(self.forget_detached(*generation)?),
            Difference::NoRecord { generation, .. } => match self.borrow_lent(*generation) {
                Ok(mut lent) => Ok(lent.keep()?),
                // It is on its way back.
                Err(_) => Ok(()),
            },
            Difference::UnusedVlan {
                netdev, ifindex, ..
            } => {
                let removed = self.remove_unused_vlan(*netdev, *ifindex);
                removed.map_err(|source| MendError::Link {
                    netdev: *netdev,
                    source,
                })
            }
            Difference::OrphanedLink {
                netdev,
                ifindex,
                generation,
                runs: false,
                ..
            } if !self.known_links().contains(generation) => {
                let removed = self.host.0.delete_link(*ifindex, *netdev);
                removed.map_err(|source| MendError::Link {
                    netdev: *netdev,
                    source,
                })
            }
            other => Err(MendError::NotSafe(Box::new(other.clone()))),
        }
    }
}

fn changed(item: Item, guest: String, found: Deviation) -> Difference {
    match found {
        Deviation::Differs { wanted, found } => Difference::Changed {
            item,
            guest,
            wanted,
            found,
        },
        Deviation::DeviceGone => Difference::DeviceMissing { item, guest },
        Deviation::LinkGone(netdev) => Difference::LinkMissing {
            item,
            netdev,
            guest,
        },
        Deviation::Unknown(error) => unknown(&item.to_string(), &error),
    }
}

fn left_on(vf: &VirtualFunction, state: VfState) -> Vec<Difference> {
    let address = vf.address;
    let own = state.netdev.as_ref().map(|(_, mac)| *mac);
    let mut settings = Vec::new();
    // Some PFs list the MAC that a VF chose for itself.
    if !state.mac.is_zero() && own != Some(state.mac) {
        settings.push(format!("MAC {}", state.mac));
    }
    if state.vlan != 0 {
        settings.push(format!("VLAN {}", state.vlan));
    }
    if state.trust == Some(true) {
        settings.push("trust on".to_owned());
    }
    let left = (!settings.is_empty()).then(|| Difference::LeftSettings {
        address,
        pf: vf.pf_netdev.clone(),
        number: vf.number,
        settings,
    });
    let bound = state.driver.filter(|driver| is_vfio(driver));
    let bound = bound.map(|driver| Difference::OnVfio { address, driver });
    bound.into_iter().chain(left).collect()
}

fn unknown(what: &str, error: &HostError) -> Difference {
    let reason = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Difference::Unknown {
        what: what.to_owned(),
        reason,
    }
}
