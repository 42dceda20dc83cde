//! The documents of node devices.

use conf::xml::{Keyword as _, RawXml};
use conf::{
    InterfaceState, NetCapability, NetKind, NetLink, NodeCapability, NodeDevice, NodeIommuGroup,
    NodeSriov, PciCapability, PciName, SystemCapability, SystemHardware,
};
use host::{LinkState, NicAbility, PciDetails, PciDevice, Sriov, UsbKind};

use super::devices::{Devices, NodeSubject, Seen, parent_name};

/// A card that sorts frames for macvlans by itself (ethtool's `l2-fwd-offload`). libvirt knows no
/// such feature, and its schema admits no digits in their names.
const MACVLAN_OFFLOAD: &str = "macvlan-offload";

impl Devices {
    /// The document of that device.
    pub(super) fn describe(&self, found: &NodeSubject, name: &str) -> Seen<NodeDevice> {
        let mut device = NodeDevice {
            name: name.to_owned(),
            path: None,
            devnode: None,
            devnode_links: Vec::new(),
            parent: None,
            driver: None,
            capabilities: Vec::new(),
        };
        let (place, capability) = match found {
            NodeSubject::Computer => (None, NodeCapability::System(self.system())),
            NodeSubject::Pci(pci) => {
                let details = self.host.pci_details(pci.address)?;
                device.driver.clone_from(&pci.driver);
                let capability = self.pci(pci, &details)?;
                (Some(details.place), NodeCapability::Pci(capability))
            }
            NodeSubject::Net(link) => {
                let node = self.host.netdev_node(link)?;
                let capability = self.net(link, &node)?;
                (Some(node.place), NodeCapability::Net(capability))
            }
            NodeSubject::Usb(name) => {
                let node = self.host.usb_node(name)?;
                (device.driver, device.devnode) = (node.driver, node.devnode);
                let capability = match node.kind {
                    UsbKind::Device(usb) => NodeCapability::UsbDevice(usb),
                    UsbKind::Interface(usb) => NodeCapability::UsbInterface(usb),
                };
                (Some(node.place), capability)
            }
        };
        if let Some(place) = place {
            device.parent = Some(parent_name(&place.parent));
            device.path = Some(place.path);
        }
        device.capabilities.push(capability);
        Ok(device)
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

    fn pci(&self, device: &PciDevice, details: &PciDetails) -> Seen<PciCapability> {
        let group = self.host.iommu_group(device.address)?;
        let name = |id, name: &Option<String>| PciName {
            id,
            name: name.clone(),
        };
        Ok(PciCapability {
            class: Some(device.class),
            address: device.address,
            product: name(device.device, &details.product_name),
            vendor: name(device.vendor, &details.vendor_name),
            sriov: match &device.sriov {
                Sriov::None => NodeSriov::None,
                Sriov::Physical { vfs, max } => NodeSriov::PhysicalFunction {
                    vfs: vfs.clone(),
                    max: u32::from(*max),
                },
                Sriov::Virtual { pf } => NodeSriov::VirtualFunctionOf(*pf),
            },
            other: (header(device.class).into_iter()).collect(),
            iommu_group: group.map(|group| NodeIommuGroup {
                number: group.number,
                members: group
                    .members
                    .into_iter()
                    .map(|(member, _)| member)
                    .collect(),
            }),
            numa_node: device.numa_node.map(u32::from),
            express: details.express.clone(),
        })
    }

    fn net(&self, link: &host::Netdev, node: &host::NetdevNode) -> Seen<NetCapability> {
        let offloads = self.host.nic_ability(link)? == NicAbility::MacvlanOffload { on: true };
        let told = node.state.as_deref().and_then(InterfaceState::from_word);
        let features = node.features.iter().copied();
        let features = features.chain(offloads.then_some(MACVLAN_OFFLOAD));
        Ok(NetCapability {
            interface: link.name.to_string(),
            address: Some(link.mac.to_string()),
            link: NetLink {
                speed: node.speed,
                state: Some(told.unwrap_or_else(|| state(link.state))),
            },
            features: features.map(str::to_owned).collect(),
            kind: Some(match node.wireless {
                true => NetKind::Wireless,
                false => NetKind::Wired,
            }),
        })
    }
}

/// What the header of its configuration space says of a bridge.
fn header(class: u32) -> Option<RawXml> {
    let kind = match class >> 8 {
        0x0604 => "pci-bridge",
        0x0607 => "cardbus-bridge",
        _ => return None,
    };
    Some(RawXml(format!("<capability type='{kind}'/>")))
}

fn state(link: LinkState) -> InterfaceState {
    if link.up && link.carrier {
        InterfaceState::Up
    } else {
        InterfaceState::Down
    }
}
