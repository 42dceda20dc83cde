//! Node devices: the host itself, its PCI functions, network devices and USB devices, by libvirt's
//! names. Nothing is kept: each call looks at the host as it is, and a list at no device of it.

use std::sync::Arc;

use conf::{NodeDevice, PciAddress, Uuid, net_device_name, node_device_name};
use host::{HostError, NodeParent, PciDevice, SharedHost};
use rpc::flags::ListNodeDevices;
use rpc::{Code, Domain, Error, NodeDev};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// What a look at the host gives.
pub(super) type Seen<T> = std::result::Result<T, HostError>;

impl Daemon {
    /// The devices that pass the flags of a listing.
    pub(crate) async fn node_devices(&self, flags: ListNodeDevices) -> Result<Vec<NodeDev>> {
        let wanted = DeviceFilter::from_flags(flags);
        let names = self.look(move |devices| devices.names(wanted)).await?;
        Ok(names.into_iter().map(|name| NodeDev { name }).collect())
    }

    /// The devices that can do that, by libvirt's word for it; all without one. What nobody lists by
    /// that word there is none of.
    pub(crate) async fn node_devices_that(&self, can: Option<&str>) -> Result<Vec<NodeDev>> {
        let wanted = match can {
            None => ListNodeDevices::NONE,
            Some(word) => match ListNodeDevices::of_capability(word) {
                Some(flag) => flag,
                None => return Ok(Vec::new()),
            },
        };
        self.node_devices(wanted).await
    }

    /// The words for what a device can do.
    pub(crate) async fn node_device_capabilities(&self, name: String) -> Result<Vec<String>> {
        let word = |_: &Devices, found: &NodeSubject, _: &str| Ok(found.capability());
        Ok(vec![self.find(name, word).await?.to_owned()])
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
        self.find(name, |devices, found, _| devices.parent(found))
            .await
    }

    /// Does something with the device of that name.
    pub(super) async fn find<T: Send + 'static>(
        &self,
        name: String,
        then: impl FnOnce(&Devices, &NodeSubject, &str) -> Seen<T> + Send + 'static,
    ) -> Result<T> {
        let missing = missing(&name);
        let found = self.look(move |devices| match devices.find(&name)? {
            Some(found) => unless_gone(then(devices, &found, &name)),
            None => Ok(None),
        });
        found.await?.ok_or(missing)
    }

    /// Looks at the host, on a thread that may wait for it.
    async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&Devices) -> Seen<T> + Send + 'static,
    ) -> Result<T> {
        let devices = self.devices();
        let seen = blocking(Domain::NodeDevice, move || at(&devices)).await?;
        seen.map_err(fault::host(Domain::NodeDevice))
    }

    pub(super) fn devices(&self) -> Devices {
        Devices {
            host: Arc::clone(&self.host),
            uuid: self.node.uuid.as_deref().and_then(|uuid| uuid.parse().ok()),
        }
    }
}

/// There is none of that name.
pub(super) fn missing(name: &str) -> Error {
    let detail = format!("no node device with matching name '{name}'");
    Error::new(Code::NoNodeDevice, Domain::NodeDevice, detail)
}

/// Which devices a listing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceFilter {
    system: bool,
    pci: bool,
    net: bool,
    usb_devices: bool,
    usb_interfaces: bool,
}

impl DeviceFilter {
    /// By the flags of libvirt's `virConnectListAllNodeDevices`. In each group of flags no flag at
    /// all asks for everything. All devices here are active, and none is one that was defined.
    pub(super) fn from_flags(flags: ListNodeDevices) -> Self {
        type Flags = ListNodeDevices;
        let passes = |group, flag| !flags.intersects(group) || flags.contains(flag);
        let any = passes(Flags::ACTIVE | Flags::INACTIVE, Flags::ACTIVE)
            && passes(Flags::PERSISTENT | Flags::TRANSIENT, Flags::TRANSIENT);
        let kind = |flag| any && passes(Flags::CAPABILITIES, flag);
        Self {
            system: kind(Flags::SYSTEM),
            pci: kind(Flags::PCI_DEV),
            net: kind(Flags::NET),
            usb_devices: kind(Flags::USB_DEV),
            usb_interfaces: kind(Flags::USB_INTERFACE),
        }
    }
}

/// A device that is there.
#[derive(Debug)]
pub(super) enum NodeSubject {
    /// The host itself.
    Computer,
    /// A PCI function.
    Pci(PciDevice),
    /// A network device.
    Net(host::Netdev),
    /// A USB device, or an interface of one, by the kernel's name.
    Usb(String),
}

impl NodeSubject {
    /// By the word that clients filter by.
    fn capability(&self) -> &'static str {
        match self {
            Self::Computer => "system",
            Self::Pci(_) => "pci",
            Self::Net(_) => "net",
            Self::Usb(name) if name.contains(':') => "usb",
            Self::Usb(_) => "usb_device",
        }
    }
}

/// The host's devices; each method waits for the kernel.
pub(super) struct Devices {
    pub(super) host: SharedHost,
    /// The host's identity.
    pub(super) uuid: Option<Uuid>,
}

impl Devices {
    /// The names of the wanted devices: the host, PCI functions, network devices, USB. Each kind is
    /// read in one go.
    pub(super) fn names(&self, wanted: DeviceFilter) -> Seen<Vec<String>> {
        let mut names = Vec::new();
        if wanted.system {
            names.push(NodeDevice::COMPUTER.to_owned());
        }
        if wanted.pci {
            let functions = self.host.pci_functions()?.into_iter();
            names.extend(functions.map(PciAddress::node_device_name));
        }
        if wanted.net {
            names.extend(self.host.netdevs()?.iter().map(node_name));
        }
        if wanted.usb_devices || wanted.usb_interfaces {
            let usb = self.host.usb_names()?.into_iter();
            let usb = usb.filter(|name| match name.contains(':') {
                true => wanted.usb_interfaces,
                false => wanted.usb_devices,
            });
            names.extend(usb.map(|name| usb_node_name(&name)));
        }
        Ok(names)
    }

    pub(super) fn find(&self, name: &str) -> Seen<Option<NodeSubject>> {
        if name == NodeDevice::COMPUTER {
            return Ok(Some(NodeSubject::Computer));
        }
        if name.starts_with("net_") {
            return Ok(self.find_netdev(name)?.map(NodeSubject::Net));
        }
        if name.starts_with("usb_") {
            let all = self.host.usb_names()?.into_iter();
            let found = { all }.find(|usb| usb_node_name(usb) == name);
            return Ok(found.map(NodeSubject::Usb));
        }
        let Some(address) = pci_address(name) else {
            return Ok(None);
        };
        let device = unless_gone(self.host.pci_device(address))?;
        Ok(device.map(NodeSubject::Pci))
    }

    fn find_netdev(&self, name: &str) -> Seen<Option<host::Netdev>> {
        const MAC: usize = "_52_54_00_00_00_01".len();
        let rest = name.strip_prefix("net_").unwrap_or_default();
        let interface = rest.len().checked_sub(MAC).and_then(|end| rest.get(..end));
        let Some(interface) = interface else {
            return Ok(None);
        };
        let is_it = |link: &host::Netdev| node_name(link) == name;
        // Nearly always the name says where to look; but a `_` may stand for another character.
        let named = unless_gone(self.host.netdev(interface))?.filter(is_it);
        Ok(match named {
            None if interface.contains('_') => self.host.netdevs()?.into_iter().find(is_it),
            named => named,
        })
    }

    /// The name of the device that this one is on.
    pub(super) fn parent(&self, found: &NodeSubject) -> Seen<Option<String>> {
        let place = match found {
            NodeSubject::Computer => return Ok(None),
            NodeSubject::Pci(device) => self.host.pci_place(device.address)?,
            NodeSubject::Net(netdev) => self.host.netdev_place(netdev.name.as_str())?,
            NodeSubject::Usb(name) => self.host.usb_place(name)?,
        };
        Ok(Some(parent_name(&place.parent)))
    }
}

/// The name among node devices of what a device is on.
pub(super) fn parent_name(parent: &NodeParent) -> String {
    match parent {
        NodeParent::Computer => NodeDevice::COMPUTER.to_owned(),
        NodeParent::Pci(address) => address.node_device_name(),
        NodeParent::Usb(name) => usb_node_name(name),
    }
}

/// A network device's name among node devices.
pub(super) fn node_name(link: &host::Netdev) -> String {
    net_device_name(link.name.as_str(), link.mac)
}

/// A USB device's.
pub(super) fn usb_node_name(name: &str) -> String {
    node_device_name("usb", name, None)
}

/// None for a device that is not there, or not there any more, or not of that kind.
pub(super) fn unless_gone<T>(outcome: Seen<T>) -> Seen<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(
            HostError::NoPciDevice(_)
            | HostError::NoNetdev(_)
            | HostError::NoUsbDevice(_)
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
pub(super) fn pci_address(name: &str) -> Option<PciAddress> {
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
