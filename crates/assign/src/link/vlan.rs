//! The VLAN device on which a macvtap stands, where it is to have one access VLAN.
//!
//! A device has one VLAN device for each number: the kernel allows no second. So one is shared by
//! the guests of that VLAN: made for the first, removed with the last, both under the lock under
//! which they agree who raises the device below. One that somebody else made is used as it is, and
//! neither changed nor removed.

use conf::{DeviceId, NetdevName};
use host::{Host, HostError, Netdev, TAG, VlanId, VlanSpec};

use super::find::{LowerNow, lower_now};
use super::lower::hush;
use super::plan::refuse_enslaved;
use crate::assigner::Assigner;
use crate::device::Item;
use crate::error::Obstacle;
use crate::record::{LowerWork, Record, VlanWork};
use crate::step::{Step, VlanSource};
use crate::vf::Faults;

const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();

/// What a VLAN device of ours is called: by the index of the device below, which keeps it when it
/// is renamed. Within 15 bytes whatever both are: of an index of more than eight digits the
/// sixteenths are written.
fn name_for(lower: u32, id: VlanId) -> Result<NetdevName, Obstacle> {
    let name = match lower {
        0..=99_999_999 => format!("vn{lower}.{id}"),
        _ => format!("vx{lower:x}.{id}"),
    };
    name.parse()
        .map_err(|_| Obstacle::NoFreeName { prefix: "vn" })
}

/// The device for that VLAN of another one, whoever made it.
fn vlan_on(host: &dyn Host, lower: u32, id: VlanId) -> Result<Option<Netdev>, HostError> {
    let is_it = |netdev: &Netdev| netdev.lower == Some(lower) && netdev.vlan == Some(id);
    if let Ok(name) = name_for(lower, id) {
        match host.netdev(name.as_str()) {
            Ok(netdev) if is_it(&netdev) => return Ok(Some(netdev)),
            Ok(_) | Err(HostError::NoNetdev(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(host.netdevs()?.into_iter().find(is_it))
}

/// The VLAN device of a lent macvtap as it is now.
pub(super) fn vlan_now(host: &dyn Host, vlan: &VlanWork) -> Result<Option<Netdev>, HostError> {
    let Some(index) = vlan.index else {
        return Ok(None);
    };
    match host.netdev(vlan.name.as_str()) {
        Ok(netdev) if netdev.index == index => return Ok(Some(netdev)),
        Ok(_) | Err(HostError::NoNetdev(_)) => {}
        Err(error) => return Err(error),
    }
    let mut all = host.netdevs()?.into_iter();
    Ok(all.find(|netdev| netdev.index == index))
}

/// Brings the VLAN device up, once the one below is.
pub(super) fn raise_vlan(host: &dyn Host, vlan: &VlanWork) -> Result<(), HostError> {
    let netdev = vlan_now(host, vlan)?;
    let netdev = netdev.ok_or_else(|| HostError::NoNetdev(vlan.name.to_string()))?;
    if netdev.state.up {
        return Ok(());
    }
    if vlan.existing {
        return Err(HostError::Unsupported {
            target: format!("'{}'", netdev.name),
            reason: format!(
                "the host has it for VLAN {}, and has it down; bring it up: ip link set {} up",
                vlan.id, netdev.name
            ),
        });
    }
    host.set_up(netdev.index, true)
}

/// A VLAN device that was looked at for a plan.
pub(super) struct PlannedVlan {
    pub(super) work: VlanWork,
    pub(super) step: Step,
    /// `None`: it is yet to be made.
    pub(super) now: Option<Netdev>,
}

impl Assigner {
    pub(super) fn plan_vlan(&self, lower: &Netdev, id: VlanId) -> Result<PlannedVlan, Obstacle> {
        let host = &*self.host.0;
        let now = vlan_on(host, lower.index, id)?;
        let (name, source) = match &now {
            None => {
                let name = name_for(lower.index, id)?;
                self.refuse_vlan_name(lower, id, name)?;
                (name, VlanSource::Made)
            }
            Some(vlan) if self.is_marked(vlan) => (vlan.name, VlanSource::Shared),
            Some(vlan) => {
                check_theirs(host, vlan, lower.state.up)?;
                (vlan.name, VlanSource::Theirs)
            }
        };
        Ok(PlannedVlan {
            work: VlanWork {
                id,
                name,
                index: None,
                existing: source == VlanSource::Theirs,
                used: true,
            },
            step: Step::TakeVlan {
                name,
                lower: lower.name,
                id,
                source,
            },
            now,
        })
    }

    fn refuse_vlan_name(
        &self,
        lower: &Netdev,
        id: VlanId,
        name: NetdevName,
    ) -> Result<(), Obstacle> {
        match self.host.0.netdev(name.as_str()) {
            Err(HostError::NoNetdev(_)) => Ok(()),
            // Another guest's link has just had it made.
            Ok(holder) if holder.lower == Some(lower.index) && holder.vlan == Some(id) => Ok(()),
            Ok(holder) => Err(Obstacle::VlanNameTaken {
                name,
                id,
                parent: lower.name,
                holder: self.whose(&holder),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the VLAN device, or makes it, and tells of it what is to be recorded. `keep` writes
    /// that down: before something is made, and after.
    pub(super) fn take_vlan(
        &self,
        lower: &Netdev,
        id: VlanId,
        mut keep: impl FnMut(VlanWork) -> Result<(), Obstacle>,
    ) -> Result<(), Obstacle> {
        let host = &*self.host.0;
        let work = |name, index, existing| VlanWork {
            id,
            name,
            index,
            existing,
            used: true,
        };
        let found = match vlan_on(host, lower.index, id)? {
            Some(vlan) => vlan,
            None => {
                let name = name_for(lower.index, id)?;
                keep(work(name, None, false))?;
                self.make_vlan(lower, id, name)?
            }
        };
        if !self.is_marked(&found) {
            keep(work(found.name, Some(found.index), true))?;
            return check_theirs(host, &found, lower.state.up);
        }
        keep(work(found.name, Some(found.index), false))?;
        // It is up for guests only, and what it carries is what the device below carries.
        hush(host, found.index)?;
        if found.state.mtu != lower.state.mtu {
            host.set_mtu(found.index, lower.state.mtu)?;
        }
        Ok(())
    }

    fn make_vlan(&self, lower: &Netdev, id: VlanId, name: NetdevName) -> Result<Netdev, Obstacle> {
        let host = &*self.host.0;
        let made = host.make_vlan(&VlanSpec {
            name,
            lower: lower.index,
            id,
            tag: self.vlan_tag(lower.index, id),
        });
        match made {
            Err(error) if error.errno() == Some(EEXIST) => {
                // Somebody was quicker.
                if let Some(vlan) = vlan_on(host, lower.index, id)? {
                    return Ok(vlan);
                }
                self.refuse_vlan_name(lower, id, name)?;
                Err(Obstacle::VlanElsewhere {
                    id,
                    parent: lower.name,
                })
            }
            made => Ok(made?),
        }
    }

    /// A macvtap that stood on a VLAN device is gone. The last one's takes the VLAN device along,
    /// unless somebody else has begun to use that.
    pub(super) fn leave_vlan(&self, item: Item, lower: &LowerWork, faults: &mut Faults) {
        let Some(vlan) = lower.vlan.as_ref().filter(|vlan| vlan.used) else {
            return;
        };
        let _one_at_a_time = self.hold_parents();
        let is_settled = vlan.existing
            || self.has_other_user(item, lower.device, vlan.id)
            || self.remove_vlan(lower, vlan, faults);
        if is_settled {
            self.forget_vlan(item);
        }
    }

    /// Whether it is gone, or others use it.
    fn remove_vlan(&self, lower: &LowerWork, vlan: &VlanWork, faults: &mut Faults) -> bool {
        let host = &*self.host.0;
        let find = || -> Result<Option<Netdev>, HostError> {
            let LowerNow::Here(netdev) = lower_now(host, lower)? else {
                return Ok(None);
            };
            let found = vlan_on(host, netdev.index, vlan.id)?;
            Ok(found.filter(|found| {
                // A crash came before it was tagged.
                let is_fresh = vlan.index.is_none()
                    && found.alias.is_none()
                    && name_for(netdev.index, vlan.id).is_ok_and(|name| name == found.name);
                self.is_marked(found) || is_fresh
            }))
        };
        let found = match find() {
            Ok(Some(found)) => found,
            Ok(None) => return true,
            Err(error) => {
                faults.certain(Err(error));
                return false;
            }
        };
        match self.is_in_use_beside(&found) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(netdev = %found.name, "left there, since others use it by now");
                return true;
            }
            Err(error) => {
                faults.certain(Err(error));
                return false;
            }
        }
        faults.doubtful(host.delete_link(found.index, found.name));
        match find() {
            Ok(None) => return true,
            Ok(Some(left)) => {
                let name = left.name;
                faults.differs(format!("no network device {name}"), name.to_string());
            }
            Err(error) => faults.certain(Err(error)),
        }
        false
    }

    /// Whether somebody uses a VLAN device beside the guests on the list: the host, or another
    /// daemon's guests.
    fn is_in_use_beside(&self, vlan: &Netdev) -> Result<bool, HostError> {
        let host = &*self.host.0;
        let carries = |upper: &Netdev| upper.lower == Some(vlan.index);
        Ok(!host.netdev_usage(vlan)?.is_empty() || host.netdevs()?.iter().any(carries))
    }

    /// Whether another macvtap on the list stands, or is to stand, on the same VLAN device.
    fn has_other_user(&self, item: Item, device: DeviceId, id: VlanId) -> bool {
        let list = self.lock();
        let links = list.shared.get(&device).into_iter().flatten();
        let mut others = links.filter_map(|link| list.by_generation(*link));
        others.any(|(other, entry)| {
            let vlan = entry.record.as_ref().and_then(Record::vlan);
            other != item && vlan.is_some_and(|vlan| vlan.id == id && vlan.used)
        })
    }

    fn forget_vlan(&self, item: Item) {
        let mut list = self.lock();
        let record = (list.entries.get_mut(&item)).and_then(|entry| entry.record.as_mut());
        if let Some(vlan) = record.and_then(Record::vlan_mut) {
            vlan.used = false;
        }
    }

    /// A VLAN device that this daemon made and that no guest uses any more, with its number.
    /// Asked for at rest only: under the lock under which they come and go.
    pub(crate) fn unused_vlan(&self, netdev: &Netdev) -> Result<Option<VlanId>, HostError> {
        let Some(id) = netdev.vlan.filter(|_| self.is_marked(netdev)) else {
            return Ok(None);
        };
        let _one_at_a_time = self.hold_parents();
        // It may have gone since it was seen.
        match self.host.0.netdev(netdev.name.as_str()) {
            Ok(now) if now.index == netdev.index => {}
            Ok(_) | Err(HostError::NoNetdev(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let is_used = self.has_users(netdev, id) || self.is_in_use_beside(netdev)?;
        Ok((!is_used).then_some(id))
    }

    /// Removes it, if that is so still.
    pub(crate) fn remove_unused_vlan(&self, name: NetdevName, index: u32) -> Result<(), HostError> {
        let host = &*self.host.0;
        let _one_at_a_time = self.hold_parents();
        let netdev = match host.netdev(name.as_str()) {
            Ok(netdev) if netdev.index == index && self.is_marked(&netdev) => netdev,
            Ok(_) | Err(HostError::NoNetdev(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(id) = netdev.vlan else { return Ok(()) };
        if self.has_users(&netdev, id) || self.is_in_use_beside(&netdev)? {
            return Ok(());
        }
        host.delete_link(index, name)
    }

    /// Whether a macvtap on the list stands, or is to stand, on that VLAN device.
    fn has_users(&self, netdev: &Netdev, id: VlanId) -> bool {
        let list = self.lock();
        list.entries.values().any(|entry| {
            let link = entry.record.as_ref().and_then(Record::link);
            let lower = link.and_then(|link| link.lower.as_ref());
            lower.is_some_and(|lower| {
                let vlan = lower.vlan.as_ref();
                netdev.lower == Some(lower.index)
                    && vlan.is_some_and(|vlan| vlan.id == id && vlan.used)
            })
        })
    }

    /// What marks the VLAN devices that this daemon made among those of the host, and of other
    /// daemons.
    fn vlan_tag(&self, lower: u32, id: VlanId) -> String {
        format!("{TAG}vlan:{lower}.{id}@{}", self.journal.instance())
    }

    fn is_marked(&self, netdev: &Netdev) -> bool {
        let wanted = netdev.lower.zip(netdev.vlan);
        let wanted = wanted.map(|(lower, id)| self.vlan_tag(lower, id));
        wanted.is_some() && netdev.alias == wanted
    }
}

/// Whether the host's own VLAN device can carry macvtaps as it is. It goes up and down with the
/// device below.
fn check_theirs(host: &dyn Host, vlan: &Netdev, is_lower_up: bool) -> Result<(), Obstacle> {
    refuse_enslaved(host, vlan)?;
    if is_lower_up && !vlan.state.up {
        return Err(Obstacle::VlanDown { netdev: vlan.name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_whatever_the_index_is() {
        let name = |lower, id: u16| {
            let name = name_for(lower, id.try_into().unwrap()).unwrap();
            name.as_str().to_owned()
        };
        assert_eq!(name(7, 42), "vn7.42");
        assert_eq!(name(99_999_999, 4094), "vn99999999.4094");
        assert_eq!(name(100_000_000, 4094), "vx5f5e100.4094");
        assert_eq!(name(u32::MAX, 4094), "vxffffffff.4094");
    }
}
