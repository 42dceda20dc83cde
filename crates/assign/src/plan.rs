//! What lending a device would take, with all that can be checked before anything is changed.

use std::fmt;

use conf::{HostBackend, HostDriver, PciAddress};
use host::{Host, HostError, IommuGroup, PciDevice, Sriov, VfSetting, VfState, VirtualFunction};

use crate::assigner::{Assigner, VfioUser};
use crate::config::Preparation;
use crate::device::{DeviceId, Owner};
use crate::error::{Blocker, Obstacle};
use crate::settings::{describe, differing, wanted};

/// The steps of lending one device, in order, and what was found on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which device.
    pub address: PciAddress,
    /// PF and number, if it is a VF.
    pub vf: Option<VirtualFunction>,
    /// Its IOMMU group.
    pub group: u32,
    /// The driver that it has now.
    pub host_driver: Option<String>,
    /// The driver that it has for the guest.
    pub driver: String,
    /// The VF's settings as they are now: what it gets back, whatever the guest does to them.
    pub original: Option<VfState>,
    /// Every setting that it is to have, also those that it has already.
    pub settings: Vec<VfSetting>,
    /// What is done.
    pub steps: Vec<Step>,
}

/// One change. [`fmt::Display`] says it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One setting of the VF, through its PF.
    Set(VfSetting),
    /// Binding it.
    Bind {
        /// To this driver.
        driver: String,
    },
    /// Letting QEMU's user open the vfio group.
    Grant {
        /// The group.
        group: u32,
        /// The user.
        user: VfioUser,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(setting) => write!(f, "set {}", describe(*setting)),
            Self::Bind { driver } => write!(f, "bind to {driver}"),
            Self::Grant { group, user } => {
                write!(f, "let user {} open /dev/vfio/{group}", user.uid)
            }
        }
    }
}

impl Assigner {
    /// Checks all that can be checked before the first change, and tells the steps. Changes
    /// nothing.
    ///
    /// In order: it is a VF, where it is to be a network device; nobody on the host uses it; its
    /// PF is up; there is an IOMMU, and its group holds nothing of the host's or of another
    /// guest's; the driver can set what is asked for.
    pub fn plan(
        &self,
        device: DeviceId,
        owner: &Owner,
        preparation: &Preparation,
    ) -> Result<Plan, Obstacle> {
        let DeviceId::Pci(address) = device;
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
        if let Some(vf) = &vf {
            let usages = host.vf_usage(vf)?;
            if !usages.is_empty() {
                return Err(Obstacle::InUse(usages));
            }
            if preparation.network.is_some() {
                let pf = host.physical_function(&vf.pf_netdev)?;
                if !host.pf_link(&pf)?.up {
                    return Err(Obstacle::PfDown { pf: pf.netdev });
                }
            }
        }
        let group = (host.iommu_group(address)?).ok_or(Obstacle::NoIommu)?;
        check_group(host, address, &group)?;
        self.check_ties(owner.guest, ties(&pci, vf.as_ref(), &group))?;
        let driver = driver_for(host, &pci, preparation)?;

        let original = vf.as_ref().map(|vf| host.vf_state(vf)).transpose()?;
        let (settings, mut steps) = match (&original, &preparation.network) {
            (Some(original), Some(config)) => {
                let settings = wanted(config, original)?;
                let steps = settings_to_make(&settings, original);
                (settings, steps)
            }
            _ => (Vec::new(), Vec::new()),
        };
        if pci.driver.as_deref() != Some(&driver) {
            steps.push(Step::Bind {
                driver: driver.clone(),
            });
        }
        if let Some(user) = self.vfio_user {
            steps.push(Step::Grant {
                group: group.number,
                user,
            });
        }
        Ok(Plan {
            address,
            vf,
            group: group.number,
            host_driver: pci.driver,
            driver,
            original,
            settings,
            steps,
        })
    }
}

/// The MAC is set even if it seems to be set already: some drivers tell the one that the VF chose
/// for itself, which it could change. What else the kernel tells to be as wanted is left alone:
/// drivers refuse to set what they don't have, though they tell its neutral value.
fn settings_to_make(settings: &[VfSetting], original: &VfState) -> Vec<Step> {
    let differing = differing(settings, original);
    let make = settings.iter().copied().filter(|setting| {
        matches!(setting, VfSetting::Mac(_))
            || differing.iter().any(|(wanted, _)| wanted == setting)
    });
    make.map(Step::Set).collect()
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

/// What goes with a device, so that both can only be one guest's.
fn ties(
    pci: &PciDevice,
    vf: Option<&VirtualFunction>,
    group: &IommuGroup,
) -> Vec<(PciAddress, &'static str)> {
    let mut ties: Vec<_> = (group.members.iter())
        .map(|(member, _)| (*member, "shares its IOMMU group"))
        .collect();
    if let Sriov::Physical { vfs, .. } = &pci.sriov {
        ties.extend(vfs.iter().map(|vf| (*vf, "is one of its VFs")));
    }
    ties.extend(vf.map(|vf| (vf.pf_address, "is its physical function")));
    ties.retain(|(member, _)| *member != pci.address);
    ties
}

/// A device that a vfio driver has already keeps it, and is left with it afterwards.
fn driver_for(
    host: &dyn Host,
    pci: &PciDevice,
    preparation: &Preparation,
) -> Result<String, Obstacle> {
    let model = preparation.driver.as_ref().and_then(|d| d.model.clone());
    let bound = pci.driver.clone().filter(|driver| is_vfio(driver));
    match (preparation.managed, bound, model) {
        (_, Some(bound), None) => Ok(bound),
        (false, Some(bound), Some(model)) if bound == model => Ok(bound),
        (false, ..) => Err(Obstacle::NotDetached {
            driver: pci.driver.clone(),
        }),
        (true, _, Some(model)) => Ok(model),
        (true, None, None) => Ok(host.best_vfio_driver(pci.address)?),
    }
}

/// vfio's own driver and its variants (`mlx5_vfio_pci`, `hisi-acc-vfio-pci` …).
pub(crate) fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}
