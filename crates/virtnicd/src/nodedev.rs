//! Node devices: the host itself, its network cards with their VFs, and the network devices on
//! them, by libvirt's names. Nothing is kept: each call looks at the host as it is.

use std::sync::Arc;

use conf::{
    InterfaceState, MacAddress, NetCapability, NetKind, NetLink, NodeCapability, NodeDevice,
    NodeIommuGroup, NodeSriov, PciAddress, PciCapability, PciExpress, PciName, SystemCapability,
    SystemHardware, Uuid, net_device_name, node_device_name,
};
use host::{HostError, PciDevice, PhysicalFunction, SharedHost, Sriov};
use rpc::{Code, Domain, Error, NodeDev};

use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// What a look at the host gives.
type Seen<T> = std::result::Result<T, HostError>;

/// The class of network cards, the upper byte of a PCI class.
const CLASS_NETWORK: u32 = 0x02;

impl Daemon {
    /// The devices that pass the flags of a listing.
    pub(crate) async fn node_devices(&self, flags: u32) -> Result<Vec<NodeDev>> {
        let wanted = Wanted::from_flags(flags);
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
        then: impl FnOnce(&Devices, &Found, &str) -> Seen<T> + Send + 'static,
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
        match tokio::task::spawn_blocking(move || at(&devices)).await {
            Ok(outcome) => outcome.map_err(fault::host(Domain::NodeDevice)),
            Err(_) => Err(Error::new(
                Code::InternalError,
                Domain::NodeDevice,
                "the look at the host's devices broke off; the log says why",
            )),
        }
    }
}

/// Which devices a listing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    system: bool,
    pci: bool,
    net: bool,
}

impl Wanted {
    /// By the flags of libvirt's `virConnectListAllNodeDevices`. In each group of flags no flag at
    /// all asks for everything. All devices here are active, and none is one that was defined.
    fn from_flags(flags: u32) -> Self {
        const SYSTEM: u32 = 1;
        const PCI: u32 = 2;
        const NET: u32 = 0x10;
        const CAPABILITIES: u32 = 0x00ff_ffff;
        const PERSISTENT: u32 = 0x1000_0000;
        const TRANSIENT: u32 = 0x2000_0000;
        const INACTIVE: u32 = 0x4000_0000;
        const ACTIVE: u32 = 0x8000_0000;
        let passes = |group: u32, flag: u32| flags & group == 0 || flags & flag != 0;
        let any = passes(ACTIVE | INACTIVE, ACTIVE) && passes(PERSISTENT | TRANSIENT, TRANSIENT);
        Self {
            system: any && passes(CAPABILITIES, SYSTEM),
            pci: any && passes(CAPABILITIES, PCI),
            net: any && passes(CAPABILITIES, NET),
        }
    }
}

/// A device that is there.
#[derive(Debug)]
enum Found {
    /// The host itself.
    Computer,
    /// A network card, or a part of one.
    Pci(PciDevice),
    /// A network device.
    Net(Netdev),
}

/// A network device on a PCI function.
#[derive(Debug)]
struct Netdev {
    name: String,
    /// As far as the host tells it.
    mac: Option<MacAddress>,
    on: PciAddress,
}

impl Netdev {
    fn node_name(&self) -> String {
        match self.mac {
            Some(mac) => net_device_name(&self.name, mac),
            None => node_device_name("net", &self.name, None),
        }
    }
}

impl Found {
    /// Bridges between the processors and a card are no network devices: all cards hang on the
    /// host itself.
    fn parent(&self) -> Option<String> {
        match self {
            Self::Computer => None,
            Self::Pci(_) => Some(NodeDevice::COMPUTER.to_owned()),
            Self::Net(netdev) => Some(netdev.on.node_device_name()),
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
    fn names(&self, wanted: Wanted) -> Seen<Vec<String>> {
        let mut names = Vec::new();
        if wanted.system {
            names.push(NodeDevice::COMPUTER.to_owned());
        }
        if !wanted.pci && !wanted.net {
            return Ok(names);
        }
        for address in self.functions()? {
            if wanted.pci {
                names.push(address.node_device_name());
            }
            if wanted.net {
                let netdevs = self.netdevs(address)?;
                names.extend(netdevs.iter().map(Netdev::node_name));
            }
        }
        Ok(names)
    }

    /// Every PF, each followed by its VFs.
    fn functions(&self) -> Seen<Vec<PciAddress>> {
        let mut functions = Vec::new();
        for pf in self.host.physical_functions()? {
            functions.push(pf.address);
            let vfs = unless_gone(self.host.virtual_functions(&pf))?;
            functions.extend(vfs.iter().flatten().map(|vf| vf.address));
        }
        Ok(functions)
    }

    /// The network devices on a function; none if it is gone by now.
    fn netdevs(&self, on: PciAddress) -> Seen<Vec<Netdev>> {
        let Some(device) = unless_gone(self.host.pci_device(on))? else {
            return Ok(Vec::new());
        };
        let known = match (&device.sriov, device.netdevs.is_empty()) {
            (Sriov::Virtual { .. }, false) => self.vf_netdev(on)?,
            _ => None,
        };
        let mac_of = |name: &str| known.as_ref().filter(|(known, _)| known == name);
        let netdevs = device.netdevs.into_iter().map(|name| Netdev {
            mac: mac_of(&name).map(|(_, mac)| *mac),
            name,
            on,
        });
        Ok(netdevs.collect())
    }

    /// The VF's own network device and its MAC.
    fn vf_netdev(&self, address: PciAddress) -> Seen<Option<(String, MacAddress)>> {
        let Some(vf) = unless_gone(self.host.virtual_function(address))? else {
            return Ok(None);
        };
        let state = unless_gone(self.host.vf_state(&vf))?;
        Ok(state.and_then(|state| state.netdev))
    }

    fn find(&self, name: &str) -> Seen<Option<Found>> {
        if name == NodeDevice::COMPUTER {
            return Ok(Some(Found::Computer));
        }
        if name.starts_with("net_") {
            return Ok(self.find_netdev(name)?.map(Found::Net));
        }
        let Some(address) = pci_address(name) else {
            return Ok(None);
        };
        let device = unless_gone(self.host.pci_device(address))?;
        let card = device.filter(|device| device.class >> 16 == CLASS_NETWORK);
        Ok(card.map(Found::Pci))
    }

    fn find_netdev(&self, name: &str) -> Seen<Option<Netdev>> {
        const MAC: usize = "_52_54_00_00_00_01".len();
        let rest = name.strip_prefix("net_").unwrap_or_default();
        let without_mac = rest.len().checked_sub(MAC).and_then(|end| rest.get(..end));
        // Nearly always the name says where to look.
        for interface in without_mac.into_iter().chain([rest]) {
            if let Some(address) = unless_gone(self.host.pci_address_of(interface))? {
                let netdevs = self.netdevs(address)?;
                let found = netdevs
                    .into_iter()
                    .find(|netdev| netdev.node_name() == name);
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        // A `_` may stand for another character of the interface's name.
        if !without_mac.unwrap_or(rest).contains('_') {
            return Ok(None);
        }
        for address in self.functions()? {
            let netdevs = self.netdevs(address)?;
            let found = netdevs
                .into_iter()
                .find(|netdev| netdev.node_name() == name);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn describe(&self, found: &Found, name: &str) -> Seen<NodeDevice> {
        let (path, driver, capability) = match found {
            Found::Computer => (None, None, NodeCapability::System(self.system())),
            Found::Pci(device) => (
                Some(format!("/sys/bus/pci/devices/{}", device.address)),
                device.driver.clone(),
                NodeCapability::Pci(self.pci(device)?),
            ),
            Found::Net(netdev) => (
                Some(format!("/sys/class/net/{}", netdev.name)),
                None,
                NodeCapability::Net(self.net(netdev)?),
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

    fn net(&self, netdev: &Netdev) -> Seen<NetCapability> {
        let state = match unless_gone(self.host.physical_function(&netdev.name))? {
            Some(pf) => Some(self.link_state(&pf)?),
            None => None,
        };
        Ok(NetCapability {
            interface: netdev.name.clone(),
            address: netdev.mac.map(|mac| mac.to_string()),
            link: NetLink { speed: None, state },
            features: Vec::new(),
            kind: Some(NetKind::Wired),
        })
    }

    fn link_state(&self, pf: &PhysicalFunction) -> Seen<InterfaceState> {
        let link = self.host.pf_link(pf)?;
        Ok(if link.up && link.carrier {
            InterfaceState::Up
        } else {
            InterfaceState::Down
        })
    }
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
mod tests {
    use host::{Host as _, SimulatedHost, SimulatedShape};

    use super::*;

    const PF: &str = "pci_0000_01_00_0";

    fn simulated(shape: &str) -> (SimulatedHost, Devices) {
        let host = SimulatedHost::new(shape.parse::<SimulatedShape>().unwrap());
        let devices = Devices {
            host: Arc::new(host.clone()),
            uuid: Some(Uuid::from_u128(1)),
            in_sysfs: false,
        };
        (host, devices)
    }

    fn names(devices: &Devices, flags: u32) -> Vec<String> {
        devices.names(Wanted::from_flags(flags)).unwrap()
    }

    fn describe(devices: &Devices, name: &str) -> NodeDevice {
        let found = devices.find(name).unwrap().unwrap();
        devices.describe(&found, name).unwrap()
    }

    #[test]
    fn every_listed_device_is_found_by_its_name_and_its_parent_is_listed() {
        let (_, devices) = simulated("pfs=2,vfs=5");
        let all = names(&devices, 0);
        assert_eq!(all.len(), 1 + 2 * (2 + 5), "{all:?}");
        for name in &all {
            let device = describe(&devices, name);
            assert_eq!(device.name, *name);
            assert_eq!(NodeDevice::parse(&device.to_xml()).unwrap(), device);
            match device.parent {
                Some(parent) => assert!(all.contains(&parent), "{parent} of {name}"),
                None => assert_eq!(name, NodeDevice::COMPUTER),
            }
        }
    }

    #[test]
    fn flags_choose_by_kind_and_state() {
        const ACTIVE: u32 = 0x8000_0000;
        const INACTIVE: u32 = 0x4000_0000;
        let (_, devices) = simulated("pfs=1,vfs=2");
        assert_eq!(names(&devices, ACTIVE | 1), [NodeDevice::COMPUTER]);
        let cards = names(&devices, ACTIVE | 2);
        assert_eq!(cards.len(), 3);
        assert!(cards.iter().all(|name| name.starts_with("pci_")));
        assert_eq!(names(&devices, ACTIVE | INACTIVE | 0x10).len(), 3);
        assert_eq!(names(&devices, 2 | 0x10).len(), 6);
        // USB devices, and devices that are not there.
        assert_eq!(names(&devices, ACTIVE | 4), [""; 0]);
        assert_eq!(names(&devices, INACTIVE), [""; 0]);
    }

    #[test]
    fn a_pf_tells_its_vfs_and_a_vf_its_pf() {
        let (_, devices) = simulated("pfs=1,vfs=2");
        let pf = describe(&devices, PF);
        let pci = pf.pci().unwrap().clone();
        let NodeSriov::PhysicalFunction { vfs, max: 8 } = &pci.sriov else {
            panic!("{pci:?}")
        };
        assert_eq!(vfs.len(), 2);
        assert!(pf.driver.is_some());
        let vf = describe(&devices, &vfs[0].node_device_name());
        let vf = vf.pci().unwrap();
        assert_eq!(vf.sriov, NodeSriov::VirtualFunctionOf(pci.address));
        let group = vf.iommu_group.as_ref().unwrap();
        assert_eq!(group.members, [vfs[0]]);
    }

    #[test]
    fn a_vf_that_is_lent_has_no_network_device() {
        let (host, devices) = simulated("pfs=1,vfs=2");
        let pf = host.physical_function("sim0").unwrap();
        let vf = host.virtual_functions(&pf).unwrap().remove(0);
        let (netdev, mac) = host.vf_state(&vf).unwrap().netdev.unwrap();
        let name = net_device_name(&netdev, mac);
        assert_eq!(describe(&devices, &name).net().unwrap().mac(), Some(mac));
        host.bind(vf.address, "vfio-pci").unwrap();
        assert!(devices.find(&name).unwrap().is_none());
        assert!(!names(&devices, 0x10).contains(&name));
        let card = describe(&devices, &vf.address.node_device_name());
        assert_eq!(card.driver.as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn names_of_nothing_find_nothing() {
        let (_, devices) = simulated("pfs=1,vfs=2");
        for name in [
            "",
            "pci",
            "pci_",
            "pci_0000_01_00_7",
            "pci_0000_01_00_0_",
            "pci_0_1_0_0",
            "pci_0000_01_00_00",
            "pci_0000_01_00_+0",
            "pci_ffffffffff_01_00_0",
            "net_",
            "net_sim0_52_54_00_00_00_01",
            "net_sim9",
            "net_é_52_54_00_00_00_01",
            "usb_1_1",
        ] {
            assert!(devices.find(name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn the_link_of_a_pf_is_told() {
        let (host, devices) = simulated("pfs=1,vfs=2");
        let pf = host.physical_function("sim0").unwrap();
        let netdev = names(&devices, 0x10).remove(0);
        let state = || describe(&devices, &netdev).net().unwrap().link.state;
        assert_eq!(state(), Some(InterfaceState::Up));
        host.set_pf_up(pf.address, false);
        assert_eq!(state(), Some(InterfaceState::Down));
    }
}
