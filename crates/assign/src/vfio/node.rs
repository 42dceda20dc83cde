//! The node of an IOMMU group, `/dev/vfio/N`: whoever may open it has the devices of the group.

use host::{GuestGroup, HostError, NodeAccess};

use super::is_vfio;
use crate::access::describe;
use crate::assigner::Assigner;
use crate::device::{Item, Phase};
use crate::error::Obstacle;
use crate::record::{NodeWork, Record, VfioWork};
use crate::vf::Faults;

impl Assigner {
    /// Who will be let open it, and who may now.
    pub(super) fn plan_node(
        &self,
        group: u32,
        own_group: Option<GuestGroup>,
    ) -> Result<Option<NodeWork>, HostError> {
        let Some(granted) = self.access_for(own_group) else {
            return Ok(None);
        };
        // Another function of the group may be the guest's already: it was found before that.
        let found = match self.node_of_group(group, None) {
            Some(node) => node.found,
            None => self.host.0.vfio_access(group)?,
        };
        Ok(Some(NodeWork { found, granted }))
    }

    /// Lets the guest's QEMU open it.
    pub(super) fn grant(&self, vfio: &VfioWork) -> Result<(), Obstacle> {
        let Some(NodeWork { granted, .. }) = vfio.node else {
            return Ok(());
        };
        let host = &*self.host.0;
        host.set_vfio_access(vfio.group, granted)?;
        match host.vfio_access(vfio.group)? {
            Some(kept) if kept == granted => Ok(()),
            kept => Err(Obstacle::NotKept {
                wanted: describe(granted),
                found: kept.map_or_else(|| "no node".to_owned(), describe),
            }),
        }
    }

    /// Who could open it before may again, and nobody else; whether that was a change.
    pub(super) fn withdraw(&self, item: Item, vfio: &VfioWork, faults: &mut Faults) -> bool {
        let Some(wanted) = self.wanted(item, vfio) else {
            return false;
        };
        let host = &*self.host.0;
        match host.vfio_access(vfio.group) {
            Ok(Some(now)) if now != wanted(now) => {
                faults.doubtful(host.set_vfio_access(vfio.group, wanted(now)));
                true
            }
            Ok(_) => false,
            Err(error) => {
                faults.doubtful(Err(error));
                false
            }
        }
    }

    /// The same when all else is restored: binding may have made it anew. It is read to be so.
    pub(super) fn verify_node(&self, item: Item, vfio: &VfioWork, faults: &mut Faults) {
        self.withdraw(item, vfio, faults);
        let Some(wanted) = self.wanted(item, vfio) else {
            return;
        };
        match self.host.0.vfio_access(vfio.group) {
            Ok(Some(now)) if now != wanted(now) => {
                faults.differs(describe(wanted(now)), describe(now));
            }
            Ok(_) => {}
            Err(error) => faults.certain(Err(error)),
        }
    }

    /// A device that is not there any more may have left its group, and that its node: the guest's QEMU
    /// is not to open what comes there.
    pub(super) fn withdraw_what_is_left(
        &self,
        item: Item,
        vfio: &VfioWork,
    ) -> Result<(), HostError> {
        let Some(node) = vfio.node else {
            return Ok(());
        };
        let host = &*self.host.0;
        // The group's number may be another group's by now, and that another guest's.
        if self.node_of_group(vfio.group, Some(item)).is_some()
            || host.vfio_access(vfio.group)? != Some(node.granted)
        {
            return Ok(());
        }
        host.set_vfio_access(vfio.group, node.found.unwrap_or(NodeAccess::ROOT))
    }

    /// What access is to become of the one that there is; `None`: it stays.
    fn wanted(
        &self,
        item: Item,
        vfio: &VfioWork,
    ) -> Option<impl Fn(NodeAccess) -> NodeAccess + use<>> {
        let node = vfio.node;
        // An earlier release gave the node away, and did not record it.
        let stays = vfio.host_driver.as_deref().is_some_and(is_vfio);
        let was_given = stays && self.vfio_user.is_some() && matches!(item, Item::Device(_));
        let is_ours = node.is_some() || was_given;
        if !is_ours || self.shares_group(item, vfio.group) {
            return None;
        }
        Some(move |now: NodeAccess| match node {
            Some(node) => node.found.unwrap_or(NodeAccess::ROOT),
            None => NodeAccess {
                mode: now.mode,
                ..NodeAccess::ROOT
            },
        })
    }

    /// Whether another device of that group is a guest's.
    pub(super) fn shares_group(&self, item: Item, group: u32) -> bool {
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

    /// What is recorded of it for a device of the group, other than that one.
    fn node_of_group(&self, group: u32, except: Option<Item>) -> Option<NodeWork> {
        let list = self.lock();
        let mut nodes = list.entries.iter().filter_map(|(item, entry)| {
            let vfio = entry.record.as_ref()?.vfio()?;
            let is_of_it = vfio.group == group && Some(*item) != except;
            vfio.node.filter(|_| is_of_it)
        });
        nodes.next()
    }
}
