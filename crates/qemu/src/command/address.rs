//! Where a device sits in the guest.

use conf::{Controller, DeviceInfo, GuestAddress};

use super::json::Object;
use super::{Builder, Problem};

impl Builder<'_> {
    /// `bus`, `multifunction`, `addr`, `acpi-index` of a PCI device.
    pub(super) fn pci_address(&self, info: &DeviceInfo, alias: &str) -> Result<Object, Problem> {
        pci_address(&self.domain.devices.controllers, info, alias)
    }

    pub(super) fn usb_address(&self, info: &DeviceInfo, alias: &str) -> Result<Object, Problem> {
        usb_address(&self.domain.devices.controllers, info, alias)
    }

    pub(super) fn controllers_of(&self, kind: &str) -> impl Iterator<Item = &Controller> {
        let controllers = self.domain.devices.controllers.iter();
        controllers.filter(move |c| c.kind == kind)
    }
}

/// Whether it is a UHCI that serves an EHCI's slow ports, and has no bus of its own.
pub(super) fn is_usb_companion(controller: &Controller) -> bool {
    companion_port(controller).is_some()
}

/// The first of the EHCI's ports that the companion serves: two each.
pub(super) fn companion_port(controller: &Controller) -> Option<u32> {
    match controller.model.as_deref()? {
        "ich9-uhci1" => Some(0),
        "ich9-uhci2" => Some(2),
        "ich9-uhci3" => Some(4),
        _ => None,
    }
}

/// `bus` and `port` of a USB device. Without a place it gets a free port of the first bus, which QEMU
/// finds.
pub(super) fn usb_address(
    controllers: &[Controller],
    info: &DeviceInfo,
    alias: &str,
) -> Result<Object, Problem> {
    let (bus, port) = match &info.address {
        Some(GuestAddress::Usb { bus, port }) => (*bus, port.as_deref()),
        None => (0, None),
        Some(_) => return Err(Problem::NoAddress(alias.to_owned())),
    };
    let master = controllers
        .iter()
        .find(|c| c.kind == "usb" && c.index == bus && !is_usb_companion(c))
        .and_then(|c| c.info.alias.as_deref())
        .ok_or_else(|| Problem::NoController {
            device: alias.to_owned(),
            bus: format!("USB controller {bus}"),
        })?;
    Ok(Object::new()
        .with("bus", format!("{master}.0"))
        .maybe("port", port))
}

pub(super) fn pci_address(
    controllers: &[Controller],
    info: &DeviceInfo,
    alias: &str,
) -> Result<Object, Problem> {
    let Some(GuestAddress::Pci {
        address,
        multifunction,
    }) = &info.address
    else {
        return Err(Problem::NoAddress(alias.to_owned()));
    };
    let index = u32::from(address.bus());
    let bus = controllers
        .iter()
        .find(|c| c.kind == "pci" && c.index == index)
        .and_then(bus_name)
        .ok_or_else(|| Problem::NoController {
            device: alias.to_owned(),
            bus: format!("PCI controller {index}"),
        })?;
    let addr = match address.function() {
        0 => format!("{:#x}", address.slot()),
        function => format!("{:#x}.{function:#x}", address.slot()),
    };
    Ok(Object::new()
        .with("bus", bus)
        .maybe("multifunction", multifunction.filter(|&on| on))
        .with("addr", addr)
        .maybe("acpi-index", info.acpi_index))
}

/// What QEMU calls the bus behind a PCI controller. The roots have names of QEMU's own.
fn bus_name(controller: &Controller) -> Option<String> {
    match controller.model.as_deref() {
        Some("pci-root") => Some("pci.0".to_owned()),
        Some("pcie-root") => Some("pcie.0".to_owned()),
        _ => controller.info.alias.clone(),
    }
}
