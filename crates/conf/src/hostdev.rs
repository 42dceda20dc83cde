//! Host devices given to a guest: `<hostdev>`, and the inside of `<interface type='hostdev'>`.

use serde::{Deserialize, Serialize};

use crate::{DeviceInfo, PciAddress, Teaming, xml::RawXml};

/// `<driver>` of a host device or of a `hostdev` network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDriver {
    /// The backend.
    pub backend: Option<HostBackend>,
    /// A host kernel driver's name, for a vfio variant driver.
    pub model: Option<String>,
}

/// `driver/@name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostBackend {
    /// The only one that QEMU has today.
    Vfio,
    /// Gone from QEMU; refused when used.
    Kvm,
    /// Xen's; refused when used.
    Xen,
}

/// A device of the host, by whatever the document calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSource {
    /// A PCI function.
    Pci(PciAddress),
    /// A USB device.
    Usb(UsbSource),
    /// The device behind a network device's name, looked up when it is used (seed form, ours).
    NetDevice(String),
}

/// How a USB device is named: ids, place, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbSource {
    /// Vendor and product.
    pub ids: Option<(u16, u16)>,
    /// Bus and device.
    pub place: Option<(u32, u32)>,
    /// `startupPolicy`.
    pub startup_policy: Option<String>,
    /// `guestReset`.
    pub guest_reset: Option<String>,
}

/// `<hostdev mode='subsystem'>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Bound and given back by us.
    pub managed: bool,
    /// How it is bound (PCI).
    pub driver: Option<HostDriver>,
    /// Which device.
    pub source: HostSource,
    /// Its part in a failover pair.
    pub teaming: Option<Teaming>,
    /// Alias, guest address, boot order, rom.
    pub info: DeviceInfo,
    /// Children and attributes that are kept and not used, each by name.
    pub unused: Vec<RawXml>,
}
