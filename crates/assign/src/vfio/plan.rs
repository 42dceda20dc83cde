//! What lending a PCI function by vfio would take.

use conf::{DeviceId, HostBackend, HostDriver, PciAddress};
use host::{GuestGroup, Host, HostError, IommuGroup, PciDevice, Sriov, VfSetting, VirtualFunction};

use super::is_vfio;
use crate::assigner::Assigner;
use crate::device::{Holder, Item, Phase};
use crate::error::{Blocker, Obstacle};
use crate::plan::ItemPlan;
use crate::preparation::{Profile, VfioPreparation};
use crate::profile::for_function;
use crate::record::{VfWork, VfioWork, Work};
use crate::settings::{steps_to_make, wanted};
use crate::step::{Step, protocol};

impl Assigner {
    pub(crate) fn plan_vfio(
        &self,
        address: PciAddress,
        holder: &Holder,
        preparation: &VfioPreparation,
        own_group: Option<GuestGroup>,
    ) -> Result<ItemPlan, Obstacle> {
        let host = &*self.host.0;
        refuse_old_backend(preparation.driver.as_ref())?;
        let pci = host.pci_device(address)?;
        let vf = match (&preparation.network, &pci.sriov) {
            // The host says what the device lacks, where it is no VF.
            (Some(_), _) => Some(host.virtual_function(address)?),
            (None, Sriov::Virtual { .. }) => match host.virtual_function(address) {
                // Its PF is a guest's, or has no driver: it works, and nobody can set it.
                Err(HostError::NoPfNetdev(_)) => None,
                vf => Some(vf?),
            },
            (None, Sriov::None | Sriov::Physical { .. }) => None,
        };
        refuse_bridge(&pci)?;
        let usages = match &vf {
            Some(vf) => host.vf_usage(vf)?,
            None => host.pci_usage(address)?,
        };
        if !usages.is_empty() {
            return Err(Obstacle::InUse(usages));
        }
        if let Some(vf) = vf.as_ref().filter(|_| preparation.network.is_some()) {
            check_pf(host, vf)?;
        }
        let group = (host.iommu_group(address)?).ok_or(Obstacle::NoIommu)?;
        check_group(host, address, &group)?;
        self.check_ties(holder, &ties(&pci, vf.as_ref(), &group))?;
        let driver = driver_for(host, &pci, preparation)?;

        let mut steps = Vec::new();
        let vf = vf.map(|vf| plan_vf(host, vf, preparation, &mut steps));
        let vf = vf.transpose()?;
        let profile = match &preparation.profile {
            Some(Profile { action, id }) => {
                let vlan = (preparation.network).is_some_and(|config| config.vlan_id().is_some());
                if vlan {
                    return Err(Obstacle::ProfileWithVlan);
                }
                let vf = vf.as_ref().map(|work| &work.vf);
                let profile = for_function(id, holder, address, vf)?;
                let protocol = protocol(&profile.profile);
                steps.push(Step::Profile {
                    action: *action,
                    protocol,
                });
                Some(profile)
            }
            None => None,
        };
        let bind = pci.driver.as_deref() != Some(&driver);
        if let Sriov::Physical { vfs, .. } = &pci.sriov
            && bind
            && !vfs.is_empty()
        {
            let vfs = vfs.len();
            return Err(Obstacle::HasVfs { vfs, address });
        }
        if bind {
            steps.push(Step::Bind {
                driver: driver.clone(),
            });
        }
        let node = self.plan_node(group.number, own_group)?;
        if node.is_some() {
            steps.push(Step::Grant {
                group: group.number,
            });
        }
        Ok(ItemPlan {
            item: Item::Device(DeviceId::Pci(address)),
            steps,
            work: Work::Vfio(VfioWork {
                address,
                group: group.number,
                driver,
                bind,
                host_driver: pci.driver,
                vf,
                profile,
                node,
            }),
        })
    }

    /// Refuses a device that can't be parted from another guest's.
    pub(crate) fn check_ties(
        &self,
        holder: &Holder,
        ties: &[(PciAddress, Tie)],
    ) -> Result<(), Obstacle> {
        let list = self.lock();
        for (address, tie) in ties {
            let member = DeviceId::Pci(*address);
            let whole = list.entries.get(&Item::Device(member));
            // A PF goes on serving the host while its VFs are guests'.
            let links = (list.shared.get(&member)).filter(|_| *tie != Tie::Pf);
            let links = links.into_iter().flatten();
            let links = links.filter_map(|link| Some(list.by_generation(*link)?.1));
            let other = whole
                .into_iter()
                .chain(links)
                .find(|entry| entry.phase != Phase::Claimed && entry.holder.guest != holder.guest);
            if let Some(entry) = other {
                return Err(Obstacle::Tied {
                    member,
                    tie: tie.words(),
                    guest: entry.holder.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// No guest is given a bridge: neither the kernel's vfio nor the reset of a device goes that way.
pub(crate) fn refuse_bridge(pci: &PciDevice) -> Result<(), Obstacle> {
    const PCI_TO_PCI: u32 = 0x0604;
    match pci.class >> 8 {
        PCI_TO_PCI => Err(Obstacle::Bridge),
        _ => Ok(()),
    }
}

/// Its settings can be made, and reach the wire, only while its PF is up.
pub(crate) fn check_pf(host: &dyn Host, vf: &VirtualFunction) -> Result<(), Obstacle> {
    let pf = host.physical_function(&vf.pf_netdev)?;
    if host.pf_link(&pf)?.up {
        return Ok(());
    }
    Err(Obstacle::PfDown { pf: pf.netdev })
}

/// With 802.1Qbh, MAC and VLAN come with the profile.
pub(crate) fn plan_vf(
    host: &dyn Host,
    vf: VirtualFunction,
    preparation: &VfioPreparation,
    steps: &mut Vec<Step>,
) -> Result<VfWork, Obstacle> {
    let original = host.vf_state(&vf)?;
    let mut settings = match &preparation.network {
        Some(config) => wanted(config, &original, host.vf_abilities(&vf)?)?,
        None => Vec::new(),
    };
    if preparation.profile.is_some() {
        settings.retain(|setting| !matches!(setting, VfSetting::Mac(_) | VfSetting::Vlan { .. }));
    }
    steps.extend(steps_to_make(&settings, &original));
    let mac_given = host.vf_mac_is_given(&vf)?;
    Ok(VfWork {
        vf,
        original,
        mac_given,
        settings,
    })
}

fn refuse_old_backend(driver: Option<&HostDriver>) -> Result<(), Obstacle> {
    match driver.and_then(|driver| driver.backend) {
        None | Some(HostBackend::Vfio) => Ok(()),
        Some(HostBackend::Kvm) => Err(Obstacle::Backend("kvm")),
        Some(HostBackend::Xen) => Err(Obstacle::Backend("xen")),
    }
}

/// What the kernel calls a viable group: all of it in vfio's hands, or in nobody's.
fn check_group(host: &dyn Host, address: PciAddress, group: &IommuGroup) -> Result<(), Obstacle> {
    let mut members = Vec::new();
    for (member, driver) in &group.members {
        let Some(driver) = driver else { continue };
        if *member == address || is_vfio(driver) || matches!(&**driver, "pci-stub" | "pcieport") {
            continue;
        }
        let pci = host.pci_device(*member)?;
        let is_bridge = pci.class >> 16 == 0x06;
        if !is_bridge {
            members.push(Blocker {
                address: *member,
                driver: driver.clone(),
                netdevs: pci.netdevs,
            });
        }
    }
    if members.is_empty() {
        return Ok(());
    }
    Err(Obstacle::GroupNotViable {
        group: group.number,
        members,
    })
}

/// Why two devices can only be one guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    Group,
    Vf,
    Pf,
}

impl Tie {
    fn words(self) -> &'static str {
        match self {
            Self::Group => "shares its IOMMU group",
            Self::Vf => "is one of its VFs",
            Self::Pf => "is its physical function",
        }
    }
}

/// What goes with a device.
fn ties(
    pci: &PciDevice,
    vf: Option<&VirtualFunction>,
    group: &IommuGroup,
) -> Vec<(PciAddress, Tie)> {
    let mut ties: Vec<_> = (group.members.iter())
        .map(|(member, _)| (*member, Tie::Group))
        .collect();
    if let Sriov::Physical { vfs, .. } = &pci.sriov {
        ties.extend(vfs.iter().map(|vf| (*vf, Tie::Vf)));
    }
    ties.extend(vf.map(|vf| (vf.pf_address, Tie::Pf)));
    ties.retain(|(member, _)| *member != pci.address);
    ties
}

/// Refuses a device for which nobody has been asked to change the driver that it has.
///
/// # Errors
/// [`Obstacle::NotDetached`], or another backend than vfio is asked for.
pub fn check_unmanaged(bound: Option<&str>, driver: Option<&HostDriver>) -> Result<(), Obstacle> {
    refuse_old_backend(driver)?;
    if bound.is_some_and(is_vfio) {
        return Ok(());
    }
    Err(Obstacle::NotDetached {
        driver: bound.map(str::to_owned),
    })
}

/// A device that a vfio driver has already keeps it, and is left with it afterwards.
fn driver_for(
    host: &dyn Host,
    pci: &PciDevice,
    preparation: &VfioPreparation,
) -> Result<String, Obstacle> {
    let model = preparation.driver.as_ref().and_then(|d| d.model.clone());
    let bound = pci.driver.clone().filter(|driver| is_vfio(driver));
    match (preparation.managed, bound, model) {
        (_, Some(bound), None) => Ok(bound),
        (false, Some(bound), Some(model)) if bound == model => Ok(bound),
        (false, ..) => Err(Obstacle::NotDetached {
            driver: pci.driver.clone(),
        }),
        (true, bound, Some(model)) => {
            if bound.as_ref() != Some(&model) {
                host.check_driver(&model)?;
            }
            Ok(model)
        }
        (true, None, None) => Ok(host.best_vfio_driver(pci.address)?),
    }
}
