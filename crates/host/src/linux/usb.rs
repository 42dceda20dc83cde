//! USB devices of the real kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use conf::UsbAddress;

use super::LinuxHost;
use super::access;
use super::sysfs::{Reading, inventory};
use crate::{HostError, NodeAccess, Operation, Usb, UsbDevice, UsbInterface};

/// USB's class of hubs.
const CLASS_HUB: u8 = 9;
/// Interfaces that are looked at: a device has 32 at most (`USB_MAXINTERFACES`).
const MOST_INTERFACES: usize = 32;
/// Entries of the list of devices and interfaces that are looked at.
const MOST_ENTRIES: usize = 65_536;

impl Usb for LinuxHost {
    fn usb_devices(&self) -> Result<Vec<UsbDevice>, HostError> {
        let reading = inventory("the USB devices");
        let entries = match fs::read_dir(self.usb_list()) {
            Ok(entries) => entries,
            // A kernel without USB.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(reading.refused(error)),
        };
        let mut devices = Vec::new();
        for entry in entries.take(MOST_ENTRIES) {
            let entry = entry.map_err(|error| reading.refused(error))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Interfaces are among them, and each bus' own hub.
            if name.contains(':') || name.starts_with("usb") {
                continue;
            }
            match self.read_usb(&name) {
                Ok(device) => devices.extend(device),
                // One that nobody could name keeps no other back.
                Err(error @ HostError::Malformed { .. }) => {
                    tracing::warn!(name, %error, "passed over");
                }
                Err(error) => return Err(error),
            }
        }
        devices.sort_by_key(|device| device.address);
        Ok(devices)
    }

    fn usb_device(&self, address: UsbAddress) -> Result<UsbDevice, HostError> {
        let found = self.read_usb(&name_of(address))?;
        let found = found.filter(|device| device.address == address);
        found.ok_or_else(|| HostError::NoUsbDevice(address.to_string()))
    }

    fn usb_access(&self, address: UsbAddress) -> Result<NodeAccess, HostError> {
        access::read(&self.usb_node(address))
            .map_err(|source| self.refused_usb(Operation::ReadInventory, address, source))
    }

    fn set_usb_access(&self, address: UsbAddress, access: NodeAccess) -> Result<(), HostError> {
        access::set(&self.usb_node(address), access)
            .map_err(|source| self.refused_usb(Operation::GrantUsb, address, source))
    }

    fn probe_usb(&self, address: UsbAddress) -> Result<(), HostError> {
        let target = address.to_string();
        let writing = Reading {
            operation: Operation::ProbeUsb,
            target: &target,
        };
        let probe = self.paths.sysfs.join("bus/usb/drivers_probe");
        for interface in self.usb_device(address)?.interfaces {
            if interface.driver.is_none() {
                writing.write(&probe, &interface.name)?;
            }
        }
        Ok(())
    }
}

impl LinuxHost {
    fn usb_list(&self) -> PathBuf {
        self.paths.sysfs.join("bus/usb/devices")
    }

    fn usb_node(&self, address: UsbAddress) -> PathBuf {
        let (bus, device) = (address.bus(), address.device());
        (self.paths.dev).join(format!("bus/usb/{bus:03}/{device:03}"))
    }

    fn refused_usb(
        &self,
        operation: Operation,
        address: UsbAddress,
        source: io::Error,
    ) -> HostError {
        if source.kind() == io::ErrorKind::NotFound {
            return HostError::NoUsbDevice(address.to_string());
        }
        HostError::Kernel {
            operation,
            target: format!("{address} ({})", self.usb_node(address).display()),
            source,
        }
    }

    /// The device of that name in sysfs, if it is there.
    fn read_usb(&self, name: &str) -> Result<Option<UsbDevice>, HostError> {
        let directory = self.usb_list().join(name);
        let reading = inventory(name);
        let number = |file: &str| reading.number::<u16>(&directory.join(file));
        let (Some(bus), Some(device)) = (number("busnum")?, number("devnum")?) else {
            return Ok(None);
        };
        let devpath = reading.text(&directory.join("devpath"))?;
        let hex = |file: &str, what: &str| -> Result<u16, HostError> {
            let text = reading.text(&directory.join(file))?.unwrap_or_default();
            u16::from_str_radix(&text, 16).map_err(|_| HostError::Malformed {
                target: name.to_owned(),
                what: format!(
                    "its {what} is '{}'",
                    text.chars().take(16).collect::<String>()
                ),
            })
        };
        let address = u8::try_from(device).ok().zip(devpath);
        let address = address.and_then(|(device, devpath)| UsbAddress::new(bus, device, &devpath));
        let Some(address) = address else {
            return Err(HostError::Malformed {
                target: name.to_owned(),
                what: String::from("where it is plugged in makes no sense"),
            });
        };
        Ok(Some(UsbDevice {
            address,
            vendor: hex("idVendor", "vendor")?,
            product: hex("idProduct", "product")?,
            is_hub: hex("bDeviceClass", "class")? == u16::from(CLASS_HUB),
            interfaces: interfaces(reading, &directory, name)?,
        }))
    }
}

fn interfaces(
    reading: Reading<'_>,
    directory: &Path,
    device: &str,
) -> Result<Vec<UsbInterface>, HostError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(reading.refused(error)),
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_interface = name.strip_prefix(device)?.starts_with(':');
        is_interface.then_some(name)
    });
    let mut interfaces: Vec<_> = names
        .take(MOST_INTERFACES)
        .map(|name| {
            let driver = fs::read_link(directory.join(&name).join("driver")).ok();
            let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
            UsbInterface { name, driver }
        })
        .collect();
    interfaces.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(interfaces)
}

/// As sysfs calls it: `1-1.4`.
fn name_of(address: UsbAddress) -> String {
    format!("{}-{}", address.bus(), address.devpath())
}
