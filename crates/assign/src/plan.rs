//! What lending would take, with all that can be checked before anything is changed.

use std::collections::BTreeSet;

use conf::NetdevName;
use host::{GuestGroup, VirtualFunction};

use crate::assigner::Assigner;
use crate::device::{Holder, Item};
use crate::error::Obstacle;
use crate::preparation::Preparation;
use crate::record::Work;
use crate::step::Step;

/// The steps of lending one item, in order, and what was found before them.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemPlan {
    /// What is lent.
    pub item: Item,
    /// What is done.
    pub steps: Vec<Step>,
    /// What is recorded first.
    pub(crate) work: Work,
}

impl Assigner {
    /// Checks all that can be checked before the first change, and tells the steps. Changes
    /// nothing, and does not ask whether `item` is claimed; for a link that is only planned that is
    /// [`Item::PLANNED_LINK`].
    ///
    /// A PCI function: it is a VF, where it is to be a network device; nobody on the host uses it;
    /// its PF is up; there is an IOMMU, and its group holds nothing of the host's or of another
    /// guest's; the driver can set what is asked for. A macvtap: the device below can have one,
    /// and in passthrough mode nobody on the host uses it; its name, if it was asked for, is free.
    /// A tap: its bridge is there.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn plan(
        &self,
        item: Item,
        holder: &Holder,
        preparation: &Preparation,
    ) -> Result<ItemPlan, Obstacle> {
        self.plan_beside(item, holder, preparation, &BTreeSet::new())
    }

    /// The same beside links of those names, which are planned and not made yet.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn plan_beside(
        &self,
        item: Item,
        holder: &Holder,
        preparation: &Preparation,
        others: &BTreeSet<NetdevName>,
    ) -> Result<ItemPlan, Obstacle> {
        self.plan_for(item, holder, preparation, others, None)
    }

    /// The same, for a guest whose QEMU has that group of its own.
    pub(crate) fn plan_for(
        &self,
        item: Item,
        holder: &Holder,
        preparation: &Preparation,
        others: &BTreeSet<NetdevName>,
        group: Option<GuestGroup>,
    ) -> Result<ItemPlan, Obstacle> {
        match (preparation, item) {
            (Preparation::Vfio(vfio), Item::Device(device)) => {
                let address = device.pci().ok_or(Obstacle::WrongClaim { item })?;
                self.plan_vfio(address, holder, vfio, group)
            }
            (Preparation::Usb, Item::Device(device)) => {
                let address = device.usb().ok_or(Obstacle::WrongClaim { item })?;
                self.plan_usb(address, group)
            }
            (Preparation::Macvtap(macvtap), _) => self.plan_macvtap(item, holder, macvtap, others),
            (Preparation::Tap(tap), Item::Link(_)) => self.plan_tap(item, tap, others),
            (Preparation::Vfio(_) | Preparation::Usb, Item::Link(_) | Item::Detached(_))
            | (Preparation::Tap(_), Item::Device(_) | Item::Detached(_)) => {
                Err(Obstacle::WrongClaim { item })
            }
        }
    }
}

impl ItemPlan {
    /// PF and number, if a VF is lent.
    #[must_use]
    pub fn vf(&self) -> Option<&VirtualFunction> {
        let vf = match &self.work {
            Work::Vfio(vfio) => vfio.vf.as_ref(),
            Work::Link(link) => link.whole().and_then(|whole| whole.vf.as_ref()),
            Work::Usb(_) => None,
        };
        vf.map(|work| &work.vf)
    }

    /// The IOMMU group and the driver for the guest, where it is lent by vfio.
    #[must_use]
    pub fn vfio(&self) -> Option<(u32, &str)> {
        match &self.work {
            Work::Vfio(vfio) => Some((vfio.group, &vfio.driver)),
            Work::Link(_) | Work::Usb(_) => None,
        }
    }

    /// The name that the macvtap or tap would have now.
    #[must_use]
    pub fn netdev(&self) -> Option<NetdevName> {
        match &self.work {
            Work::Vfio(_) | Work::Usb(_) => None,
            Work::Link(link) => Some(link.name),
        }
    }
}
