//! USB devices of the host.

use conf::UsbAddress;
use serde::{Deserialize, Serialize};

use crate::HostError;

/// What virtnic asks of a host's USB devices. Part of [`crate::Host`], and like it.
pub trait Usb: Send + Sync + 'static {
    /// All USB devices, hubs too (a bus' own apart), by address. Costs a walk over sysfs.
    fn usb_devices(&self) -> Result<Vec<UsbDevice>, HostError>;

    /// The device of that address; [`HostError::NoUsbDevice`] also where its port has another one now, or the
    /// same one under another number.
    fn usb_device(&self, address: UsbAddress) -> Result<UsbDevice, HostError>;

    /// Who may open the device's node, `/dev/bus/usb/BUS/DEVICE`.
    fn usb_access(&self, address: UsbAddress) -> Result<NodeAccess, HostError>;

    /// Sets that.
    fn set_usb_access(&self, address: UsbAddress, access: NodeAccess) -> Result<(), HostError>;

    /// Lets the kernel's drivers take those of the device's interfaces that none has, and returns
    /// when they have looked at them.
    fn probe_usb(&self, address: UsbAddress) -> Result<(), HostError>;
}

/// A USB device, as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbDevice {
    /// Where it is plugged in.
    pub address: UsbAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Product id.
    pub product: u16,
    /// Others are plugged into it (`bDeviceClass` 9).
    pub is_hub: bool,
    /// Its interfaces, by name.
    pub interfaces: Vec<UsbInterface>,
}

/// An interface of a USB device: what a driver takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbInterface {
    /// As sysfs calls it: `1-1.4:1.0`.
    pub name: String,
    /// The driver that has it; `usbfs` while a process does.
    pub driver: Option<String>,
}

/// Who may open a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAccess {
    /// Its owner's user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its permissions, the lower nine bits.
    pub mode: u32,
}

impl NodeAccess {
    /// Root alone, as the kernel makes nodes.
    pub const ROOT: Self = Self {
        uid: 0,
        gid: 0,
        mode: 0o600,
    };
}
