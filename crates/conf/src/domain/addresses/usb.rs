//! Ports on the guest's USB buses.

use std::collections::HashSet;

use super::order::DeviceRef;
use crate::domain::{Devices, Domain, GuestAddress};
use crate::{HostSource, InterfaceSource};

impl Domain {
    /// Gives every USB device without an address the first free port, as far as there are some;
    /// QEMU finds places for the rest. libvirt does this for new definitions.
    pub fn assign_usb_addresses(&mut self) {
        let mut free = free_ports(&self.devices);
        let mut taken_ports = HashSet::new();
        for device in usb_devices(&self.devices) {
            let taken = device.info(&self.devices).map(|info| info.address.clone());
            if let Some(Some(GuestAddress::Usb {
                bus,
                port: Some(port),
            })) = taken
            {
                taken_ports.insert((bus, port));
            }
        }
        free.retain(|&(bus, port)| !taken_ports.contains(&(bus, port.to_string())));
        let mut free = free.into_iter();
        for device in usb_devices(&self.devices) {
            if let Some(info) = device.info_mut(&mut self.devices)
                && info.address.is_none()
                && let Some((bus, port)) = free.next()
            {
                let port = Some(port.to_string());
                info.address = Some(GuestAddress::Usb { bus, port });
            }
        }
    }
}

/// Bus and port number of every port of every controller.
fn free_ports(devices: &Devices) -> Vec<(u32, u32)> {
    let mut controllers: Vec<_> = devices.controllers.iter().collect();
    controllers.retain(|controller| controller.kind == "usb");
    controllers.sort_by_key(|controller| controller.index);
    let mut ports = Vec::new();
    for controller in controllers {
        let given = controller.unused.attribute("ports");
        let count = match controller.model.as_deref() {
            Some("piix3-uhci" | "piix4-uhci" | "vt82c686b-uhci") => 2,
            Some("ehci" | "ich9-ehci1") => 6,
            Some("nec-xhci" | "qemu-xhci") => given.and_then(|n| n.parse().ok()).unwrap_or(4),
            _ => 0,
        };
        // No controller of QEMU has more than 15.
        ports.extend((1..=count.min(15)).map(|port| (controller.index, port)));
    }
    ports
}

/// All devices on USB buses, in the order in which libvirt places them.
fn usb_devices(devices: &Devices) -> Vec<DeviceRef> {
    let others = |name: &'static str, usb: fn(&crate::OtherDevice) -> bool| {
        let all = devices.others.iter().enumerate();
        all.filter(move |(_, other)| other.name == name && usb(other))
            .map(|(i, _)| DeviceRef::Other(i))
    };
    let mut order: Vec<_> = others("hub", |_| true).collect();
    let interfaces = devices.interfaces.iter().enumerate();
    order.extend(
        interfaces
            .filter(|(_, interface)| {
                let source = &interface.source;
                matches!(
                    source,
                    InterfaceSource::Hostdev {
                        source: HostSource::Usb(_),
                        ..
                    }
                )
            })
            .map(|(i, _)| DeviceRef::Interface(i)),
    );
    let disks = devices.disks.iter().enumerate();
    order.extend(
        disks
            .filter(|(_, disk)| disk.bus == "usb")
            .map(|(i, _)| DeviceRef::Disk(i)),
    );
    let hostdevs = devices.hostdevs.iter().enumerate();
    order.extend(
        hostdevs
            .filter(|(_, hostdev)| matches!(hostdev.source, HostSource::Usb(_)))
            .map(|(i, _)| DeviceRef::Hostdev(i)),
    );
    order.extend(others("input", |input| {
        input.attribute("bus") == Some("usb")
    }));
    order.extend(others("sound", |sound| {
        sound.attribute("model") == Some("usb")
    }));
    order.extend(others("redirdev", |_| true));
    order
}
