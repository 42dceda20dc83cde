//! Node devices: the host itself, its network cards with their VFs, and all network devices, by
//! libvirt's names. Nothing is kept: each call looks at the host as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use conf::{
    InterfaceState, NetCapability, NetKind, NetLink, NodeCapability, NodeDevice, NodeIommuGroup,
    NodeSriov, PciAddress, PciCapability, PciExpress, PciName, SystemCapability, SystemHardware,
    Uuid, net_device_name,
};
use host::{HostError, LinkState, NicAbility, PciDevice, SharedHost, Sriov};
use rpc::flags::ListNodeDevices;
use rpc::{Code, Domain, Error, NodeDev};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// What a look at the host gives.
type Seen<T> = std::result::Result<T, HostError>;

/// The class of network cards, the upper byte of a PCI class.
const CLASS_NETWORK: u32 = 0x02;
/// A card that sorts frames for macvlans by itself (ethtool's `l2-fwd-offload`). libvirt knows no
/// such feature, and its schema admits no digits in their names.
const MACVLAN_OFFLOAD: &str = "macvlan-offload";

impl Daemon {
    /// The devices that pass the flags of a listing.
    pub(crate) async fn node_devices(&self, flags: ListNodeDevices) -> Result<Vec<NodeDev>> {
        let wanted = DeviceFilter::from_flags(flags);
        let names = self.look(move |devices| devices.names(wanted)).await?;
        Ok(names.into_iter().map(|name| NodeDev { name }).collect())
    }

    /// The device of that name, if there is one.
    pub(crate) async fn node_device(&self, name: String) -> Result<NodeDev> {
        let known = self.find(name, |_, _, name| Ok(name.to_owned())).await?;
        Ok(NodeDev { name: known })
    }

    /// The device's document.
    pub(crate) async fn node_device_xml(&self, name: String) -> Result<String> {
        let device = self.find(name, Devices::describe).await?;
        Ok(device.to_xml())
    }

    /// The name of the device that it sits on; the host itself sits on none.
    pub(crate) async fn node_device_parent(&self, name: String) -> Result<Option<String>> {
        self.find(name, |_, found, _| Ok(found.parent())).await
    }

    /// Does something with the device of that name.
    async fn find<T: Send + 'static>(
        &self,
        name: String,
        then: impl FnOnce(&Devices, &NodeSubject, &str) -> Seen<T> + Send + 'static,
    ) -> Result<T> {
        let missing = format!("no node device with matching name '{name}'");
        let found = self.look(move |devices| match devices.find(&name)? {
            Some(found) => unless_gone(then(devices, &found, &name)),
            None => Ok(None),
        });
        found
            .await?
            .ok_or_else(|| Error::new(Code::NoNodeDevice, Domain::NodeDevice, missing))
    }

    /// Looks at the host, on a thread that may wait for it.
    async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&Devices) -> Seen<T> + Send + 'static,
    ) -> Result<T> {
        let devices = Devices {
            host: Arc::clone(&self.host),
            uuid: self.node.uuid.as_deref().and_then(|uuid| uuid.parse().ok()),
            in_sysfs: !self.simulated,
        };
        let seen = blocking(Domain::NodeDevice, move || at(&devices)).await?;
        seen.map_err(fault::host(Domain::NodeDevice))
    }
}

/// Which devices a listing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DeviceFilter {
    system: bool,
    pci: bool,
    net: bool,
}

impl DeviceFilter {
    /// By the flags of libvirt's `virConnectListAllNodeDevices`. In each group of flags no flag at
    /// all asks for everything. All devices here are active, and none is one that was defined.
    fn from_flags(flags: ListNodeDevices) -> Self {
        type Flags = ListNodeDevices;
        let passes = |group, flag| !flags.intersects(group) || flags.contains(flag);
        let any = passes(Flags::ACTIVE | Flags::INACTIVE, Flags::ACTIVE)
            && passes(Flags::PERSISTENT | Flags::TRANSIENT, Flags::TRANSIENT);
        Self {
            system: any && passes(Flags::CAPABILITIES, Flags::SYSTEM),
            pci: any && passes(Flags::CAPABILITIES, Flags::PCI_DEV),
            net: any && passes(Flags::CAPABILITIES, Flags::NET),
        }
    }
}

/// A device that is there.
#[derive(Debug)]
enum NodeSubject {
    /// The host itself.
    Computer,
    /// A network card, or a part of one.
    Pci(PciDevice),
    /// A network device.
    Net(Netdev),
}

/// A network device.
#[derive(Debug)]
struct Netdev {
    link: host::Netdev,
    /// The network card that it is on.
    card: Option<PciAddress>,
}

impl NodeSubject {
    /// Bridges between the processors and a card are no network devices: all cards hang on the
    /// host itself.
    fn parent(&self) -> Option<String> {
        match self {
            Self::Computer => None,
            Self::Pci(_) => Some(NodeDevice::COMPUTER.to_owned()),
            Self::Net(netdev) => Some(match netdev.card {
                Some(card) => card.node_device_name(),
                None => NodeDevice::COMPUTER.to_owned(),
            }),
        }
    }
}

/// The host's devices; each method waits for the kernel.
struct Devices {
    host: SharedHost,
    /// The host's identity.
    uuid: Option<Uuid>,
    /// Whether the devices can be found in this machine's sysfs.
    in_sysfs: bool,
}

impl Devices {
    /// The names of the wanted devices: the host, then each card with what is on it.
    fn names(&self, wanted: DeviceFilter) -> Seen<Vec<String>> {
        let mut names = Vec::new();
        if wanted.system {
            names.push(NodeDevice::COMPUTER.to_owned());
        }
        if !wanted.pci && !wanted.net {
            return Ok(names);
        }
        let netdevs = self.host.netdevs()?;
        if wanted.pci {
            let mut functions = self.functions()?;
            for netdev in &netdevs {
                functions.extend(self.card_of(netdev)?);
            }
            names.extend(functions.into_iter().map(PciAddress::node_device_name));
        }
        if wanted.net {
            names.extend(netdevs.iter().map(node_name));
        }
        Ok(names)
    }

    /// Every PF and VF.
    fn functions(&self) -> Seen<BTreeSet<PciAddress>> {
        let mut functions = BTreeSet::new();
        for pf in self.host.physical_functions()? {
            functions.insert(pf.address);
            let vfs = unless_gone(self.host.virtual_functions(&pf))?;
            functions.extend(vfs.iter().flatten().map(|vf| vf.address));
        }
        Ok(functions)
    }

    /// The function at that address, if it is a network card.
    fn card(&self, address: PciAddress) -> Seen<Option<PciDevice>> {
        let device = unless_gone(self.host.pci_device(address))?;
        Ok(device.filter(|device| device.class >> 16 == CLASS_NETWORK))
    }

    fn card_of(&self, netdev: &host::Netdev) -> Seen<Option<PciAddress>> {
        match netdev.pci {
            Some(address) => Ok(self.card(address)?.map(|card| card.address)),
            None => Ok(None),
        }
    }

    fn find(&self, name: &str) -> Seen<Option<NodeSubject>> {
        if name == NodeDevice::COMPUTER {
            return Ok(Some(NodeSubject::Computer));
        }
        if name.starts_with("net_") {
            return Ok(self.find_netdev(name)?.map(NodeSubject::Net));
        }
        let Some(address) = pci_address(name) else {
            return Ok(None);
        };
        Ok(self.card(address)?.map(NodeSubject::Pci))
    }

    fn find_netdev(&self, name: &str) -> Seen<Option<Netdev>> {
        const MAC: usize = "_52_54_00_00_00_01".len();
        let rest = name.strip_prefix("net_").unwrap_or_default();
        let interface = rest.len().checked_sub(MAC).and_then(|end| rest.get(..end));
        let Some(interface) = interface else {
            return Ok(None);
        };
        let is_it = |link: &host::Netdev| node_name(link) == name;
        // Nearly always the name says where to look; but a `_` may stand for another character.
        let named = unless_gone(self.host.netdev(interface))?.filter(is_it);
        let link = match named {
            None if interface.contains('_') => self.host.netdevs()?.into_iter().find(is_it),
            named => named,
        };
        match link {
            Some(link) => Ok(Some(Netdev {
                card: self.card_of(&link)?,
                link,
            })),
            None => Ok(None),
        }
    }

    fn describe(&self, found: &NodeSubject, name: &str) -> Seen<NodeDevice> {
        let (path, driver, capability) = match found {
            NodeSubject::Computer => (None, None, NodeCapability::System(self.system())),
            NodeSubject::Pci(device) => (
                Some(format!("/sys/bus/pci/devices/{}", device.address)),
                device.driver.clone(),
                NodeCapability::Pci(self.pci(device)?),
            ),
            NodeSubject::Net(netdev) => (
                Some(format!("/sys/class/net/{}", netdev.link.name)),
                None,
                NodeCapability::Net(self.net(&netdev.link)?),
            ),
        };
        Ok(NodeDevice {
            name: name.to_owned(),
            path: path.filter(|_| self.in_sysfs),
            devnode: None,
            devnode_links: Vec::new(),
            parent: found.parent(),
            driver,
            capabilities: vec![capability],
        })
    }

    fn system(&self) -> SystemCapability {
        SystemCapability {
            hardware: SystemHardware {
                uuid: self.uuid.unwrap_or_default(),
                ..SystemHardware::default()
            },
            ..SystemCapability::default()
        }
    }

    fn pci(&self, device: &PciDevice) -> Seen<PciCapability> {
        let group = self.host.iommu_group(device.address)?;
        let name = |id| PciName { id, name: None };
        Ok(PciCapability {
            class: Some(device.class),
            address: device.address,
            product: name(device.device),
            vendor: name(device.vendor),
            sriov: match &device.sriov {
                Sriov::None => NodeSriov::None,
                Sriov::Physical { vfs, max } => NodeSriov::PhysicalFunction {
                    vfs: vfs.clone(),
                    max: u32::from(*max),
                },
                Sriov::Virtual { pf } => NodeSriov::VirtualFunctionOf(*pf),
            },
            other: Vec::new(),
            iommu_group: group.map(|group| NodeIommuGroup {
                number: group.number,
                members: group
                    .members
                    .into_iter()
                    .map(|(member, _)| member)
                    .collect(),
            }),
            numa_node: device.numa_node.map(u32::from),
            express: device.is_express.then(PciExpress::default),
        })
    }

    fn net(&self, link: &host::Netdev) -> Seen<NetCapability> {
        let offloads = self.host.nic_ability(link)? == NicAbility::MacvlanOffload { on: true };
        Ok(NetCapability {
            interface: link.name.to_string(),
            address: Some(link.mac.to_string()),
            link: NetLink {
                speed: None,
                state: Some(state(link.state)),
            },
            features: (offloads.then(|| MACVLAN_OFFLOAD.to_owned()))
                .into_iter()
                .collect(),
            kind: Some(NetKind::Wired),
        })
    }
}

fn state(link: LinkState) -> InterfaceState {
    if link.up && link.carrier {
        InterfaceState::Up
    } else {
        InterfaceState::Down
    }
}

/// Its name among node devices.
fn node_name(link: &host::Netdev) -> String {
    net_device_name(link.name.as_str(), link.mac)
}

/// None for a device that is not there, or not there any more, or not of that kind.
fn unless_gone<T>(outcome: Seen<T>) -> Seen<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(
            HostError::NoPciDevice(_)
            | HostError::NoNetdev(_)
            | HostError::NoPfNetdev(_)
            | HostError::NotPci(_)
            | HostError::NotPhysicalFunction(_)
            | HostError::NotVirtualFunction(_)
            | HostError::VfNotListed { .. },
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address in a name such as `pci_0000_03_10_2`.
fn pci_address(name: &str) -> Option<PciAddress> {
    let mut parts = name.strip_prefix("pci_")?.split('_');
    let mut part = || u32::from_str_radix(parts.next()?, 16).ok();
    let (domain, bus, slot, function) = (part()?, part()?, part()?, part()?);
    let small = |number: u32| u8::try_from(number).ok();
    let address = PciAddress::new(domain, small(bus)?, small(slot)?, small(function)?)?;
    // Only the one way to write it is its name.
    (address.node_device_name() == name).then_some(address)
}

#[cfg(test)]
mod tests;
