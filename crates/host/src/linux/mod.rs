//! The real kernel.

mod ability;
mod access;
mod alias;
mod block;
mod driver;
mod express;
mod ids;
mod inventory;
mod ipv6;
mod links;
mod netlink;
mod paths;
mod port_profile;
mod rest;
mod shaping;
mod sysfs;
mod tap;
mod uevent;
mod usage;
mod usb;
mod vfio;
mod vlan;
mod watch;

use std::io;
use std::sync::Arc;

use conf::{MacAddress, PciAddress};

pub use paths::Paths;
pub use port_profile::PortPatience;

use crate::{
    Host, HostError, HostEvents, IommuGroup, LinkState, NodeAccess, Operation, PciDevice,
    PhysicalFunction, Usage, VfAbilities, VfSetting, VfState, VfioHolder, VirtualFunction,
};
use alias::Variants;
use ids::HardwareIds;
use netlink::Connections;
use port_profile::{Agents, Listener};
use rest::RestNotes;
use sysfs::{Reading, Sysfs};
use watch::LinuxEvents;

/// The host that this runs on.
///
/// Network devices are those of the network namespace in which it runs; it must not change
/// namespaces once it is in use.
#[derive(Debug)]
pub struct LinuxHost {
    paths: Paths,
    sysfs: Sysfs,
    netlink: Connections,
    generic: Connections,
    agents: Agents,
    listener: Arc<Listener>,
    port_patience: PortPatience,
    variants: Variants,
    pci_ids: HardwareIds,
    usb_ids: HardwareIds,
    rest: Option<RestNotes>,
}

impl LinuxHost {
    /// The host whose kernel shows itself there.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self {
            sysfs: Sysfs::new(paths.sysfs.clone()),
            netlink: Connections::default(),
            generic: Connections::generic(),
            agents: Agents::new(paths.run.clone()),
            listener: Arc::default(),
            port_patience: PortPatience::default(),
            variants: Variants::default(),
            pci_ids: HardwareIds::new(&paths.share, "pci.ids"),
            usb_ids: HardwareIds::new(&paths.share, "usb.ids"),
            rest: None,
            paths,
        }
    }

    /// The same, with that much patience for switches.
    #[must_use]
    pub fn with_port_patience(mut self, patience: PortPatience) -> Self {
        self.port_patience = patience;
        self
    }

    /// The same, which remembers of VFs that they are at rest until the kernel tells of a change. For
    /// a host whose sysfs is that of the network namespace in which this runs.
    #[must_use]
    pub fn noting_rest(mut self) -> Self {
        self.rest = Some(RestNotes::default());
        self
    }

    fn refused_vf(vf: &VirtualFunction, operation: Operation, source: io::Error) -> HostError {
        HostError::Kernel {
            operation,
            target: format!("VF {} of '{}' ({})", vf.number, vf.pf_netdev, vf.address),
            source,
        }
    }
}

impl Host for LinuxHost {
    fn physical_functions(&self) -> Result<Vec<PhysicalFunction>, HostError> {
        self.sysfs.physical_functions()
    }

    fn physical_function(&self, netdev: &str) -> Result<PhysicalFunction, HostError> {
        self.sysfs.physical_function(netdev)
    }

    fn virtual_functions(&self, pf: &PhysicalFunction) -> Result<Vec<VirtualFunction>, HostError> {
        self.sysfs.virtual_functions(pf)
    }

    fn virtual_function(&self, address: PciAddress) -> Result<VirtualFunction, HostError> {
        self.sysfs.virtual_function(address)
    }

    fn pci_address_of(&self, netdev: &str) -> Result<PciAddress, HostError> {
        self.sysfs.pci_address_of(netdev)
    }

    fn pci_device(&self, address: PciAddress) -> Result<PciDevice, HostError> {
        self.sysfs.pci_device(address)
    }

    fn iommu_group(&self, address: PciAddress) -> Result<Option<IommuGroup>, HostError> {
        self.sysfs.iommu_group(address)
    }

    fn pf_link(&self, pf: &PhysicalFunction) -> Result<LinkState, HostError> {
        let link = self.netlink.link(pf.ifindex);
        let link = link.map_err(|source| HostError::Kernel {
            operation: Operation::ReadLink,
            target: format!("'{}' ({})", pf.netdev, pf.address),
            source,
        })?;
        Ok(link.state)
    }

    fn vf_state(&self, vf: &VirtualFunction) -> Result<VfState, HostError> {
        self.sysfs.existing(vf.address)?;
        let record = self.netlink.vf(vf.pf_ifindex, vf.number);
        let record = record.map_err(|error| Self::refused_vf(vf, Operation::ReadVf, error))?;
        let record = record.ok_or_else(|| HostError::VfNotListed {
            pf: vf.pf_netdev.clone(),
            number: vf.number,
        })?;
        let netdev = match self.sysfs.netdevs(vf.address)?.into_iter().next() {
            Some(netdev) => self.sysfs.mac(&netdev)?.map(|mac| (netdev, mac)),
            None => None,
        };
        Ok(VfState {
            mac: record.mac,
            vlan: record.vlan,
            qos: record.qos,
            vlan_protocol: record.protocol,
            spoof_check: record.spoof_check,
            trust: record.trust,
            link: record.link,
            min_rate: record.min_rate,
            max_rate: record.max_rate,
            rss_query: record.rss_query,
            driver: self.sysfs.driver(vf.address)?,
            netdev,
        })
    }

    fn vf_mac_is_given(&self, vf: &VirtualFunction) -> Result<Option<bool>, HostError> {
        match self.sysfs.netdevs(vf.address)?.first() {
            Some(netdev) => self.sysfs.mac_is_permanent(netdev),
            None => Ok(None),
        }
    }

    fn vf_abilities(&self, vf: &VirtualFunction) -> Result<VfAbilities, HostError> {
        let driver = self.sysfs.driver(vf.pf_address)?;
        Ok(driver.map_or(VfAbilities::ALL, |driver| VfAbilities::of_driver(&driver)))
    }

    fn set_vf(&self, vf: &VirtualFunction, setting: VfSetting) -> Result<(), HostError> {
        let set = self.netlink.set_vf(vf.pf_ifindex, vf.number, setting);
        set.map_err(|error| Self::refused_vf(vf, setting.operation(), error))
    }

    fn set_netdev_mac(&self, netdev: &str, mac: MacAddress) -> Result<(), HostError> {
        let set = self.netlink.set_mac(self.sysfs.ifindex(netdev)?, mac);
        set.map_err(|source| HostError::Kernel {
            operation: Operation::SetNetdevMac,
            target: format!("'{netdev}'"),
            source,
        })
    }

    fn vfio_holder(&self, address: PciAddress) -> Result<Option<VfioHolder>, HostError> {
        match self.sysfs.driver(address)? {
            Some(driver) if is_vfio(&driver) => self.holder_of_group(address),
            _ => Ok(None),
        }
    }

    fn vf_usage(&self, vf: &VirtualFunction) -> Result<Vec<Usage>, HostError> {
        self.usage_of(vf.address).map_err(|error| match error {
            HostError::Kernel { source, .. } => Self::refused_vf(vf, Operation::ReadUsage, source),
            error => error,
        })
    }

    fn vf_is_idle(&self, vf: &VirtualFunction) -> bool {
        self.is_known_idle(vf.address).unwrap_or(false)
    }

    fn best_vfio_driver(&self, address: PciAddress) -> Result<String, HostError> {
        let variant = self.modalias_driver(address)?;
        Ok(variant
            .filter(|name| name != "vfio_pci")
            .unwrap_or_else(|| String::from("vfio-pci")))
    }

    fn check_driver(&self, driver: &str) -> Result<(), HostError> {
        self.known_driver(driver)
    }

    fn bind(&self, address: PciAddress, driver: &str) -> Result<(), HostError> {
        self.bind_to(address, driver)
    }

    fn unbind(&self, address: PciAddress, expect: Option<&str>) -> Result<(), HostError> {
        self.give_back(address, expect)
    }

    fn reset(&self, address: PciAddress) -> Result<(), HostError> {
        let target = address.to_string();
        let writing = Reading {
            operation: Operation::Reset,
            target: &target,
        };
        let file = self.sysfs.existing(address)?.join("reset");
        let holder = self.sysfs.driver(address)?;
        // vfio resets by itself when the group is opened and closed.
        if holder.as_deref().is_some_and(is_vfio) || !file.exists() {
            return Ok(());
        }
        writing.write(&file, "1")
    }

    fn vfio_access(&self, group: u32) -> Result<Option<NodeAccess>, HostError> {
        self.access_to_group(group)
    }

    fn set_vfio_access(&self, group: u32, access: NodeAccess) -> Result<(), HostError> {
        self.give_access_to_group(group, access)
    }

    fn set_vf_count(&self, pf: &PhysicalFunction, count: u16) -> Result<(), HostError> {
        self.change_vf_count(pf, count)
    }

    fn boot_id(&self) -> Result<String, HostError> {
        let target = "the kernel's boot id";
        let file = self.paths.proc.join("sys/kernel/random/boot_id");
        let text = sysfs::inventory(target).text(&file)?;
        text.filter(|text| !text.is_empty())
            .ok_or_else(|| HostError::Malformed {
                target: target.to_owned(),
                what: format!("{} is not there", file.display()),
            })
    }

    fn watch(&self) -> Result<Box<dyn HostEvents>, HostError> {
        let events = LinuxEvents::open(self.agents.clone(), Arc::clone(&self.listener));
        let events = events.map_err(|source| HostError::Kernel {
            operation: Operation::Watch,
            target: String::from("the host"),
            source,
        })?;
        Ok(Box::new(events))
    }
}

/// vfio-pci, or one of its variants (`mlx5_vfio_pci`).
fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}
