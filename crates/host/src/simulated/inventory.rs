//! The simulated host's devices of every kind: each PF below a root port of its own, and a USB disk.

use conf::{
    PciAddress, PciExpress, PciExpressLink, PciLinkSpeed, UsbDeviceCapability,
    UsbInterfaceCapability, UsbName,
};

use super::SimulatedHost;
use super::net::Who;
use super::state::{Place, State, Stop, Target, is_vfio};
use crate::{
    HostError, HostEvent, Inventory, Netdev, NetdevNode, NodeParent, NodePlace, Operation,
    PciDetails, PciDevice, Sriov, Usage, UsbKind, UsbNode,
};

/// The slot of the first root port; NICs without VFs are below it.
const FIRST_PORT_SLOT: u8 = 0x10;
const ROOT: &str = "/sys/devices/pci0000:00";
const USB_ROOT: &str = "/sys/devices/platform/usb1";
const USB_BUS: u32 = 1;
/// The disk's number on its bus; the root hub is 1.
const USB_DISK: u32 = 2;

impl SimulatedHost {
    /// Lets the host use a USB device in those ways; none: it leaves it alone. There is one disk: 2 on
    /// bus 1.
    pub fn set_usb_usage(&self, bus: u32, device: u32, usages: Vec<Usage>) {
        self.lock().usb_usages.insert((bus, device), usages);
    }

    /// Something happens to the USB device of that name, as far as anybody is told.
    pub fn touch_usb(&self, name: &str) {
        self.lock()
            .watchers
            .send(&HostEvent::UsbChanged(name.to_owned()));
    }
}

impl State {
    /// The root port above that PF.
    fn port_of(pf: u16) -> PciAddress {
        let slot = u8::try_from(pf / 8).unwrap_or(0) + FIRST_PORT_SLOT;
        let function = u8::try_from(pf % 8).unwrap_or(0);
        PciAddress::new(0, 0, slot, function).unwrap_or_default()
    }

    /// A root port, if that is what sits there.
    pub(super) fn root_port(&self, address: PciAddress) -> Option<PciDevice> {
        let is_port = (0..self.shape.pfs).any(|pf| Self::port_of(pf) == address);
        (is_port && !self.places.contains_key(&address)).then(|| PciDevice {
            address,
            vendor: 0x8086,
            device: 0x3408,
            class: 0x06_0400,
            driver: Some(String::from("pcieport")),
            netdevs: Vec::new(),
            iommu_group: None,
            numa_node: None,
            is_express: true,
            sriov: Sriov::None,
        })
    }

    fn pci_place(&self, address: PciAddress) -> Result<NodePlace, HostError> {
        if self.root_port(address).is_some() {
            return Ok(NodePlace {
                path: format!("{ROOT}/{address}"),
                parent: NodeParent::Computer,
            });
        }
        Ok(match self.place(address)? {
            Place::Pf(pf) | Place::Vf(pf, _) => {
                let port = Self::port_of(pf);
                NodePlace {
                    path: format!("{ROOT}/{port}/{address}"),
                    parent: NodeParent::Pci(port),
                }
            }
            Place::Plain => NodePlace {
                path: format!("{ROOT}/{address}"),
                parent: NodeParent::Computer,
            },
        })
    }

    fn netdev_place(&self, name: &str) -> Result<NodePlace, HostError> {
        let index = self
            .index_of(name)
            .ok_or_else(|| HostError::NoNetdev(name.to_owned()))?;
        Ok(match self.pci_of(Target::Netdev(index)) {
            Some(address) => NodePlace {
                path: format!("{}/net/{name}", self.pci_place(address)?.path),
                parent: NodeParent::Pci(address),
            },
            None => NodePlace {
                path: format!("/sys/devices/virtual/net/{name}"),
                parent: NodeParent::Computer,
            },
        })
    }
}

impl Inventory for SimulatedHost {
    fn pci_functions(&self) -> Result<Vec<PciAddress>, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            let ports = (0..state.shape.pfs).map(State::port_of);
            let mut all: Vec<_> = state.places.keys().copied().chain(ports).collect();
            all.sort_unstable();
            all.dedup();
            Ok(all)
        })
    }

    fn pci_place(&self, address: PciAddress) -> Result<NodePlace, HostError> {
        self.call(Operation::ReadInventory, Some(address), |state, _| {
            Ok(state.pci_place(address)?)
        })
    }

    fn pci_details(&self, address: PciAddress) -> Result<PciDetails, HostError> {
        self.call(Operation::ReadInventory, Some(address), |state, _| {
            let product = match (state.root_port(address), state.places.get(&address)) {
                (Some(_), _) => "5520/5500/X58 I/O Hub PCI Express Root Port 1",
                (None, Some(Place::Vf(..))) => "82576 Virtual Function",
                (None, Some(Place::Plain)) => "82574L Gigabit Network Connection",
                (None, _) => "82576 Gigabit Network Connection",
            };
            // A VF has no link of its own.
            let is_vf = matches!(state.places.get(&address), Some(Place::Vf(..)));
            let link = |port| PciExpressLink {
                port,
                speed: (!is_vf).then_some(PciLinkSpeed::Gt2_5),
                width: if is_vf { 0 } else { 4 },
            };
            Ok(PciDetails {
                place: state.pci_place(address)?,
                vendor_name: Some(String::from("Intel Corporation")),
                product_name: Some(product.to_owned()),
                express: Some(PciExpress {
                    capable: Some(link(Some(0))),
                    status: Some(link(None)),
                }),
                can_reset: state.root_port(address).is_none(),
            })
        })
    }

    fn netdev_place(&self, netdev: &str) -> Result<NodePlace, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            Ok(state.netdev_place(netdev)?)
        })
    }

    fn netdev_node(&self, netdev: &Netdev) -> Result<NetdevNode, HostError> {
        let target = Target::Netdev(netdev.index);
        self.call(Operation::ReadNetdev, target, |state, _| {
            let name = netdev.name.as_str();
            let gone = || HostError::NoNetdev(name.to_owned());
            let link = state.link_of(netdev.index).ok_or_else(gone)?;
            let is_up = link.up && link.carrier;
            let is_card = match state.who(netdev.index) {
                Some(Who::Pf(_) | Who::Vf(..)) => true,
                Some(Who::Made) => false,
                None => return Err(gone().into()),
            };
            Ok(NetdevNode {
                place: state.netdev_place(name)?,
                state: Some(if is_up { "up" } else { "down" }.to_owned()),
                speed: (is_up && is_card).then_some(1000),
                features: match is_card {
                    true => vec!["rx", "tx", "sg", "tso", "gso", "gro", "rxvlan", "txvlan"],
                    false => Vec::new(),
                },
                wireless: false,
            })
        })
    }

    fn usb_names(&self) -> Result<Vec<String>, HostError> {
        self.call(Operation::ReadInventory, None, |_, _| {
            Ok(["1-1", "1-1:1.0", "usb1"].map(str::to_owned).to_vec())
        })
    }

    fn usb_place(&self, name: &str) -> Result<NodePlace, HostError> {
        self.call(Operation::ReadInventory, None, |_, _| Ok(usb_place(name)?))
    }

    fn usb_node(&self, name: &str) -> Result<UsbNode, HostError> {
        self.call(Operation::ReadInventory, None, |_, _| {
            let place = usb_place(name)?;
            if name.contains(':') {
                let disk = UsbInterfaceCapability {
                    number: 0,
                    class: 8,
                    subclass: 6,
                    protocol: 80,
                    description: None,
                };
                return Ok(UsbNode {
                    place,
                    driver: Some(String::from("usb-storage")),
                    devnode: None,
                    kind: UsbKind::Interface(disk),
                });
            }
            let (device, vendor, product) = match name {
                "usb1" => (1, (0x1d6b, "Linux Foundation"), (0x0002, "2.0 root hub")),
                _ => (USB_DISK, (0x0781, "SanDisk Corp."), (0x5581, "Ultra")),
            };
            let named = |(id, name): (u16, &str)| UsbName {
                id: Some(id),
                name: Some(name.to_owned()),
            };
            Ok(UsbNode {
                place,
                driver: Some(String::from("usb")),
                devnode: Some(format!("/dev/bus/usb/{USB_BUS:03}/{device:03}")),
                kind: UsbKind::Device(UsbDeviceCapability {
                    bus: USB_BUS,
                    device,
                    product: named(product),
                    vendor: named(vendor),
                }),
            })
        })
    }

    fn pci_usage(&self, address: PciAddress) -> Result<Vec<Usage>, HostError> {
        self.call(Operation::ReadUsage, Some(address), |state, _| {
            if state.root_port(address).is_some() {
                return Ok(Vec::new());
            }
            let driver = state.driver(address)?;
            if driver.is_some_and(|driver| is_vfio(&driver)) {
                let group = state.group(address)?;
                let held = state.held_groups.contains(&group);
                return Ok(held
                    .then(|| Usage::VfioOpen(super::kernel::holder(group)))
                    .into_iter()
                    .collect());
            }
            let mut usages = state.usages.get(&address).cloned().unwrap_or_default();
            for netdev in super::kernel::pci_device(state, address)?.netdevs {
                if let Some(index) = state.index_of(&netdev) {
                    let told = state.net.usages.get(&index).cloned().unwrap_or_default();
                    usages.extend(told);
                    usages.extend(state.stacked_on(index, true));
                }
            }
            Ok(usages)
        })
    }

    fn usb_usage(&self, bus: u32, device: u32) -> Result<Vec<Usage>, HostError> {
        self.call(Operation::ReadUsage, None, |state, _| {
            let is_own = bus == USB_BUS && (1..=USB_DISK).contains(&device);
            if !is_own && !state.usb.has(bus, device) {
                return Err(HostError::NoUsbDevice(format!("{bus}-{device}")).into());
            }
            Ok(state
                .usb_usages
                .get(&(bus, device))
                .cloned()
                .unwrap_or_default())
        })
    }

    fn rebind(&self, address: PciAddress) -> Result<Option<String>, HostError> {
        self.call(Operation::Unbind, Some(address), |state, partial| {
            state.override_driver(address, None)?;
            state.take_from_driver(address)?;
            if partial {
                return Ok::<_, Stop>(None);
            }
            state.probe(address)?;
            Ok(state.driver(address)?.map(Into::into))
        })
    }
}

fn usb_place(name: &str) -> Result<NodePlace, HostError> {
    let (path, parent) = match name {
        "usb1" => (USB_ROOT.to_owned(), NodeParent::Computer),
        "1-1" => (
            format!("{USB_ROOT}/1-1"),
            NodeParent::Usb("usb1".to_owned()),
        ),
        "1-1:1.0" => (
            format!("{USB_ROOT}/1-1/1-1:1.0"),
            NodeParent::Usb("1-1".to_owned()),
        ),
        _ => return Err(HostError::NoUsbDevice(name.to_owned())),
    };
    Ok(NodePlace { path, parent })
}
