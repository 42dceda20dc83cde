//! Port profiles: what the switch is told of a guest's interface.

use conf::{MacAddress, NetdevName, PciAddress};
use host::{Host, HostError, Netdev, PortAction, PortProfile, PortRequest, VirtualFunction};

use crate::assigner::Assigner;
use crate::device::{Generation, Holder};
use crate::error::{LinkError, Obstacle};
use crate::list::InHand;
use crate::preparation::ProfileId;
use crate::record::{Association, ProfileWork, Record};
use crate::vf::Faults;

impl Assigner {
    /// Associates a lent item's port profile: after a migration, where it was only announced
    /// ([`PortAction::Associate`]); or once more, without waiting for the answer, after the agent
    /// or the daemon was restarted ([`PortAction::AssociateAgain`]). An item without a profile:
    /// nothing is done.
    ///
    /// # Errors
    /// Nothing is lent under it, or the switch, or the agent that speaks to it, refused.
    pub fn associate(&self, generation: Generation, action: PortAction) -> Result<(), LinkError> {
        let mut busy = self.borrow_lent(generation)?;
        let Some(work) = busy.record.profile() else {
            return Ok(());
        };
        let asked = self.host.0.port_profile(&request(work, action));
        asked.map_err(|source| busy.refused(source))?;
        if let Some(work) = busy.record.profile_mut() {
            work.association = Association::Made;
        }
        busy.keep()
    }

    /// Tells the switch of an item that is being prepared.
    pub(crate) fn join(
        &self,
        in_hand: &InHand<'_>,
        record: &mut Record,
        action: PortAction,
    ) -> Result<(), Obstacle> {
        let Some(work) = record.profile_mut() else {
            return Ok(());
        };
        work.association = Association::Asked;
        let request = request(work, action);
        self.keep(in_hand, record)?;
        self.host.0.port_profile(&request)?;
        if let Some(work) = record.profile_mut() {
            work.association = Association::Made;
        }
        self.keep(in_hand, record)
    }
}

/// Takes it back from the switch, if the switch was told.
pub(crate) fn leave(host: &dyn Host, work: Option<&ProfileWork>, faults: &mut Faults) {
    let Some(work) = work else { return };
    let told = match work.association {
        Association::None => return,
        Association::Asked => false,
        Association::Made => true,
    };
    match host.port_profile(&request(work, PortAction::Disassociate)) {
        // Without an agent, or without the card, nobody holds an association.
        Err(HostError::Unsupported { .. } | HostError::NoNetdev(_)) | Ok(()) => {}
        // It never agreed, so that this is a courtesy.
        left @ Err(HostError::PortProfile { .. }) if !told => faults.doubtful(left),
        // Nor does it know of this: what it was asked first it may have done.
        left => faults.certain(left),
    }
}

fn request(work: &ProfileWork, action: PortAction) -> PortRequest {
    PortRequest {
        action,
        mac: work.mac,
        profile: work.profile.clone(),
    }
}

/// The profile of a PCI function for vfio: its card's driver speaks for it.
pub(crate) fn for_function(
    id: &ProfileId,
    holder: &Holder,
    address: PciAddress,
    vf: Option<&VirtualFunction>,
) -> Result<ProfileWork, Obstacle> {
    let ProfileId::Qbh { profile_id, host } = id else {
        return Err(Obstacle::ProfileNotForVfio);
    };
    let (Some(vf), Some(mac)) = (vf, holder.mac) else {
        return Err(Obstacle::Host(HostError::NotVirtualFunction(address)));
    };
    let link = vf.pf_netdev.parse();
    let link = link.map_err(|_| HostError::NoNetdev(vf.pf_netdev.clone()))?;
    Ok(qbh(link, Some(vf.number), profile_id, *host, holder, mac))
}

/// The profile of a macvtap on that device, which speaks for it: the macvtap can be gone before its
/// association is. 802.1Qbh is spoken by the card itself: by its PF, if it is a VF.
pub(crate) fn for_macvtap(
    id: &ProfileId,
    holder: &Holder,
    mac: MacAddress,
    lower: &Netdev,
    vf: Option<&VirtualFunction>,
) -> Result<ProfileWork, Obstacle> {
    match id {
        ProfileId::Qbg {
            manager_id,
            type_id,
            type_id_version,
            instance_id,
        } => Ok(ProfileWork {
            profile: PortProfile::Qbg {
                link: lower.name,
                manager_id: *manager_id,
                type_id: *type_id,
                type_id_version: *type_id_version,
                instance_id: *instance_id,
            },
            mac,
            association: Association::None,
        }),
        ProfileId::Qbh { profile_id, host } => {
            let (link, number) = match vf {
                Some(vf) => {
                    let link = vf.pf_netdev.parse();
                    let link = link.map_err(|_| HostError::NoNetdev(vf.pf_netdev.clone()))?;
                    (link, Some(vf.number))
                }
                None => (lower.name, None),
            };
            Ok(qbh(link, number, profile_id, *host, holder, mac))
        }
    }
}

fn qbh(
    link: NetdevName,
    vf: Option<u16>,
    profile_id: &str,
    host: conf::Uuid,
    holder: &Holder,
    mac: MacAddress,
) -> ProfileWork {
    ProfileWork {
        profile: PortProfile::Qbh {
            link,
            vf,
            profile_id: profile_id.to_owned(),
            guest: holder.guest,
            host,
        },
        mac,
        association: Association::None,
    }
}
